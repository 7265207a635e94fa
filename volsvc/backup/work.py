"""What the backup manager does for each action: the engine, between a volume and a store.

Each handler may be begun again after it was cut anywhere.  The record says before the store is
touched that the store may hold something; what an operation was lent (a temporary snapshot, a
connection) is given back at its end, whichever that is, but kept while it waits to go on.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.backup.drivers.base import BackupDriver
from volsvc.backup.events import BackupEvents, ReportingWork
from volsvc.backup.format.root import Root
from volsvc.backup.volumes import VolumeAccess
from volsvc.operations import OperationControl, Result
from volsvc.ports import Store

LOG = logging.getLogger(__name__)

Action = Callable[[models.Operation, BackupDriver, OperationControl], Result]

#: Pauses before a volume that can't be reached is tried again, seconds.
RETRY_PAUSES_S = (0.5, 2.0, 5.0, 10.0)
PAUSE_SLICE_S = 0.5  # of it, between two looks whether the daemon is to stop
_JOURNAL = "restore-"
#: These end nothing: the operation goes on later, or is another's already.
_GOES_ON = (exc.OperationInterrupted, exc.OperationSuperseded, exc.BackendUnavailable, exc.StoreUnavailable)


class BackupActions:
    """The handlers.  ``directory``: for journals, private."""

    def __init__(
        self,
        *,
        store: Store,
        volumes: VolumeAccess,
        events: BackupEvents,
        directory: str,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._volumes = volumes
        self._events = events
        self._directory = directory
        self._sleep = sleep
        self._table: dict[str, Action] = {
            "backup_create": self.create_backup,
            "backup_create_from_snapshot": self.create_backup,
            "backup_restore": self.restore_backup,
            "backup_restore_to_new": self.restore_backup,
            "backup_delete": self.delete_backup,
            "backup_force_delete": self.delete_backup,
            "backup_import": self.import_record,
        }

    def find(self, action: str) -> Action | None:
        return self._table.get(action)

    # -- create ----------------------------------------------------------------------------

    def create_backup(self, operation: models.Operation, driver: BackupDriver, control: OperationControl) -> Result:
        """Back up a volume or a snapshot; goes on where an attempt before was cut."""
        backup = self._store.get_backup(operation.resource_id)
        self._events.start("create", operation, backup)
        try:
            # Asked before anything is made or noted: a backup that meets a lost store has never been there.
            driver.check_identity()
            root = _find_root(driver, backup) or self._retrying(
                operation, control, lambda: self._read_volume(operation, driver, control, backup)
            )
        except _GOES_ON:
            raise
        except BaseException as error:
            self._give_up_creating(operation, driver, backup, error)
            raise
        columns = {**columns_of(root), "fail_reason": None, **self._give_back(operation)}
        self._events.end("create", operation, backup)
        return Result(first=columns)

    def _read_volume(
        self, operation: models.Operation, driver: BackupDriver, control: OperationControl, backup: models.Backup
    ) -> Root:
        from volsvc.backup.engine.create import CreateRequest, create_backup

        with self._volumes.source(operation, control) as source:
            taken_at = source.taken_at or _utcnow()
            noted = {
                "is_stored": True,
                "store_uuid": driver.identity,
                "service": driver.context.name,
                "data_timestamp": taken_at,
            }
            self._store.note(operation, noted)
            request = CreateRequest(backup.id, source.token, _described(backup, taken_at))
            work = ReportingWork("create", operation, backup, control, self._events)
            return create_backup(driver, request, source.blocks, work)

    def _give_up_creating(
        self, operation: models.Operation, driver: BackupDriver, backup: models.Backup, error: BaseException
    ) -> None:
        """Leave a record that says why, and nothing in the store: a full one must not stay full of this."""
        from volsvc.backup.engine.delete import delete_backup
        from volsvc.drivers.base import NoWork

        columns: dict[str, Any] = {"fail_reason": exc.describe(error)}
        # Under the claim: what another handler stores by now is not this one's to delete.
        self._store.note(operation, columns)
        if self._store.get_backup(backup.id).is_stored:
            try:
                delete_backup(driver, backup.id, NoWork())
                columns["is_stored"] = False
            except Exception:
                LOG.exception("backup %s: what is stored of it stays until it is deleted", backup.id)
        self._store.note(operation, {**columns, **self._give_back(operation)})
        self._events.error("create", operation, backup, error)

    def _give_back(self, operation: models.Operation) -> dict[str, Any]:
        """Give back what a backup was lent; what its record then says of that, so that a sweep finds what stays."""
        self._volumes.disconnect(operation)
        is_given_back = self._volumes.give_back_snapshot(self._store.get_backup(operation.resource_id))
        return {"temp_snapshot_id": None} if is_given_back else {}

    # -- restore ---------------------------------------------------------------------------

    def restore_backup(self, operation: models.Operation, driver: BackupDriver, control: OperationControl) -> Result:
        """Write a backup into a volume; goes on where an attempt before was cut."""
        from volsvc.backup.engine.restore import FileJournal

        backup = self._store.get_backup(operation.resource_id)
        journal = FileJournal(os.path.join(self._directory, f"{_JOURNAL}{operation.id}.json"), operation.id)
        self._events.start("restore", operation, backup)
        try:
            self._require_store(backup, driver)
            self._store.note(operation, {"restore_volume_id": operation.second_id})
            self._retrying(operation, control, lambda: self._write_volume(operation, driver, control, backup, journal))
        except _GOES_ON:
            raise
        except BaseException as error:
            self._store.note(operation, {"fail_reason": exc.describe(error)})
            self._volumes.disconnect(operation)
            journal.remove()
            self._events.error("restore", operation, backup, error)
            raise
        self._volumes.disconnect(operation)
        journal.remove()
        self._events.end("restore", operation, backup)
        return Result(first={"fail_reason": None})

    def _write_volume(
        self,
        operation: models.Operation,
        driver: BackupDriver,
        control: OperationControl,
        backup: models.Backup,
        journal: Any,
    ) -> None:
        from volsvc.backup.engine.restore import restore_backup

        is_new = operation.action == "backup_restore_to_new"
        if is_new and self._store.get_volume(operation.second_id or "").status == "error":
            raise exc.InvalidVolume(reason=f"the volume {operation.second_id} for this restore could not be created")
        with self._volumes.sink(operation, control) as sink:
            work = ReportingWork("restore", operation, backup, control, self._events)
            restore_backup(driver, backup.id, sink, work, is_blank=is_new, journal=journal)

    def remove_stale_journals(self) -> None:
        """Remove those of restores that have ended without their handler.  Repeatable; raises ``StoreUnavailable``."""
        for name in os.listdir(self._directory):
            if not name.startswith(_JOURNAL):
                continue
            operation_id = name.removeprefix(_JOURNAL).partition(".")[0]
            with contextlib.suppress(exc.OperationNotFound):
                if self._store.get_operation(operation_id).is_open:
                    continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._directory, name))

    # -- delete, import ------------------------------------------------------------------------

    def delete_backup(self, operation: models.Operation, driver: BackupDriver, control: OperationControl) -> Result:
        """Delete what the store holds of a backup, then its record."""
        from volsvc.backup.engine.delete import delete_backup

        try:
            backup = self._store.get_backup(operation.resource_id)
        except exc.BackupNotFound:
            return Result()  # a deletion that was asked for before this one has done it
        self._events.start("delete", operation, backup)
        try:
            self._volumes.give_back_snapshot(backup)
            if backup.is_stored:
                self._require_store(backup, driver)
                delete_backup(driver, backup.id, control)
        except _GOES_ON:
            raise
        except BaseException as error:
            self._store.note(operation, {"fail_reason": exc.describe(error)})
            self._events.error("delete", operation, backup, error)
            raise
        self._events.end("delete", operation, backup)
        return Result()

    def import_record(self, operation: models.Operation, driver: BackupDriver, control: OperationControl) -> Result:
        """Take a backup into the records that the store has; it must be whole."""
        from volsvc.backup.engine.verify import check_backup

        backup = self._store.get_backup(operation.resource_id)
        try:
            root = check_backup(driver, backup.id)
        except _GOES_ON:
            raise
        except BaseException as error:
            self._store.note(operation, {"fail_reason": exc.describe(error)})
            raise
        found = {"is_stored": True, "store_uuid": driver.identity, "service": driver.context.name}
        return Result(first={**columns_of(root), **found})

    # -- what they share -------------------------------------------------------------------------

    def _retrying(self, operation: models.Operation, control: OperationControl, run: Callable[[], Any]) -> Any:
        """Run; a volume that can't be reached for a moment is connected again and gone on with."""
        for pause_s in RETRY_PAUSES_S:
            try:
                return run()
            except exc.VolumeAccessError as error:
                LOG.warning("operation %s: connects again in %.1f s: %s", operation.id, pause_s, error)
            for _ in range(round(pause_s / PAUSE_SLICE_S)):
                self._sleep(PAUSE_SLICE_S)
                control.checkpoint(operation.progress_done, operation.progress_total)
        return run()

    @staticmethod
    def _require_store(backup: models.Backup, driver: BackupDriver) -> None:
        """A backup of another store is neither found here nor may it be called deleted."""
        if backup.store_uuid is not None and backup.store_uuid != driver.identity:
            raise exc.InvalidBackup(
                reason=f"backup {backup.id} is in the store {backup.store_uuid}, and this service has the store "
                f"{driver.identity} now; point its options at the other one, or use a service that has it"
            )


def _find_root(driver: BackupDriver, backup: models.Backup) -> Root | None:
    """The root of a backup that was whole when its daemon ended; then there is nothing left to read."""
    from volsvc.backup.engine.reading import load_root
    from volsvc.backup.format.hashing import PLAIN

    if not backup.is_stored:
        return None
    try:
        return load_root(driver, backup.id, PLAIN)
    except exc.BackupNotFound:
        return None


def columns_of(root: Root) -> dict[str, Any]:
    """What a backup's record says of what is stored."""
    return {
        "size_gb": math.ceil(root.volume_bytes / models.GIB),
        "object_count": len(root.packs) + 1,
        "stored_bytes": root.stored_bytes,
    }


def _described(backup: models.Backup, taken_at: dt.datetime) -> Mapping[str, Any]:
    """What the store keeps beside the blocks, so that a record can be made from it again."""
    return {
        "volume_id": backup.volume_id,
        "volume_name": backup.volume_name,
        "snapshot_id": backup.snapshot_id,
        "size_gb": backup.size_gb,
        "name": backup.name,
        "description": backup.description,
        "container": backup.container,
        "availability_zone": backup.availability_zone,
        "project_id": backup.project_id,
        "user_id": backup.user_id,
        "metadata": dict(backup.metadata),
        "data_timestamp": taken_at.isoformat(),
    }


def _utcnow() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
