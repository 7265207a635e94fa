"""Bodies about attachments."""

from __future__ import annotations

from volsvc.api import microversions as mv
from volsvc.api.schemas import types as t

_CREATE = {
    "volume_uuid": t.UUID,
    "instance_uuid": t.NULLABLE_UUID,
    "connector": {"type": ["object", "null"]},
}
CREATE = (
    (mv.ATTACHMENTS, t.wrapped("attachment", t.fields(_CREATE, required=("volume_uuid",)))),
    (
        mv.ATTACH_MODE,
        t.wrapped("attachment", t.fields({**_CREATE, "mode": {"enum": ["rw", "ro", None]}}, required=("volume_uuid",))),
    ),
)
UPDATE = (
    (
        mv.ATTACHMENTS,
        t.wrapped(
            "attachment", t.fields({"connector": {"type": "object", "minProperties": 1}}, required=("connector",))
        ),
    ),
)
COMPLETE = ((mv.COMPLETE_ATTACHMENT, t.action_without_arguments("os-complete")),)
