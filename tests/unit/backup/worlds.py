"""Small volumes, stores and what a whole backup must look like, for the tests of the engine."""

from __future__ import annotations

import threading
import uuid
from typing import Any

from volsvc.backup.drivers.base import MARKER_NAME, BackupDriver, BackupDriverContext
from volsvc.backup.drivers.fake import FakeBackupDriver, FakeObjects
from volsvc.backup.engine.create import CreateRequest, create_backup
from volsvc.backup.engine.reading import load_root
from volsvc.backup.engine.restore import restore_backup
from volsvc.backup.format import names
from volsvc.backup.format.hashing import PLAIN, Hasher
from volsvc.drivers.base import NoWork
from volsvc.testing.memory_blocks import MemorySink
from volsvc.testing.snapshots import options_of

CHUNK = 4096
PACK = 24 * 1024
BACKUP_ID = "5f2f1f3e-6f0c-4b3b-9d5a-0d2a6c1b7e11"


def new_store(objects: FakeObjects | None = None) -> FakeBackupDriver:
    """A fake store that is set up and marked; give it objects to let it find another's."""
    store = FakeBackupDriver(BackupDriverContext("host", options_of(FakeBackupDriver), "/nowhere"), objects)
    if store.read_identity() is None:
        store.write_identity(str(uuid.uuid4()))
    return store


def request(**values: Any) -> CreateRequest:
    """A request for many small packs."""
    return CreateRequest(
        **{"backup_id": BACKUP_ID, "source_token": "now", "chunk_bytes": CHUNK, "pack_bytes": PACK} | values
    )


def restored(store: BackupDriver, size: int, hasher: Hasher = PLAIN) -> bytes:
    """The synced content of a blank volume after a restore."""
    sink = MemorySink(size)
    restore_backup(store, BACKUP_ID, sink, NoWork(), is_blank=True, hasher=hasher)
    return sink.synced


def assert_nothing_leaked(store: FakeBackupDriver, hasher: Hasher = PLAIN) -> None:
    """The store holds the marker and what the one backup needs, and nothing else."""
    root = load_root(store, BACKUP_ID, hasher)
    wanted = {MARKER_NAME, names.root(BACKUP_ID), names.started(BACKUP_ID), *root.packs}
    assert set(store.objects.objects) == wanted


def engine_threads() -> list[str]:
    """Living threads of the engine; none are left when a call has ended."""
    prefixes = ("backup", "restore", "verify")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(prefixes)]


def make(content_of: Any, store: FakeBackupDriver | None = None, **values: Any) -> FakeBackupDriver:
    """A store with a backup of that source."""
    store = store or new_store()
    create_backup(store, request(**values), content_of, NoWork())
    return store
