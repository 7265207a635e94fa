"""An admin who has mended something."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.functional.healing.backends import HealingDaemon

pytestmark = pytest.mark.slow

Start = Callable[..., HealingDaemon]


def test_reinit_tries_now_and_says_how_it_ended(start: Start) -> None:
    rule = {"fail": True, "error": "MissingDriverLibrary", "message": "no answer"}
    daemon = start({"do_setup": rule})
    daemon.wait_state("one", "unrecoverable")
    listed = daemon.manage("service", "list")
    assert "unrecoverable (do_setup: no answer)" in listed.stdout
    done = daemon.manage("service", "reinit", "node@one")
    assert done.returncode == 1
    assert "no answer" in done.stderr
    daemon.one.script()
    done = daemon.manage("service", "reinit", "node@one")
    assert (done.returncode, done.stdout) == (0, "node@one: ready\n")
    done = daemon.manage("service", "reinit", "node@one")
    assert (done.returncode, done.stdout) == (0, "node@one: ready already\n")
    done = daemon.manage("service", "reinit", "node@nosuch")
    assert done.returncode == 1
    assert "node@one" in done.stderr


def test_reinit_without_a_daemon_is_taken_back(start: Start) -> None:
    daemon = start({"do_setup": {"fail": True}}, reinit_driver_count=1)
    daemon.wait_state("one", "exhausted")
    daemon.kill()
    done = daemon.manage("service", "reinit", "node@one", "--timeout", "1")
    assert done.returncode == 1
    assert "is it running" in done.stderr
    listed = json.loads(daemon.manage("operation", "list", "-f", "json").stdout)
    assert listed == []
