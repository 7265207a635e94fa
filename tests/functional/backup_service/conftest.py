from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.functional.backup_service.daemon import BackupDaemon


@pytest.fixture
def make_backups() -> Iterator[Callable[..., BackupDaemon]]:
    """Build daemons with a backup service (not started) that are ended when the test is over."""
    made: list[BackupDaemon] = []

    def make(program: str = "volsvc-backup", **options: Any) -> BackupDaemon:
        made.append(BackupDaemon(program, **options))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end()
