"""What bringing up a backup driver has of its own: its checks, and what is published of its store.

Several backup services may share one store, so its marker is no claim to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from volsvc.backup.drivers.base import BackupDriver
from volsvc.backup.format import names
from volsvc.driver_init import DriverInit, StorageWords
from volsvc.ports import Query, Store

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackupStats:
    """What a backup store says of itself; ``free_bytes`` None when it can't tell."""

    driver: str
    store: str
    free_bytes: int | None


class BackupInit(DriverInit[BackupDriver, BackupStats]):
    """The steps of one backup service."""

    words = StorageWords("store", "backup service", "backups")

    def checks(self) -> Sequence[tuple[str, Callable[[BackupDriver], None]]]:
        return [("check", lambda driver: driver.check())]

    def checks_of_contents(self) -> Sequence[tuple[str, Callable[[BackupDriver], None]]]:
        return [("list", list_backups)]

    def read_stats(self, driver: BackupDriver) -> BackupStats:
        """Raises ``BackendUnavailable`` when the store can't be used, or is not the one it was."""
        driver.check()
        driver.check_identity()
        return BackupStats(driver.context.name, str(driver), driver.free_bytes())

    def has_records(self) -> bool:
        # What runs now may be storing the first one.
        running = Query(filters={"host": self.host, "state": "running"}, limit=1)
        return has_backups(self._store, self.host) or bool(self._store.list_operations(running).items)


def has_backups(store: Store, host: str) -> bool:
    """Whether the backup service of ``host`` has records of backups that may be in its store."""
    return bool(store.list_backups(Query(filters={"host": host, "is_stored": True}, limit=1)).items)


def list_backups(driver: BackupDriver) -> None:
    """Raise when the store can't say which backups it holds; one page is enough to tell."""
    for page in driver.list(names.ROOTS):
        LOG.debug("%s holds %d backups or more", driver, len(page))
        return
