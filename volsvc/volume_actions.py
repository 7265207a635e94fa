"""What each operation on volumes does to the storage.

One method for each action of the table in ``states.py``.  A method reads its records, calls
the driver, and returns the columns to write; statuses are the table's business.  Every method
may be run again after it was cut anywhere, because every driver method may.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable

from volsvc import exceptions as exc
from volsvc import models
from volsvc.block_access import BlockAccess
from volsvc.drivers.base import VolumeDriver
from volsvc.operations import OperationControl, Result
from volsvc.ports import Query, Store

LOG = logging.getLogger(__name__)

Action = Callable[[models.Operation, VolumeDriver, OperationControl], Result]


class VolumeActions:
    """The handlers of one backend; ``find`` maps an action's name to one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._table: dict[str, Action] = {
            "volume_create": self.create_volume,
            "volume_create_to_restore": self.create_volume,
            "volume_create_from_snapshot": self.create_volume_from_snapshot,
            "volume_clone": self.create_cloned_volume,
            "volume_delete": self.delete_volume,
            "volume_force_delete": self.delete_volume,
            "volume_extend": self.extend_volume,
            "volume_extend_attached": self.extend_volume,
            "snapshot_create": self.create_snapshot,
            "backup_snapshot_create": self.create_snapshot,
            "backup_snapshot_delete": self.delete_snapshot,
            "snapshot_delete": self.delete_snapshot,
            "snapshot_force_delete": self.delete_snapshot,
            "attachment_create": self.connect,
            "attachment_connect": self.connect,
            "attachment_disconnect": self.disconnect,
            **BlockAccess(store).actions,
        }

    def find(self, action: str) -> Action | None:
        return self._table.get(action)

    # -- volumes -----------------------------------------------------------------

    def create_volume(self, operation: models.Operation, driver: VolumeDriver, control: OperationControl) -> Result:
        volume = self._store.get_volume(operation.resource_id)
        return _created(driver.create_volume(volume))

    def create_volume_from_snapshot(
        self, operation: models.Operation, driver: VolumeDriver, control: OperationControl
    ) -> Result:
        volume = self._store.get_volume(operation.resource_id)
        snapshot = self._store.get_snapshot(operation.second_id or "")
        return _created(driver.create_volume_from_snapshot(volume, snapshot, control))

    def create_cloned_volume(
        self, operation: models.Operation, driver: VolumeDriver, control: OperationControl
    ) -> Result:
        volume = self._store.get_volume(operation.resource_id)
        source = self._store.get_volume(operation.second_id or "")
        return _created(driver.create_cloned_volume(volume, source, control))

    def delete_volume(self, operation: models.Operation, driver: VolumeDriver, control: OperationControl) -> Result:
        volume = self._store.get_volume(operation.resource_id)
        snapshots = self._store.list_snapshots(Query(filters={"volume_id": volume.id}, limit=1)).items
        if snapshots:
            raise exc.InvalidVolume(
                reason=f"volume {volume.id} still has snapshots, {snapshots[0].id} ({snapshots[0].status}) is one; "
                "delete them, then delete the volume again"
            )
        if self._store.attachments_of([volume.id]):
            raise exc.InvalidVolume(reason=f"volume {volume.id} is attached; detach it, then delete it again")
        driver.delete_volume(volume)
        return Result()

    def extend_volume(self, operation: models.Operation, driver: VolumeDriver, control: OperationControl) -> Result:
        volume = self._store.get_volume(operation.resource_id)
        new_size_gb = int(operation.args["new_size_gb"])
        driver.extend_volume(volume, new_size_gb)
        return Result(first={"size_gb": new_size_gb})

    # -- snapshots ----------------------------------------------------------------

    def create_snapshot(self, operation: models.Operation, driver: VolumeDriver, control: OperationControl) -> Result:
        snapshot = self._store.get_snapshot(operation.resource_id)
        volume = self._store.get_volume(snapshot.volume_id)
        provider = driver.create_snapshot(snapshot, volume, control)
        columns: dict[str, object] = {"progress": "100%"}
        if provider is not None:
            columns["provider"] = dict(provider)
        return Result(first=columns)

    def delete_snapshot(self, operation: models.Operation, driver: VolumeDriver, control: OperationControl) -> Result:
        driver.delete_snapshot(self._store.get_snapshot(operation.resource_id))
        return Result()

    # -- attachments ----------------------------------------------------------------

    def connect(self, operation: models.Operation, driver: VolumeDriver, control: OperationControl) -> Result:
        attachment = self._store.get_attachment(operation.resource_id)
        volume = self._store.get_volume(attachment.volume_id)
        try:
            connection_info = driver.initialize_connection(volume, attachment)
        except exc.BackendUnavailable:
            raise
        except Exception:
            # What may be half exported must not outlive a record that says it isn't; a
            # superseded handler leaves that to whoever holds the operation now.
            if control.is_current():
                self._undo_connect(driver, volume, attachment)
            raise
        return Result(first={"connection_info": dict(connection_info), "attached_at": _utcnow()})

    @staticmethod
    def _undo_connect(driver: VolumeDriver, volume: models.Volume, attachment: models.Attachment) -> None:
        try:
            driver.terminate_connection(volume, attachment)
        except Exception:
            LOG.exception("volume %s: undoing a failed connection failed too; the next start removes it", volume.id)

    def disconnect(self, operation: models.Operation, driver: VolumeDriver, control: OperationControl) -> Result:
        attachment = self._store.get_attachment(operation.resource_id)
        volume = self._store.get_volume(attachment.volume_id)
        driver.terminate_connection(volume, attachment)
        return Result()


def _created(provider: object) -> Result:
    columns: dict[str, object] = {"launched_at": _utcnow()}
    if isinstance(provider, dict):
        columns["provider"] = provider
    return Result(first=columns)


def _utcnow() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
