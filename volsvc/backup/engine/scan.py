"""What backups a store holds, asked of nothing but the store.

A database that was lost is filled again from this, and leftovers of backups that were never
finished are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import BackupDriver
from volsvc.backup.engine.reading import load_root
from volsvc.backup.format import names
from volsvc.backup.format.hashing import PLAIN, Hasher
from volsvc.backup.format.root import Root


@dataclass(frozen=True)
class FoundBackup:
    """``root`` None: the backup was begun and never finished, or ``problem`` says why it can't be read."""

    backup_id: str
    root: Root | None
    problem: str | None = None

    @property
    def is_unfinished(self) -> bool:
        return self.root is None and self.problem is None


def scan(store: BackupDriver, hasher: Hasher = PLAIN) -> Iterator[FoundBackup]:
    """Every backup of the store, the unfinished last.  Damaged ones are listed, not raised.

    Raises what the store raises: an error in the middle means that the list is not complete.
    """
    store.check_identity()
    seen = set()
    for page in store.list(names.ROOTS):
        for item in page:
            backup_id = item.name.removeprefix(names.ROOTS)
            found = _look(store, backup_id, hasher)
            if found is not None:
                seen.add(backup_id)
                yield found
    for page in store.list(names.STARTED):
        for item in page:
            backup_id = item.name.removeprefix(names.STARTED)
            if backup_id not in seen:
                yield FoundBackup(backup_id, None)


def _look(store: BackupDriver, backup_id: str, hasher: Hasher) -> FoundBackup | None:
    try:
        return FoundBackup(backup_id, load_root(store, backup_id, hasher))
    except exc.BackupNotFound:
        return None
    except exc.InvalidInput:
        return FoundBackup(backup_id, None, "its name is no UUID; it was not made by this program")
    except (exc.BackupDamaged, exc.BackupNotReadable) as error:
        return FoundBackup(backup_id, None, str(error))
