"""Attempts to initialise a driver: how many, which step failed, which error ends them."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.functional.healing.backends import GONE, HealingDaemon
from volsvc.testing.daemon import wait_until

pytestmark = pytest.mark.slow

Start = Callable[..., HealingDaemon]


@pytest.mark.parametrize(("failures", "count"), [(1, 2), (2, 2), (3, 2), (6, 0)])
def test_a_driver_that_fails_k_times_is_tried_as_often_as_the_option_says(
    start: Start, failures: int, count: int
) -> None:
    daemon = start({"do_setup": {"fail": failures, "message": "no answer"}}, reinit_driver_count=count)
    if count == 0 or failures <= count:
        daemon.wait_state("one", "ready")
        assert daemon.one.calls("do_setup") == failures + 1
    else:
        row = daemon.wait_state("one", "exhausted")
        assert (row["attempts"], row["step"]) == (count + 1, "do_setup")
        assert "no answer" in row["reason"]
        calls = daemon.one.calls("do_setup")
        assert calls == count + 1
        daemon.wait_for_log("exhausted .*fix it, then reload or reinit")


@pytest.mark.parametrize("method", ["do_setup", "check_for_setup_error", "read_identity", "get_volume_stats"])
def test_a_failure_in_any_step_is_named_and_heals(start: Start, method: str) -> None:
    step = {"read_identity": "identity", "get_volume_stats": "publish"}.get(method, method)
    daemon = start(
        {method: {"fail": True, "error": "BackendUnavailable", "message": "wire cut"}}, reinit_driver_count=0
    )
    row = daemon.wait_state("one", "retrying")
    assert (row["step"], row["reason"]) == (step, "wire cut")
    (api,) = daemon.cinder().services.list(binary="cinder-volume")
    assert (api.state, getattr(api, "volsvc:init_step")) == ("down", step)
    daemon.one.script()
    daemon.wait_state("one", "ready")


@pytest.mark.parametrize(
    "error", ["UnrecoverableDriverError", "DriverConfigurationError", "DriverNotSupported", "MissingDriverLibrary"]
)
def test_an_unrecoverable_error_is_not_tried_again_until_sighup(start: Start, error: str) -> None:
    daemon = start({"do_setup": {"fail": True, "error": error, "message": "for good"}}, report_interval=3)
    daemon.wait_state("one", "unrecoverable")
    beat = daemon.services()["one"]["heartbeat_at"]
    wait_until(lambda: daemon.services()["one"]["heartbeat_at"] > beat, "a heartbeat, later than two publish intervals")
    assert daemon.one.calls("do_setup") == 1
    daemon.one.script()
    daemon.signal(signal.SIGHUP)
    daemon.wait_state("one", "ready")


@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt", "MemoryError"])
def test_an_error_that_would_end_a_thread_ends_one_attempt_only(start: Start, error: str) -> None:
    daemon = start({"check_for_setup_error": {"fail": 1, "error": error}})
    daemon.wait_state("one", "ready")
    assert daemon.one.calls("check_for_setup_error") == 2


def test_losing_a_ready_backend_heals_without_a_limit_and_is_counted(start: Start) -> None:
    daemon = start(reinit_driver_count=1, backend_loss_threshold=2)
    daemon.wait_state("one", "ready")
    for losses in (1, 2):
        daemon.one.script(**GONE)
        daemon.wait_state("one", "lost")
        before = daemon.one.calls("do_setup")
        wait_until(lambda before=before: daemon.one.calls("do_setup") >= before + 3, "more attempts than the count")
        assert daemon.services()["one"]["state"] == "lost"
        daemon.one.script()
        assert daemon.wait_state("one", "ready")["losses"] == losses
