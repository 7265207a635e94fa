"""Records and short ways to bring a store into a wanted state, for the tests of stores and what uses them."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from volsvc import models
from volsvc.ports import Guards, Intent, Outcome, Store
from volsvc.states import TRANSITIONS

HOST = "host@backend"
BACKUP_HOST = "backup-host"
INSTANCE = "instance-1"
CONTEXT = models.RequestContext(user_id="user", project_id="project", request_id="req-1")


def new_id() -> str:
    return str(uuid.uuid4())


def utcnow() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


def volume_record(**fields: Any) -> models.Volume:
    given: dict[str, Any] = {
        "id": new_id(),
        "size_gb": 1,
        "status": "",
        "project_id": "project",
        "user_id": "user",
        "host": f"{HOST}#pool",
    }
    return models.Volume(**(given | fields))


def create_intent(volume: models.Volume, **fields: Any) -> Intent:
    """The recording of a new volume on the backend that its host names."""
    given: dict[str, Any] = {
        "action": "volume_create",
        "context": CONTEXT,
        "resource_id": volume.id,
        "host": models.backend_of(volume.host or HOST),
        "insert": volume,
    }
    return Intent(**(given | fields))


def snapshot_intent(volume: models.Volume, snapshot_id: str | None = None, **fields: Any) -> Intent:
    snapshot = models.Snapshot(
        id=snapshot_id or new_id(),
        volume_id=volume.id,
        size_gb=volume.size_gb,
        status="",
        project_id=volume.project_id,
        user_id=volume.user_id,
        host=volume.host,
        **fields,
    )
    return Intent("snapshot_create", CONTEXT, snapshot.id, second_id=volume.id, host=HOST, insert=snapshot)


def backup_intent(
    volume: models.Volume, action: str = "backup_create", second_id: str | None = None, **fields: Any
) -> Intent:
    """A new backup of a volume, or with ``backup_create_from_snapshot`` of the snapshot that is ``second_id``."""
    backup = models.Backup(
        id=new_id(),
        volume_id=volume.id,
        size_gb=volume.size_gb,
        status="",
        project_id=volume.project_id,
        user_id=volume.user_id,
        host=BACKUP_HOST,
        **fields,
    )
    return Intent(action, CONTEXT, backup.id, second_id=second_id, host=BACKUP_HOST, insert=backup)


def attach_intent(volume: models.Volume, action: str = "attachment_create", **fields: Any) -> Intent:
    """A new attachment, connected at once or with ``attachment_reserve`` only reserved."""
    attachment = models.Attachment(id=new_id(), volume_id=volume.id, status="", project_id=volume.project_id)
    given: dict[str, Any] = {
        "host": None if action == "attachment_reserve" else HOST,
        "guards": Guards(single_attachment=None if volume.is_multiattach else volume.id),
    }
    return Intent(action, CONTEXT, attachment.id, second_id=volume.id, insert=attachment, **(given | fields))


def intent(action: str, resource_id: str, **fields: Any) -> Intent:
    """An intent on a resource that exists; its second one, if any, is found by the store."""
    given: dict[str, Any] = {"host": None if TRANSITIONS[action].record_only else HOST}
    return Intent(action, CONTEXT, resource_id, **(given | fields))


def reinit_intent(host: str) -> Intent:
    """What is asked of a daemon instead of its backend."""
    return Intent("service_reinit", CONTEXT, host, host=f"control:{host}")


def submit(store: Store, *intents: Intent) -> models.Operation:
    """Record intents and return the last one's operation."""
    return store.submit(*intents)[-1]


def claim(store: Store, operation: models.Operation, instance: str = INSTANCE) -> models.Operation:
    claimed = store.claim(operation.id, instance)
    assert claimed is not None, f"{operation.action} can't be claimed"
    return claimed


def run(store: Store, operation: models.Operation, state: str = "done", **outcome: Any) -> models.Operation:
    """Claim an operation and end it."""
    return store.finish(claim(store, operation), Outcome(state, **outcome))


def do(store: Store, *intents: Intent, state: str = "done", **outcome: Any) -> models.Operation:
    """Record intents, run the last one unless the record is all there is."""
    operation = submit(store, *intents)
    return run(store, operation, state, **outcome) if operation.is_open else operation


def add_volume(store: Store, **fields: Any) -> models.Volume:
    """A volume that is available."""
    volume = volume_record(**fields)
    do(store, create_intent(volume))
    return store.get_volume(volume.id)


def add_snapshot(store: Store, volume: models.Volume, **fields: Any) -> models.Snapshot:
    """A snapshot that is available."""
    wanted = snapshot_intent(volume, **fields)
    do(store, wanted)
    return store.get_snapshot(wanted.resource_id)


def add_attachment(store: Store, volume: models.Volume) -> models.Attachment:
    """An attachment whose client has connected."""
    wanted = attach_intent(volume)
    do(store, wanted, first={"connection_info": {"driver_volume_type": "fake", "data": {}}})
    do(store, intent("attachment_complete", wanted.resource_id))
    return store.get_attachment(wanted.resource_id)


def add_backup(store: Store, volume: models.Volume, **fields: Any) -> models.Backup:
    """A backup that is available."""
    wanted = backup_intent(volume, second_id=volume.id)
    do(store, wanted, first={"is_stored": True, **fields})
    return store.get_backup(wanted.resource_id)
