"""Bodies about volume types and their extra specs."""

from __future__ import annotations

from volsvc.api import microversions as mv
from volsvc.api.schemas import types as t

CREATE = (
    (
        mv.MIN,
        t.wrapped(
            "volume_type",
            t.fields(
                {
                    "name": t.REQUIRED_NAME,
                    "description": t.DESCRIPTION,
                    "extra_specs": t.EXTRA_SPECS_OF_NEW_TYPE,
                    "os-volume-type-access:is_public": t.BOOLEAN,
                },
                required=("name",),
            ),
        ),
    ),
)
_UPDATE = {
    "name": {**t.NAME, "minLength": 1},
    "description": t.DESCRIPTION,
    "is_public": t.BOOLEAN,
}
UPDATE = ((mv.MIN, t.wrapped("volume_type", t.fields(_UPDATE, **t.any_of(*_UPDATE)))),)

EXTRA_SPECS = ((mv.MIN, t.wrapped("extra_specs", t.EXTRA_SPECS)),)
ONE_EXTRA_SPEC = ((mv.MIN, t.ONE_EXTRA_SPEC),)
