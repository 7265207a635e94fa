"""A service for tests of backups that break nothing, and users of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.functional.backup.backing import QUICK, BackupUser, ScriptedBackups
from volsvc.testing.daemon import Daemon


@pytest.fixture(scope="session")
def backup_daemon() -> Iterator[Daemon]:
    """volsvc-all on the embedded default, which looks for work often."""
    with Daemon(options=QUICK) as daemon:
        daemon.start().wait_ready()
        yield daemon
        assert daemon.stop() == 0, daemon.words()[-2000:]


@pytest.fixture
def user(backup_daemon: Daemon, request: pytest.FixtureRequest) -> BackupUser:
    """A user with a project of its own on the shared service."""
    return _user_of(backup_daemon, request)


@pytest.fixture(scope="session")
def scripted_service() -> Iterator[ScriptedBackups]:
    """volsvc-all whose volume driver and store wait when they are told to."""
    with Daemon(options={}) as daemon:
        scripted = ScriptedBackups(daemon, backup_max_operations=2)
        daemon.start().wait_ready()
        yield scripted
        assert daemon.stop() == 0, daemon.words()[-2000:]


@pytest.fixture
def scripted(scripted_service: ScriptedBackups) -> Iterator[ScriptedBackups]:
    """The same, in a test that may leave its script as it likes."""
    yield scripted_service
    scripted_service.write({})


@pytest.fixture
def scripted_user(scripted: ScriptedBackups, request: pytest.FixtureRequest) -> BackupUser:
    return _user_of(scripted.daemon, request)


def _user_of(daemon: Daemon, request: pytest.FixtureRequest) -> BackupUser:
    assert daemon.process is not None
    assert daemon.process.poll() is None, f"the service has ended: {daemon.words()[-2000:]}"
    return BackupUser(daemon, re.sub(r"\W+", "-", request.node.name)[:60].strip("-"))
