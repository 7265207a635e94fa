"""Deleting a backup, whole or begun: the root first, the note that it began last.

Without its root a backup is listed nowhere as whole, and as long as the note is there a scan
finds what a cut left behind.
"""

from __future__ import annotations

from volsvc.backup.drivers.base import BackupDriver
from volsvc.backup.format import names
from volsvc.drivers.base import Work


def delete_backup(store: BackupDriver, backup_id: str, work: Work) -> None:
    """Delete a backup and everything that attempts at it stored.  Repeatable; what is gone is no error.

    Raises ``BackendUnavailable`` when the store can't be reached or isn't the one it was.
    """
    store.check_identity()
    store.delete(names.root(backup_id))
    delete_data(store, backup_id, work)
    store.delete(names.started(backup_id))


def delete_data(store: BackupDriver, backup_id: str, work: Work) -> None:
    """Delete the packs of a backup that has no root (any more).  Progress counts objects."""
    done = 0
    while True:
        found = [[item.name for item in page] for page in store.list(names.data_prefix(backup_id))]
        if not found:
            return
        total = done + sum(map(len, found))
        for page in found:
            work.checkpoint(done, total)
            store.delete_many(page)
            done += len(page)
