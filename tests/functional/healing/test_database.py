"""A database that is away."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from tests.functional.healing.backends import HealingDaemon
from volsvc.testing.daemon import wait_until

pytestmark = pytest.mark.slow

Start = Callable[..., HealingDaemon]


def test_a_database_that_is_away_during_an_attempt_shows_the_truth_afterwards(start: Start) -> None:
    daemon = start({"do_setup": {"hang": True}}, report_interval=1)
    wait_until(lambda: daemon.one.calls("do_setup"), "the attempt to begin")
    daemon.stop()
    daemon.config.write_text(daemon.config.read_text() + "[database]\nsqlite_busy_timeout = 1\n")
    daemon.start()
    wait_until(lambda: daemon.one.calls("do_setup") == 2, "the attempt to begin")
    lock = sqlite3.connect(daemon.state / "volsvc.sqlite", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        position = daemon.log.stat().st_size
        daemon.one.script()
        daemon.wait_for_log("is not written yet|heartbeat not written|can't be reached", position, timeout_s=60)
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    daemon.wait_state("one", "ready")
