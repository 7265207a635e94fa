"""The initialiser's state machine, with real threads and no driver."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest

from volsvc import exceptions as exc
from volsvc.init_attempt import Step
from volsvc.initializer import NEXT_STATE, SELF_HEALING, DriverInitializer, Event, InitState, InitStatus


class Script:
    """Steps whose failures are queued; a plain list is the candidate."""

    def __init__(self) -> None:
        self.failures: list[BaseException | None] = []
        self.adopted: list[list[str]] = []
        self.discarded: list[list[str]] = []
        self.statuses: list[InitStatus] = []
        self.gate: threading.Event | None = None

    def setup(self, candidate: list[str]) -> None:
        candidate.append("setup")
        if self.gate is not None:
            assert self.gate.wait(10)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure

    def build(self, *, max_retries: int = 3, timeout_s: float = 5.0) -> DriverInitializer[list[str]]:
        return DriverInitializer(
            name="node@one",
            steps=[Step("load", lambda c: c.append("load")), Step("do_setup", self.setup)],
            new_candidate=list,
            adopt=self.adopted.append,
            discard=self.discarded.append,
            on_change=self.statuses.append,
            max_retries=max_retries,
            timeout_s=timeout_s,
        )


@pytest.fixture
def script() -> Script:
    return Script()


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def test_every_state_has_a_row_for_every_event() -> None:
    assert set(NEXT_STATE) == set(itertools.product(InitState, Event))


def test_the_table_keeps_its_promises() -> None:
    for state in InitState:
        assert NEXT_STATE[(state, Event.SUCCEEDED)] is InitState.READY
        assert NEXT_STATE[(state, Event.FAILED_FOR_GOOD)] is InitState.UNRECOVERABLE
        if state is not InitState.READY:
            assert NEXT_STATE[(state, Event.ASKED)] in SELF_HEALING, "an attempt that was asked for must be made"
    for event in (Event.FAILED, Event.FAILED_LAST):
        assert NEXT_STATE[(InitState.LOST, event)] is InitState.LOST, (
            "a backend that was ready is tried without a limit"
        )


def test_first_attempt_that_works_is_adopted_and_ready(script: Script) -> None:
    initializer = script.build()
    assert initializer.wants_attempt
    status = initializer.attempt()
    assert (status.state, status.step, status.reason, status.attempts) == (InitState.READY, None, None, 0)
    assert script.adopted == [["load", "setup"]]
    assert not initializer.wants_attempt


@pytest.mark.parametrize("max_retries", [1, 2, 3])
@pytest.mark.parametrize("failures", range(6))
def test_attempts_stop_when_the_count_is_used_up(script: Script, max_retries: int, failures: int) -> None:
    script.failures = [exc.BackendUnavailable(reason="down") for _ in range(failures)]
    initializer = script.build(max_retries=max_retries)
    made = 0
    while initializer.wants_attempt and made < 20:
        initializer.attempt()
        made += 1
    if failures <= max_retries:
        assert initializer.status.state is InitState.READY
        assert made == failures + 1
    else:
        assert initializer.status.state is InitState.EXHAUSTED
        assert made == max_retries + 1
        assert initializer.status.attempts == max_retries + 1


def test_zero_retries_means_no_limit(script: Script) -> None:
    script.failures = [exc.BackendUnavailable(reason="down") for _ in range(50)]
    initializer = script.build(max_retries=0)
    for _ in range(50):
        assert initializer.wants_attempt
        assert initializer.attempt().state is InitState.RETRYING
    assert initializer.attempt().state is InitState.READY


def test_negative_count_is_refused(script: Script) -> None:
    with pytest.raises(exc.ConfigurationError, match="reinit_driver_count"):
        script.build(max_retries=-1)


@pytest.mark.parametrize(
    "error",
    [
        exc.UnrecoverableDriverError(reason="x"),
        exc.DriverConfigurationError(reason="x"),
        exc.DriverNotSupported(driver="d", reason="x"),
        exc.MissingDriverLibrary(library="rados", remedy="install python3-rados"),
    ],
)
def test_unrecoverable_errors_are_not_tried_again_until_asked(script: Script, error: Exception) -> None:
    script.failures = [error]
    initializer = script.build()
    status = initializer.attempt()
    assert status.state is InitState.UNRECOVERABLE
    assert (status.step, status.reason) == ("do_setup", str(error))
    assert not initializer.wants_attempt
    initializer.ask()
    assert initializer.wants_attempt
    assert initializer.attempt().state is InitState.READY


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), RuntimeError("boom")])
def test_whatever_a_driver_raises_ends_the_attempt_only(script: Script, error: BaseException) -> None:
    script.failures = [error]
    initializer = script.build()
    assert initializer.attempt().state is InitState.RETRYING
    assert script.discarded == [["load", "setup"]]
    assert initializer.attempt().state is InitState.READY


def test_asking_when_exhausted_starts_the_count_anew(script: Script) -> None:
    script.failures = [RuntimeError("x")] * 4
    initializer = script.build(max_retries=1)
    initializer.attempt()
    assert initializer.attempt().state is InitState.EXHAUSTED
    initializer.ask()
    assert initializer.attempt().state is InitState.RETRYING
    assert initializer.status.attempts == 1


def test_losing_counts_losses_and_is_tried_without_a_limit(script: Script) -> None:
    initializer = script.build(max_retries=1)
    initializer.attempt()
    assert initializer.lose("gone", step="operation")
    assert not initializer.lose("gone", step="operation"), "the second loss in a row is no news"
    script.failures = [RuntimeError("x")] * 10
    for _ in range(10):
        assert initializer.wants_attempt
        assert initializer.attempt().state is InitState.LOST
    assert initializer.attempt().state is InitState.READY
    assert initializer.status.losses == 1


def test_a_hang_is_shown_counts_once_and_nothing_runs_beside_it(script: Script) -> None:
    script.gate = threading.Event()
    initializer = script.build(timeout_s=0.05)
    status = initializer.attempt()
    assert status.state is InitState.RETRYING
    assert status.hanging_since is not None
    assert status.attempts == 1
    assert not initializer.wants_attempt
    assert initializer.attempt() == status, "a second attempt must not start"
    script.gate.set()
    wait_until(lambda: initializer.is_ready)
    assert initializer.status.hanging_since is None
    assert len(script.adopted) == 1


def test_a_hang_that_ends_in_failure_is_not_counted_twice(script: Script) -> None:
    script.gate = threading.Event()
    script.failures = [RuntimeError("late")]
    initializer = script.build(timeout_s=0.05)
    initializer.attempt()
    script.gate.set()
    wait_until(lambda: initializer.wants_attempt)
    assert initializer.status.attempts == 1
    assert "late" in (initializer.status.reason or "")
    assert script.discarded == [["load", "setup"]]


def test_a_late_candidate_is_discarded_after_close(script: Script) -> None:
    script.gate = threading.Event()
    initializer = script.build(timeout_s=0.05)
    initializer.attempt()
    initializer.close()
    script.gate.set()
    wait_until(lambda: bool(script.discarded))
    assert script.adopted == []


def test_stop_cuts_the_wait_for_an_attempt(script: Script) -> None:
    script.gate = threading.Event()
    stop = threading.Event()
    stop.set()
    initializer = script.build(timeout_s=60)
    started = time.monotonic()
    initializer.attempt(stop)
    assert time.monotonic() - started < 10
    script.gate.set()


def test_a_failing_adopt_is_a_failed_attempt(script: Script) -> None:
    initializer = script.build()
    initializer._adopt = lambda candidate: (_ for _ in ()).throw(exc.StoreUnavailable(reason="away"))
    status = initializer.attempt()
    assert status.state is InitState.RETRYING
    assert status.step == "adopt"


def test_statuses_are_told_in_order(script: Script) -> None:
    script.failures = [RuntimeError("x")]
    initializer = script.build()
    initializer.attempt()
    initializer.attempt()
    assert [status.state for status in script.statuses] == [InitState.RETRYING, InitState.READY]


# -- asked while an attempt runs -----------------------------------------------------------


def begin(initializer: DriverInitializer[list[str]]) -> threading.Thread:
    """An attempt on a thread of its own, begun."""
    thread = threading.Thread(target=initializer.attempt, daemon=True)
    thread.start()
    wait_until(lambda: not initializer.wants_attempt)
    return thread


def test_asking_during_the_last_attempt_gets_an_attempt_that_began_after_it(script: Script) -> None:
    script.failures = [RuntimeError("x")] * 2
    initializer = script.build(max_retries=1)
    initializer.attempt()
    script.gate = threading.Event()
    thread = begin(initializer)
    initializer.ask()
    assert initializer.is_asked
    script.gate.set()
    thread.join(10)
    assert initializer.wants_attempt, "the attempt that failed had begun before it was asked for"
    assert initializer.is_asked
    assert initializer.attempt().state is InitState.READY
    assert not initializer.is_asked


def test_an_attempt_that_was_asked_for_answers_also_when_it_fails(script: Script) -> None:
    script.failures = [exc.DriverConfigurationError(reason="x")] * 2
    initializer = script.build()
    initializer.attempt()
    initializer.ask()
    assert initializer.is_asked
    assert initializer.attempt().state is InitState.UNRECOVERABLE
    assert not initializer.is_asked
    assert not initializer.wants_attempt


def test_success_of_the_attempt_that_runs_answers_too(script: Script) -> None:
    script.gate = threading.Event()
    initializer = script.build()
    thread = begin(initializer)
    initializer.ask()
    script.gate.set()
    thread.join(10)
    assert initializer.is_ready
    assert not initializer.is_asked


def test_asking_while_an_attempt_hangs_still_shows_the_hang(script: Script) -> None:
    script.gate = threading.Event()
    script.failures = [RuntimeError("late")]
    initializer = script.build(max_retries=1, timeout_s=0.05)
    hanging = initializer.attempt()
    initializer.ask()
    status = initializer.status
    assert status.hanging_since == hanging.hanging_since
    assert status.reason == hanging.reason
    assert not initializer.wants_attempt, "nothing runs beside a hang"
    script.gate.set()
    wait_until(lambda: initializer.wants_attempt)
    assert initializer.attempt().state is InitState.READY


def test_closing_answers_whoever_asked(script: Script) -> None:
    script.failures = [RuntimeError("x")]
    initializer = script.build()
    initializer.attempt()
    initializer.ask()
    initializer.close()
    assert not initializer.is_asked
    initializer.ask()
    assert not initializer.is_asked, "nobody will make that attempt"


# -- what must not count, what must not end a thread ------------------------------------------


def test_a_database_that_is_away_does_not_use_up_the_count(script: Script) -> None:
    away: list[BaseException | None] = [exc.StoreUnavailable(reason="away") for _ in range(10)]
    script.failures = [RuntimeError("x"), *away, RuntimeError("x")]
    initializer = script.build(max_retries=2)
    for _ in range(12):
        assert initializer.attempt().state is InitState.RETRYING
    assert initializer.status.attempts == 2
    assert initializer.attempt().state is InitState.READY


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_a_close_that_raises_anything_does_not_block_the_next_attempt(script: Script, error: BaseException) -> None:
    def discard(candidate: list[str]) -> None:
        raise error

    script.failures = [RuntimeError("x")]
    initializer = script.build()
    initializer._discard = discard
    assert initializer.attempt().state is InitState.RETRYING
    assert initializer.attempt().state is InitState.READY


def test_an_adopt_that_raises_anything_does_not_block_the_next_attempt(script: Script) -> None:
    initializer = script.build()
    initializer._adopt = lambda candidate: (_ for _ in ()).throw(SystemExit(1))
    assert initializer.attempt().step == "adopt"
    initializer._adopt = script.adopted.append
    assert initializer.attempt().state is InitState.READY


def test_a_hang_is_reported_as_an_attempt_and_its_end_as_the_end_of_a_hang(script: Script) -> None:
    script.gate = threading.Event()
    script.failures = [RuntimeError("late")]
    initializer = script.build(timeout_s=0.05)
    hung = initializer.attempt().last_attempt
    assert hung is not None
    assert (hung.number, hung.step, hung.was_hanging) == (1, "do_setup", False)
    script.gate.set()
    wait_until(lambda: initializer.wants_attempt)
    ended = initializer.status.last_attempt
    assert ended is not None
    assert (ended.number, ended.was_hanging) == (1, True)


def test_nothing_is_told_after_close(script: Script) -> None:
    initializer = script.build()
    initializer.attempt()
    told = list(script.statuses)
    initializer.close()
    initializer.lose("gone", step="operation")
    initializer.note_failed_publish("gone")
    assert script.statuses == told


def test_an_attempt_that_is_closed_while_it_is_adopted_is_not_told_as_ready(script: Script) -> None:
    initializer = script.build()
    initializer._adopt = lambda candidate: initializer.close()
    initializer.attempt()
    assert script.statuses == []


def test_a_close_that_hangs_does_not_end_all_attempts(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volsvc.initializer.CLOSE_TIMEOUT_S", 0.02)
    release = threading.Event()
    closed: list[list[str]] = []

    def discard(candidate: list[str]) -> None:
        assert release.wait(10)
        closed.append(candidate)

    script.failures = [RuntimeError("x")] * 4
    initializer = script.build(max_retries=0, timeout_s=0.2)
    initializer._discard = discard
    for number in (1, 2, 3):
        status = initializer.attempt()
        assert (status.state, status.step, status.attempts) == (InitState.RETRYING, "do_setup", number)
        assert status.hanging_since is None
    status = initializer.attempt()
    assert status.step == "close", "closes that hang don't add up without a limit"
    assert status.hanging_since is not None
    assert not initializer.wants_attempt
    release.set()
    wait_until(lambda: initializer.wants_attempt)
    assert initializer.status.step == "do_setup"
    wait_until(lambda: len(closed) == 4)
    assert initializer.attempt().state is InitState.READY


def test_without_retrying_the_first_failure_is_the_last_until_asked_and_a_loss_still_heals(script: Script) -> None:
    script.failures = [RuntimeError("x")] * 2
    initializer = script.build()
    initializer.set_limits(max_retries=3, timeout_s=5.0, is_retrying=False)
    assert initializer.attempt().state is InitState.EXHAUSTED
    initializer.ask()
    assert initializer.attempt().state is InitState.EXHAUSTED
    initializer.ask()
    assert (initializer.attempt().state, initializer.status.max_attempts) == (InitState.READY, 1)
    initializer.lose("gone", step="check")
    script.failures = [RuntimeError("x")] * 3
    assert [initializer.attempt().state for _ in range(4)] == [*[InitState.LOST] * 3, InitState.READY]
