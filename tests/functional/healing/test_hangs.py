"""Drivers that do not come back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.functional.healing.backends import GONE, HealingDaemon
from volsvc.testing.daemon import wait_until

pytestmark = pytest.mark.slow

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


def test_reinit_and_sighup_during_a_hang_answer_that_it_hangs(start: Start) -> None:
    late = {"hang": True, "fail": 2, "message": "too late"}
    daemon = start({"do_setup": late}, driver_init_timeout=1, reinit_driver_count=1)
    since = wait_until(lambda: daemon.services()["one"]["hanging_since"], "the hang to be shown")
    done = daemon.manage("service", "reinit", "node@one", "--timeout", "20")
    assert done.returncode == 1
    assert "hanging since" in done.stderr
    assert "--backend" in done.stderr
    daemon.signal(signal.SIGHUP)
    daemon.wait_log_again("SIGHUP|reload")
    assert daemon.services()["one"]["hanging_since"] == since
    assert daemon.one.calls("do_setup") == 1, "nothing runs beside it"
    daemon.one.script(do_setup={"fail": 2, "message": "too late"})
    daemon.wait_state("one", "ready")
    assert daemon.one.calls("do_setup") == 3, "it was asked for during the hang, so the count began anew after it"


def test_a_hang_of_the_stats_takes_the_backend_down_and_it_heals(start: Start) -> None:
    daemon = start(driver_init_timeout=1, backend_loss_threshold=2)
    daemon.wait_state("one", "ready")
    daemon.one.script(get_volume_stats={"hang": True})
    row = daemon.wait_state("one", "lost")
    assert (row["step"], row["losses"]) == ("get_volume_stats", 1)
    assert "not come back" in row["reason"]
    assert wait_until(lambda: daemon.services()["one"]["hanging_since"], "its next attempt hangs as well")
    daemon.one.script()
    daemon.wait_state("one", "ready")
    daemon.new_volume()
    assert daemon.stop() == 0


def test_a_driver_whose_close_hangs_is_replaced_all_the_same(start: Start) -> None:
    daemon = start(graceful_shutdown_timeout=10)
    daemon.wait_state("one", "ready")
    hanging = {"close": {"hang": True}}
    daemon.one.script(**GONE, **hanging)
    daemon.wait_state("one", "lost")
    wait_until(lambda: daemon.services()["one"]["attempts"] >= 2, "attempts whose driver does not close either")
    daemon.one.script(**hanging)
    daemon.wait_state("one", "ready")
    daemon.new_volume()
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 10


def test_a_hung_operation_holds_up_nothing_else(start: Start) -> None:
    daemon = start(operation_workers=2, graceful_shutdown_timeout=10)
    daemon.wait_state("one", "ready")
    kept = daemon.new_volume()
    daemon.one.script(create_volume={"hang": True})
    hung = daemon.cinder().volumes.create(1)
    daemon.wait_calls("create_volume", 2)
    daemon.cinder().volumes.delete(kept)
    wait_until(lambda: [v.id for v in daemon.cinder().volumes.list()] == [hung.id], "the delete beside it")
    published = daemon.one.calls("get_volume_stats")
    daemon.wait_calls("get_volume_stats", published + 2)
    assert daemon.stop() == 0
