"""What record, attachments and storage each say of a volume, and where they disagree.

The judgement is here, the asking elsewhere: ``Situation`` is what the records say at one instant,
``StorageView`` what the storage says, None when it was not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volsvc import models, resets
from volsvc.ports import Situation
from volsvc.states import (
    ATTACHMENT_DERIVED,
    AttachStatus,
    BackupStatus,
    SnapshotStatus,
    VolumeStatus,
    compute_volume_status,
)

# In these the storage may have the volume or not, and the record says so.
_MAY_BE_MISSING = frozenset(
    {VolumeStatus.CREATING, VolumeStatus.ERROR, VolumeStatus.DELETING, VolumeStatus.ERROR_DELETING}
)

_SNAPSHOT_MENDS: dict[str, str] = {
    SnapshotStatus.CREATING: SnapshotStatus.ERROR,
    SnapshotStatus.DELETING: SnapshotStatus.ERROR_DELETING,
}


def is_stuck(situation: Situation) -> bool:
    """Whether a status says that something goes on, or what attachments don't say, and nothing will change it."""
    if situation.open_operations:
        return False
    status = situation.resource.status
    if isinstance(situation.resource, models.Snapshot):
        return status in resets.SNAPSHOT_GOING_ON
    if isinstance(situation.resource, models.Backup):
        return status in resets.BACKUP_GOING_ON
    if status in resets.GOING_ON or any(is_attachment_stuck(a) for a in situation.attachments):
        return True
    return status in ATTACHMENT_DERIVED and status != compute_volume_status(a.status for a in situation.attachments)


def is_attachment_stuck(attachment: models.Attachment) -> bool:
    """One that has a connection and is 'attaching' isn't: its client has only not said that it connected."""
    if attachment.status == AttachStatus.ATTACHING:
        return not attachment.connection_info
    return attachment.status == AttachStatus.DETACHING


def mend_of(situation: Situation) -> str:
    """The status to reset a stuck resource to, so that it can be used or deleted again."""
    status = situation.resource.status
    if isinstance(situation.resource, models.Snapshot):
        # Of the others the storage says whether they are there.
        return _SNAPSHOT_MENDS.get(status, SnapshotStatus.AVAILABLE)
    if isinstance(situation.resource, models.Backup):
        return BackupStatus.AVAILABLE if status == BackupStatus.RESTORING else BackupStatus.ERROR
    if status == VolumeStatus.CREATING:
        return VolumeStatus.ERROR
    if status == VolumeStatus.DELETING:
        return VolumeStatus.ERROR_DELETING
    if status == VolumeStatus.RESTORING_BACKUP:
        return VolumeStatus.ERROR
    is_used = any(a.status == AttachStatus.ATTACHED and a.connection_info for a in situation.attachments)
    return VolumeStatus.IN_USE if is_used else VolumeStatus.AVAILABLE


def disagreements(situation: Situation, view: models.StorageView | None) -> list[str]:
    """Each in one sentence; empty when record, attachments and storage agree.

    While an operation is open on the volume, what it is about to change is not held against anybody.
    """
    volume = situation.resource
    if not isinstance(volume, models.Volume) or situation.open_operations:
        return []
    found = []
    if is_stuck(situation):
        found.append(
            f"the record says {volume.status!r} and no operation is open that would change it; "
            f"reset it to {mend_of(situation)!r}"
        )
    if view is not None:
        found.extend(_against_storage(situation, volume, view))
    return found


def _against_storage(situation: Situation, volume: models.Volume, view: models.StorageView) -> list[str]:
    found = []
    if not view.exists:
        if volume.status not in _MAY_BE_MISSING:
            found.append("the storage has no such volume; reset it to 'error', then delete it")
    elif view.size_bytes is not None and view.size_bytes != volume.size_bytes and volume.status not in _MAY_BE_MISSING:
        what_now = (
            "look at the storage first, data may be lost"
            if view.size_bytes < volume.size_bytes
            else "a reset to 'available' writes what the storage says"
        )
        found.append(
            f"the record says {volume.size_gb} GiB, the storage {view.size_bytes / models.GIB:g} GiB; {what_now}"
        )
    recorded = {attachment.id for attachment in situation.attachments}
    missing = sorted({a.id for a in situation.attachments if a.needs_export} - set(view.exports))
    extra = sorted(set(view.exports) - recorded)
    if missing:
        found.append(
            f"the storage does not serve the attachment {', '.join(missing)}; reset to 'in-use' to connect it again, "
            "or to 'available' to give it up"
        )
    if extra:
        found.append(
            f"the storage serves the attachment {', '.join(extra)}, which no record knows; "
            "a reset to 'available' severs it"
        )
    if view.clients and not recorded:
        found.append(
            f"{', '.join(view.clients)} is connected and the record has no attachment; reset to 'available' severs it"
        )
    return found


def report(situation: Situation, view: models.StorageView | None, storage_error: str | None = None) -> dict[str, Any]:
    """Everything of an inspection as JSON; what a client said of itself is reduced to its host and address."""
    volume = situation.resource
    return {
        "volume": {
            "id": volume.id,
            "status": volume.status,
            "attach_status": getattr(volume, "attach_status", None),
            "migration_status": getattr(volume, "migration_status", None),
            "size_gb": volume.size_gb,
            "host": volume.host,
        },
        "attachments": [_attachment(attachment) for attachment in situation.attachments],
        "storage": None if view is None else view_as_json(view),
        "storage_error": storage_error,
        "open_operations": [
            {"id": operation.id, "action": operation.action, "state": operation.state}
            for operation in situation.open_operations
        ],
        "disagreements": disagreements(situation, view),
    }


def view_as_json(view: models.StorageView) -> dict[str, Any]:
    return {
        "exists": view.exists,
        "size_bytes": view.size_bytes,
        "is_exported": bool(view.exports),
        "exports": list(view.exports),
        "clients": None if view.clients is None else list(view.clients),
    }


def view_from_json(found: Mapping[str, Any] | None) -> models.StorageView | None:
    if not found:
        return None
    clients = found["clients"]
    return models.StorageView(
        exists=found["exists"],
        size_bytes=found["size_bytes"],
        exports=tuple(found["exports"]),
        clients=None if clients is None else tuple(clients),
    )


def _attachment(attachment: models.Attachment) -> dict[str, Any]:
    return {
        "id": attachment.id,
        "status": attachment.status,
        "host": attachment.attached_host,
        "ip": attachment.connector.get("ip"),
        "mode": attachment.attach_mode,
        "is_connected": attachment.needs_export,
    }


def outline(situation: Situation) -> tuple[object, ...]:
    """What must not change between a look and what follows from it."""
    return (
        situation.resource.status,
        sorted((a.id, a.status, bool(a.connection_info)) for a in situation.attachments),
        sorted(operation.id for operation in situation.open_operations),
    )
