"""Drivers that do not come back."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.functional.healing.backends import HealingDaemon
from volsvc.testing.daemon import wait_until

Start = Callable[..., HealingDaemon]


def test_a_hanging_attempt_is_shown_alone_and_its_late_result_is_used(start: Start) -> None:
    daemon = start({"do_setup": {"hang": True}}, names="one,two", driver_init_timeout=1)
    daemon.wait_state("two", "ready")
    row = wait_until(lambda: (r := daemon.services()["one"])["hanging_since"] and r, "the hang to be shown")
    assert row["attempts"] == 1
    assert "restart" in row["reason"]
    assert "--backend" in row["reason"]
    volume = daemon.cinder().volumes.create(1)
    daemon.wait_volume(volume.id, "available")
    assert daemon.one.calls("do_setup") == 1, "nothing runs beside it"
    daemon.one.script()
    daemon.wait_state("one", "ready")
    assert daemon.one.calls("do_setup") == 1, "the late result was used"


def test_sigterm_during_a_hanging_attempt_exits_in_time(start: Start) -> None:
    daemon = start({"do_setup": {"hang": True}}, graceful_shutdown_timeout=10)
    wait_until(lambda: daemon.one.calls("do_setup"), "the attempt to begin")
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 10


def test_kill_during_an_attempt_leaves_a_clean_start(start: Start) -> None:
    daemon = start({"check_for_setup_error": {"hang": True}})
    wait_until(lambda: daemon.one.calls("check_for_setup_error"), "the attempt to begin")
    daemon.kill()
    daemon.one.script()
    daemon.start()
    assert daemon.wait_state("one", "ready")["attempts"] == 0
