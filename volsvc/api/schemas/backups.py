"""Bodies about backups."""

from __future__ import annotations

from volsvc.api import microversions as mv
from volsvc.api.schemas import types as t

_NAMES = {"name": t.NAME, "description": t.DESCRIPTION}
_CREATE = {
    **_NAMES,
    "volume_id": t.UUID,
    # A label here, so that it must not look like a path to whoever reads it.
    "container": {**t.NULLABLE_TEXT, "pattern": r"^[^/\x00-\x1f\x7f]*$"},
    "incremental": t.BOOLEAN,
    "force": t.BOOLEAN,
    "snapshot_id": t.NULLABLE_UUID,
}
_CREATE_WITH_METADATA = {**_CREATE, "metadata": t.NULLABLE_METADATA}

CREATE = (
    (mv.MIN, t.wrapped("backup", t.fields(_CREATE, required=("volume_id",)))),
    (mv.BACKUP_METADATA, t.wrapped("backup", t.fields(_CREATE_WITH_METADATA, required=("volume_id",)))),
    (
        mv.BACKUP_ZONE,
        t.wrapped(
            "backup",
            t.fields({**_CREATE_WITH_METADATA, "availability_zone": t.NULLABLE_TEXT}, required=("volume_id",)),
        ),
    ),
)
UPDATE = (
    (mv.BACKUP_UPDATE, t.wrapped("backup", t.fields(_NAMES))),
    (mv.BACKUP_METADATA, t.wrapped("backup", t.fields({**_NAMES, "metadata": t.METADATA}))),
)
_RESTORE = {**t.fields({"name": t.NAME, "volume_id": t.NULLABLE_UUID}), "type": ["object", "null"]}
RESTORE = ((mv.MIN, t.wrapped("restore", _RESTORE)),)
IMPORT = (
    (
        mv.MIN,
        t.wrapped(
            "backup-record",
            t.fields(
                {
                    "backup_service": {**t.TEXT, "minLength": 0},
                    "backup_url": {"type": "string", "minLength": 1},
                },
                required=("backup_service", "backup_url"),
            ),
        ),
    ),
)
FORCE_DELETE = ((mv.MIN, t.action_without_arguments("os-force_delete")),)
