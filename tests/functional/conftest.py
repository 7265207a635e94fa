"""Real daemons for tests: one that the tests of a worker share, and ones of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.functional.user import User
from volsvc.testing.daemon import Daemon


@pytest.fixture(scope="session")
def shared_daemon() -> Iterator[Daemon]:
    """volsvc-all on the embedded default, for tests that only use it and break nothing."""
    with Daemon().start() as daemon:
        daemon.wait_ready()
        yield daemon
        assert daemon.stop() == 0, daemon.words()[-2000:]


@pytest.fixture
def user(shared_daemon: Daemon, request: pytest.FixtureRequest) -> User:
    """A user with a project of its own on the shared service."""
    assert shared_daemon.process is not None
    assert shared_daemon.process.poll() is None, f"the service has ended: {shared_daemon.words()[-2000:]}"
    return User(shared_daemon, re.sub(r"\W+", "-", request.node.name)[:60].strip("-"))


@pytest.fixture
def make_daemon() -> Iterator[Callable[..., Daemon]]:
    """Build daemons (not started) that are ended, with all they left, when the test is over."""
    made: list[Daemon] = []

    def make(*args: Any, **kwargs: Any) -> Daemon:
        daemon = Daemon(*args, **kwargs)
        made.append(daemon)
        return daemon

    yield make
    for daemon in reversed(made):
        daemon.end()


# Suites of faults: each test starts daemons, breaks something and waits for it to be noticed.
SLOW_SUITES = frozenset({"backup", "backup_service", "healing", "reload", "reset"})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in SLOW_SUITES and item.path.parent.parent.name == "functional":
            item.add_marker(pytest.mark.slow)
