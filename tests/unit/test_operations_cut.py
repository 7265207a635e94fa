"""The runner of operations when the database goes away, the daemon stops, or an earlier one was killed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.runner_bench import DEADLINE_S, Bench, Gate, done
from volsvc import exceptions as exc
from volsvc import models, operations
from volsvc.operations import OperationControl, Result
from volsvc.ports import Store
from volsvc.testing.daemon import wait_until
from volsvc.testing.stores import builders as b

# -- a database that is away ----------------------------------------------------------------------------


class Flaky:
    """A store whose named methods fail so many times, before or after they did their work."""

    def __init__(self, store: Store, **failures: int) -> None:
        self._store = store
        self.failures = dict(failures)
        self.fails_after = False

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.failures.get(name):
                return method(*args, **kwargs)
            self.failures[name] -= 1
            if self.fails_after:
                method(*args, **kwargs)
            raise exc.StoreUnavailable(reason="the test has unplugged it")

        return call


@pytest.mark.parametrize("method", ["claimable", "claim", "finish"])
def test_a_database_that_is_away_for_a_while_delays_and_loses_nothing(bench: Bench, method: str) -> None:
    operation = bench.create()
    bench.runner(done, store=Flaky(bench.store, **{method: 2}))
    assert bench.wait_ended(operation, "done").attempts == 1


def test_progress_that_cannot_be_written_does_not_end_the_work(bench: Bench) -> None:
    def handler(operation: models.Operation, control: OperationControl) -> Result:
        control.report(1, 2)
        return Result()

    operation = bench.create()
    bench.runner(handler, store=Flaky(bench.store, report_progress=1))
    bench.wait_ended(operation, "done")


def test_a_handler_that_meets_a_database_that_is_away_runs_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it asked for is promised, and nothing is known to be wrong with it."""
    monkeypatch.setattr(operations, "DATABASE_PAUSE_S", 0.05)
    flaky = Flaky(bench.store, get_volume=2, release=1)

    def handler(operation: models.Operation, control: OperationControl) -> Result:
        flaky.get_volume(operation.resource_id)
        return Result()

    operation = bench.create()
    bench.runner(handler, store=flaky)
    assert bench.wait_ended(operation, "done").attempts == 1
    assert bench.status(operation) == "available"


def test_a_daemon_that_stops_while_the_database_is_away_fails_nothing(bench: Bench) -> None:
    """It is back for the last of its tries: what could not be put back is the next start's, not failed."""
    flaky = Flaky(bench.store, release=1)
    gate = Gate()

    def handler(operation: models.Operation, control: OperationControl) -> Result:
        gate(operation, control)
        raise exc.OperationInterrupted(id=operation.id)

    operation = bench.create()
    runner = bench.runner(handler, store=flaky)
    wait_until(lambda: gate.entered, "the handler to begin", DEADLINE_S)
    runner.interrupt()
    gate.open()
    wait_until(lambda: not runner.running(), "the handler to end", DEADLINE_S)
    runner.stop_claiming()
    assert bench.store.get_operation(operation.id).state == "running"


def test_a_claim_whose_answer_was_lost_is_found_and_worked_on(bench: Bench) -> None:
    """The database has it as ours, and nobody runs it: without a look it would stay so until the next start."""
    flaky = Flaky(bench.store, claim=1)
    flaky.fails_after = True
    operation = bench.create()
    bench.runner(done, store=flaky)
    bench.wait_ended(operation, "done")
    assert bench.status(operation) == "available"


def test_an_end_whose_answer_was_lost_stands(bench: Bench) -> None:
    flaky = Flaky(bench.store, finish=1)
    flaky.fails_after = True
    operation = bench.create()
    runner = bench.runner(done, store=flaky)
    assert bench.wait_ended(operation, "done").attempts == 1
    wait_until(lambda: not runner.running(), "the handler to end", DEADLINE_S)
    assert bench.status(operation) == "available"


def test_an_end_that_the_store_refuses_is_a_failure_and_not_for_ever(bench: Bench) -> None:
    operation = bench.create()
    bench.runner(lambda operation, control: Result(first={"no_such_column": 1}))
    ended = bench.wait_ended(operation, "failed")
    assert "its end could not be written" in (ended.error or "")
    assert bench.status(operation) == "error"


# -- stopping and starting again ---------------------------------------------------------------------------


def test_a_stop_waits_for_what_runs_and_claims_no_more(bench: Bench) -> None:
    gate = Gate()
    runner = bench.runner(gate, settings={"workers": 1})
    first, second = bench.create(), bench.create()
    wait_until(lambda: gate.entered, "the first to begin", DEADLINE_S)
    stopped: list[bool] = []
    thread = threading.Thread(target=lambda: stopped.append(runner.stop(DEADLINE_S)))
    thread.start()
    gate.open()
    thread.join(DEADLINE_S)
    assert stopped == [True]
    bench.wait_ended(first, "done")
    assert bench.store.get_operation(second.id).state == "queued"


def test_a_stop_interrupts_what_takes_too_long_and_it_goes_back_uncounted(bench: Bench) -> None:
    begun = threading.Event()

    def handler(operation: models.Operation, control: OperationControl) -> Result:
        begun.set()
        while True:
            control.checkpoint(0, 1)
            threading.Event().wait(0.005)

    operation = bench.create()
    runner = bench.runner(handler)
    assert begun.wait(DEADLINE_S)
    assert runner.stop(1.0)
    waiting = bench.store.get_operation(operation.id)
    assert (waiting.state, waiting.attempts, bench.status(operation)) == ("queued", 0, "creating")
    bench.runner(done)
    bench.wait_ended(operation, "done")


def test_a_stop_leaves_a_handler_that_hangs_and_says_so(bench: Bench) -> None:
    gate = Gate()
    operation = bench.create()
    runner = bench.runner(gate)
    wait_until(lambda: gate.entered, "the handler to begin", DEADLINE_S)
    assert not runner.stop(0.2)
    assert bench.store.get_operation(operation.id).state == "running"
    gate.open()
    wait_until(lambda: not runner.running(), "the handler to end", DEADLINE_S)


def test_what_an_earlier_instance_left_running_is_done_again_up_to_the_limit(bench: Bench) -> None:
    tired = bench.create()
    for number in range(3):
        b.claim(bench.store, tired, f"dead-{number}")
        if number < 2:
            bench.store.take_back(b.HOST, f"dead-{number + 1}", 0)
    fresh = bench.create()
    b.claim(bench.store, fresh, "dead")
    runner = bench.runner(done, settings={"max_attempts": 3})
    runner.take_back()
    given_up = bench.store.get_operation(tired.id)
    assert (given_up.state, given_up.error_class, "3 times" in (given_up.error or "")) == (
        *("failed", "TooManyAttempts"),
        True,
    )
    assert bench.status(tired) == "error"
    assert bench.wait_ended(fresh, "done").attempts == 2
