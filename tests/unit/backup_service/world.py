"""A volume backend and a backup service in one process, on the real store, with fake storage behind both.

Managers come and go, as daemons do; the storage, the backup store and the database stay.
"""

from __future__ import annotations

import hashlib
import pathlib
import random
from typing import Any

import sqlalchemy as sa

from tests.unit.fake_backend import DEADLINE_S, Backend
from volsvc import models
from volsvc.backup.drivers.base import BackupDriver, BackupDriverContext
from volsvc.backup.drivers.fake import FakeBackupDriver, FakeObjects
from volsvc.backup.manager import BackupManager, BackupManagerSettings
from volsvc.db import schema
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.drivers import fake_store
from volsvc.drivers.fake_script import Script
from volsvc.operations import RunnerSettings
from volsvc.ports import Guards, Query
from volsvc.rpc.local_doorbell import LocalDoorbell
from volsvc.testing.daemon import wait_until
from volsvc.testing.notifier import RecordingNotifier
from volsvc.testing.snapshots import options_of
from volsvc.testing.stores import builders as b


class World:
    def __init__(self, path: pathlib.Path, store: SqlStore) -> None:
        self.store = store
        self.path = path
        self.doorbell = LocalDoorbell()
        self.backend = Backend(path, store)
        self.doorbell.register(b.HOST, self.backend.serve().runner)
        self.objects = FakeObjects()
        self.script = Script()
        self.notifier = RecordingNotifier()
        self.backup_managers: list[BackupManager] = []

    # -- the backup service -----------------------------------------------------------------

    def build(self) -> BackupDriver:
        """A blueprint's only method."""
        context = BackupDriverContext(
            host=b.BACKUP_HOST, options=options_of(FakeBackupDriver), state_path=str(self.path), name="fake"
        )
        return FakeBackupDriver(context, self.objects, self.script)

    def start(self, **settings: Any) -> BackupManager:
        given = {"publish_interval_s": 0.1, "runner": RunnerSettings(sweep_interval_s=0.05)}
        manager = BackupManager(
            host=b.BACKUP_HOST,
            instance=f"backup-{len(self.backup_managers)}",
            store=self.store,
            notifier=self.notifier,
            doorbell=self.doorbell,
            directory=str(self.path),
            load_blueprint=lambda: self,
            settings=BackupManagerSettings(**{**given, **settings}),
        )
        self.backup_managers.append(manager)
        self.doorbell.register(b.BACKUP_HOST, manager.runner)
        manager.start()
        return manager

    def serve(self, **settings: Any) -> BackupManager:
        manager = self.start(**settings)
        wait_until(lambda: self.service.is_up, "the backup service to be up", DEADLINE_S)
        return manager

    @property
    def service(self) -> models.Service:
        services = self.store.list_services()
        self.store.beat([service.id for service in services])
        return next(s for s in self.store.list_services() if s.binary == "cinder-backup")

    def close(self) -> None:
        self.script.clear()
        for manager in (*self.backup_managers, *self.backend.managers):
            manager.stop(2.0)

    # -- what users do ----------------------------------------------------------------------------

    def fill(self, volume: models.Volume, seed: int) -> None:
        """Write some random blocks to a volume, past every client."""
        rng = random.Random(seed)
        with self.storage.transaction() as state:
            file = state["files"][f"volume-{volume.id}"]
            for _ in range(20):
                at = rng.randrange(0, volume.size_bytes - 4096, 4096)
                fake_store.write_file(file, at, rng.randbytes(4096))

    def digest(self, volume_id: str) -> str:
        with self.storage.transaction() as state:
            file = state["files"][f"volume-{volume_id}"]
            blocks = {int(number): bytes.fromhex(data) for number, data in file["blocks"].items()}
        digest = hashlib.sha256()
        for number in sorted(blocks):
            # A block of zeros is as good as one that was never written.
            if any(blocks[number]):
                digest.update(number.to_bytes(8, "big") + blocks[number])
        return digest.hexdigest()

    @property
    def storage(self) -> fake_store.FakeStore:
        return self.backend.drivers[-1].store

    def create(self, volume: models.Volume, action: str = "backup_create", second_id: str | None = None) -> str:
        """Ask for a backup; returns the operation's id."""
        return b.submit(self.store, b.backup_intent(volume, action, second_id or volume.id)).id

    def backup(self, volume: models.Volume) -> models.Backup:
        operation = self.ended(self.create(volume))
        return self.store.get_backup(operation.resource_id)

    def restore(self, backup: models.Backup, volume: models.Volume) -> str:
        intent = b.intent("backup_restore", backup.id, second_id=volume.id, host=b.BACKUP_HOST)
        return b.submit(self.store, intent).id

    def restore_to_new(self, backup: models.Backup) -> tuple[str, str]:
        """The restore's operation and the volume's id."""
        record = b.volume_record(size_gb=backup.size_gb)
        restore = b.intent("backup_restore_to_new", backup.id, second_id=record.id, host=b.BACKUP_HOST)
        operation = b.submit(self.store, b.create_intent(record, action="volume_create_to_restore"), restore)
        return operation.id, record.id

    def delete(self, backup: models.Backup, action: str = "backup_delete", **fields: Any) -> str:
        return b.submit(self.store, b.intent(action, backup.id, host=b.BACKUP_HOST, **fields)).id

    def forget(self, backup: models.Backup) -> None:
        b.submit(self.store, b.intent("backup_forget", backup.id, guards=Guards(never_stored=backup.id)))

    def ended(self, operation_id: str, state: str = "done") -> models.Operation:
        return self.backend.wait_ended(self.store.get_operation(operation_id), state)

    def lose_records(self, backup: models.Backup) -> None:
        """As after the loss of the database: the store has the backup, and no record knows it."""
        with create_engine(f"sqlite:///{self.path}/volsvc.sqlite").begin() as connection:
            connection.execute(sa.delete(schema.backups).where(schema.backups.c.id == backup.id))

    # -- what is left --------------------------------------------------------------------------------

    def nothing_is_lent(self) -> None:
        """Every temporary snapshot and every reader was given back."""
        backing_up = Query(filters={"status": ["backing-up", "creating", "deleting", "error_deleting"]})
        wait_until(lambda: not self.store.list_snapshots(backing_up).items, "temporary snapshots to go", DEADLINE_S)
        wait_until(lambda: not self.backend.drivers[-1].list_readers(), "readers to be given back", DEADLINE_S)

    def stored_names(self) -> set[str]:
        """Objects of backups, without the store's marker."""
        return {name for name in self.objects.objects if "/" in name}
