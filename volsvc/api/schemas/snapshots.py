"""Bodies about snapshots."""

from __future__ import annotations

from volsvc.api import microversions as mv
from volsvc.api.schemas import types as t

_NAMES = {
    "name": t.NAME,
    "description": t.DESCRIPTION,
    "display_name": t.NAME,
    "display_description": t.DESCRIPTION,
}

CREATE = (
    (
        mv.MIN,
        t.wrapped(
            "snapshot",
            t.fields(
                {**_NAMES, "volume_id": t.UUID, "force": t.NULLABLE_BOOLEAN, "metadata": t.NULLABLE_METADATA},
                required=("volume_id",),
            ),
        ),
    ),
)
UPDATE = ((mv.MIN, t.wrapped("snapshot", t.fields(_NAMES, **t.any_of(*_NAMES)))),)
FORCE_DELETE = ((mv.MIN, t.action_without_arguments("os-force_delete")),)
