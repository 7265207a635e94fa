"""Bodies about volumes and their metadata."""

from __future__ import annotations

from volsvc.api import microversions as mv
from volsvc.api.schemas import types as t

_NAMES = {
    "name": t.NAME,
    "description": t.DESCRIPTION,
    "display_name": t.NAME,
    "display_description": t.DESCRIPTION,
}
_CREATE = {
    **_NAMES,
    "size": t.NULLABLE_SIZE_GB,
    "volume_type": t.NAME,
    "metadata": t.NULLABLE_METADATA,
    "snapshot_id": t.NULLABLE_UUID,
    "source_volid": t.NULLABLE_UUID,
    "availability_zone": {**t.NULLABLE_TEXT, "minLength": 1},
    "multiattach": t.NULLABLE_BOOLEAN,
    "consistencygroup_id": t.NULLABLE_UUID,
    "image_id": t.NULLABLE_TEXT,
    "imageRef": t.NULLABLE_TEXT,
}
# Of later versions, or never had; the handler refuses them when they name something.
_LATER: dict[str, t.Schema] = {"group_id": t.NULLABLE_TEXT, "backup_id": t.NULLABLE_UUID}
# Clients send these, mostly as null, whatever the version, and Cinder ignores them before 3.53.
_IGNORED: dict[str, t.Schema] = {
    name: {} for name in ("user_id", "project_id", "status", "attach_status", "source_replica")
}
_HINTS = {"OS-SCH-HNT:scheduler_hints": {"type": ["object", "null"]}}

CREATE = (
    (mv.MIN, t.wrapped("volume", t.fields({**_CREATE, **_LATER, **_IGNORED}), **_HINTS)),
    (mv.STRICT_VOLUME_BODIES, t.wrapped("volume", t.fields({**_CREATE, **_LATER}), **_HINTS)),
)

_UPDATE = {**_NAMES, "metadata": t.METADATA}
UPDATE = (
    (mv.MIN, t.wrapped("volume", t.fields(_UPDATE))),
    (mv.STRICT_VOLUME_BODIES, t.wrapped("volume", t.fields(_UPDATE, **t.any_of(*_UPDATE)))),
)

METADATA = ((mv.MIN, t.wrapped("metadata", t.METADATA)),)
METADATA_ITEM = ((mv.MIN, t.wrapped("meta", t.ONE_METADATA_ITEM)),)

EXTEND = ((mv.MIN, t.wrapped("os-extend", t.fields({"new_size": t.SIZE_GB}, required=("new_size",)))),)
SET_BOOTABLE = ((mv.MIN, t.wrapped("os-set_bootable", t.fields({"bootable": t.BOOLEAN}, required=("bootable",)))),)
FORCE_DELETE = ((mv.MIN, t.action_without_arguments("os-force_delete")),)
