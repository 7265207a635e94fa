"""Notifications of attempts: one for each, with what an operator's tool needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.functional.healing.backends import GONE, HealingDaemon
from volsvc.testing.daemon import wait_until

Start = Callable[..., HealingDaemon]

ERROR = "volume.driver.init.error"
END = "volume.driver.init.end"


def test_each_attempt_sends_one_with_backend_step_reason_and_number(start: Start) -> None:
    daemon = start({"do_setup": {"fail": 3, "message": "no answer, password=hunter2"}}, names="one,two")
    daemon.wait_state("one", "ready")
    wait_until(lambda: len(daemon.notifications(END)) == 2, "the ends")
    errors = daemon.notifications(ERROR)
    assert [(e["host"], e["backend"], e["step"], e["attempt"]) for e in errors] == [
        ("node@one", "one", "do_setup", number) for number in (1, 2, 3)
    ]
    assert all("no answer" in e["reason"] for e in errors)
    assert "hunter2" not in daemon.words()
    ends = {e["backend"]: e for e in daemon.notifications(END)}
    assert {name: (e["step"], e["reason"], e["attempt"]) for name, e in ends.items()} == {
        "one": (None, None, 4),
        "two": (None, None, 1),
    }


def test_a_hang_sends_one_and_a_late_success_says_that_it_is_over(start: Start) -> None:
    daemon = start({"do_setup": {"hang": True}}, driver_init_timeout=1)
    wait_until(lambda: daemon.notifications(ERROR), "the hang to be told")
    daemon.one.script()
    daemon.wait_state("one", "ready")
    wait_until(lambda: daemon.notifications(END), "the end to be told")
    (error,), (end,) = daemon.notifications(ERROR), daemon.notifications(END)
    assert (error["step"], error["attempt"], end["attempt"]) == ("do_setup", 1, 1)
    assert "not come back" in error["reason"]


def test_a_hang_that_ends_in_failure_is_told_once(start: Start) -> None:
    daemon = start({"do_setup": {"hang": True, "fail": 1, "message": "too late"}}, driver_init_timeout=1)
    wait_until(lambda: daemon.notifications(ERROR), "the hang to be told")
    daemon.one.script()
    daemon.wait_state("one", "ready")
    wait_until(lambda: daemon.notifications(END), "the end to be told")
    assert [e["attempt"] for e in daemon.notifications(ERROR)] == [1]
    assert [e["attempt"] for e in daemon.notifications(END)] == [2]


@pytest.mark.slow
def test_a_loss_is_told_by_its_attempts(start: Start) -> None:
    daemon = start(backend_loss_threshold=1)
    daemon.wait_state("one", "ready")
    daemon.one.script(**GONE)
    wait_until(lambda: len(daemon.notifications(ERROR)) >= 2, "attempts that fail")
    daemon.one.script()
    daemon.wait_state("one", "ready")
    wait_until(lambda: len(daemon.notifications(END)) == 2, "the second end")
    errors = daemon.notifications(ERROR)
    assert [e["attempt"] for e in errors] == list(range(1, len(errors) + 1))
    assert {e["losses"] for e in errors} == {1}
