"""A real daemon with a backup service that looks at its store each second, and what an admin sees of it."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from volsvc import models
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.testing.daemon import Daemon, wait_until


class BackupDaemon(Daemon):
    """``store`` is the directory of its backups; it is not made here."""

    def __init__(self, program: str = "volsvc-backup", **options: Any) -> None:
        super().__init__(program=program, options={})
        self.store = self.root / "store"
        self.database = "volsvc.sqlite"
        self.settings: dict[str, Any] = {"periodic_interval": 1, "backup_posix_path": self.store, **options}
        self.write()

    def write(self, groups: Mapping[str, Mapping[str, Any]] | None = None, **options: Any) -> None:
        """Write the configuration, some options changed, with these groups besides [DEFAULT]."""
        self.settings |= options
        self.configure(self.settings, groups or {})

    @property
    def records(self) -> SqlStore:
        return SqlStore(create_engine(f"sqlite:///{self.state}/{self.database}"))

    @property
    def row(self) -> models.Service:
        return next(service for service in self.records.list_services() if service.serves_backups)

    def wait_state(self, *states: str) -> models.Service:
        try:
            wait_until(lambda: self.row.state in states, f"the backup service to be {' or '.join(states)}")
        except TimeoutError as error:
            raise AssertionError(f"{error}; it is {self.row}") from error
        return self.row

    def manage(self, *arguments: str) -> tuple[int, str]:
        """The exit code of volsvc-manage and all that it said."""
        done = self.run("volsvc-manage", *arguments)
        return done.returncode, done.stdout + done.stderr


def marker(store: pathlib.Path) -> str:
    """The store's marker as it is written."""
    return (store / "volsvc-store.json").read_text()
