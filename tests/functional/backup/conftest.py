"""A service for tests of backups that break nothing, and users of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.functional.backup.backing import QUICK, BackupUser
from volsvc.testing.daemon import Daemon


@pytest.fixture(scope="session")
def backup_daemon() -> Iterator[Daemon]:
    """volsvc-all on the embedded default, which looks for work often."""
    with Daemon(options=QUICK).start() as daemon:
        daemon.wait_ready()
        yield daemon
        assert daemon.stop() == 0, daemon.words()[-2000:]


@pytest.fixture
def user(backup_daemon: Daemon, request: pytest.FixtureRequest) -> BackupUser:
    """A user with a project of its own on the shared service."""
    assert backup_daemon.process is not None
    assert backup_daemon.process.poll() is None, f"the service has ended: {backup_daemon.words()[-2000:]}"
    return BackupUser(backup_daemon, re.sub(r"\W+", "-", request.node.name)[:60].strip("-"))
