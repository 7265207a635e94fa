"""The runner of operations on the real store: who runs when, how each end is written, who is woken by it."""

from __future__ import annotations

import threading

import pytest

from tests.unit.runner_bench import DEADLINE_S, Bench, Gate, done
from volsvc import exceptions as exc
from volsvc import models
from volsvc.operations import Handler, OperationControl, Result
from volsvc.ports import Query
from volsvc.testing.daemon import wait_until
from volsvc.testing.stores import builders as b


def failing(error: BaseException) -> Handler:
    def handler(operation: models.Operation, control: OperationControl) -> Result:
        raise error

    return handler


# -- running --------------------------------------------------------------------------------------


def test_recorded_work_is_done_and_its_columns_and_result_are_written(bench: Bench) -> None:
    operation = bench.create()
    bench.runner(done)
    ended = bench.wait_ended(operation, "done")
    assert (ended.result, ended.attempts, ended.instance) == ({"answer": 42}, 1, "instance-0")
    volume = bench.store.get_volume(operation.resource_id)
    assert (volume.status, volume.provider) == ("available", {"made": True})


def test_a_ring_that_is_lost_costs_one_sweep_at_most(bench: Bench) -> None:
    bench.runner(done)
    bench.wait_ended(bench.create(), "done")


def test_a_ring_starts_work_without_a_sweep(bench: Bench) -> None:
    runner = bench.runner(done, settings={"sweep_interval_s": 3600})
    operation = bench.create()
    runner.ring()
    bench.wait_ended(operation, "done")


def test_no_more_than_the_workers_run_at_a_time(bench: Bench) -> None:
    gate = Gate()
    runner = bench.runner(gate, settings={"workers": 2})
    operations = [bench.create() for _ in range(5)]
    runner.ring()
    wait_until(lambda: len(gate.entered) == 2, "two to begin", DEADLINE_S)
    assert len(runner.running()) == 2
    states = [bench.store.get_operation(operation.id).state for operation in operations]
    assert sorted(states) == ["queued", "queued", "queued", "running", "running"]
    gate.open()
    for operation in operations:
        bench.wait_ended(operation, "done")


def test_operations_of_one_volume_run_one_after_the_other_in_order(bench: Bench) -> None:
    seen: list[str] = []
    together: list[int] = []

    def handler(operation: models.Operation, control: OperationControl) -> Result:
        together.append(len(runner.running()))
        seen.append(operation.action)
        return Result()

    volume = b.volume_record()
    operations = bench.store.submit(b.create_intent(volume), b.intent("volume_force_delete", volume.id))
    runner = bench.runner(handler, settings={"workers": 4})
    for operation in operations:
        bench.wait_ended(operation, "done")
    assert seen == ["volume_create", "volume_force_delete"]
    assert together == [1, 1]
    with pytest.raises(exc.VolumeNotFound):
        bench.store.get_volume(volume.id)


def test_readers_of_one_volume_run_together(bench: Bench) -> None:
    volume = b.add_volume(bench.store)
    gate = Gate()
    bench.runner(gate)
    for _ in range(3):
        b.submit(bench.store, b.create_intent(b.volume_record(), action="volume_clone", second_id=volume.id))
    wait_until(lambda: len(gate.entered) == 3, "all three to begin", DEADLINE_S)
    gate.open()


def test_nothing_is_claimed_while_the_backend_is_not_ready(bench: Bench) -> None:
    is_ready = threading.Event()
    asked = threading.Semaphore(0)

    def is_accepting() -> bool:
        asked.release()
        return is_ready.is_set()

    operation = bench.create()
    bench.runner(done, is_accepting=is_accepting)
    for _ in range(3):
        assert asked.acquire(timeout=DEADLINE_S)
    assert bench.store.get_operation(operation.id).state == "queued"
    is_ready.set()
    bench.wait_ended(operation, "done")


def test_a_runner_takes_only_what_is_for_its_hosts(bench: Bench) -> None:
    other = bench.create(host="host@other#pool")
    mine = bench.create()
    bench.runner(done)
    bench.wait_ended(mine, "done")
    assert bench.store.get_operation(other.id).state == "queued"
    bench.runner(done, host="some-name", claim_hosts=lambda: ["host@nothing", "host@other"])
    bench.wait_ended(other, "done")


def test_two_runners_of_one_host_do_each_operation_once(bench: Bench) -> None:
    """They never should be two; if they are, the claim decides."""
    seen: list[str] = []

    def handler(operation: models.Operation, control: OperationControl) -> Result:
        seen.append(operation.id)
        return Result()

    operations = [bench.create() for _ in range(20)]
    for _ in range(2):
        bench.runner(handler)
    for operation in operations:
        bench.wait_ended(operation, "done")
    assert sorted(seen) == sorted(operation.id for operation in operations)


# -- ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "error_class", "sentence"),
    [
        (exc.StorageFull(reason="no byte left"), "StorageFull", "no byte left"),
        (ValueError("a bug of the driver"), "ValueError", "ValueError: a bug of the driver"),
        (KeyError("x"), "KeyError", "KeyError"),
        (SystemExit(3), "SystemExit", "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt", "KeyboardInterrupt"),
        (MemoryError(), "MemoryError", "MemoryError"),
    ],
)
def test_whatever_a_handler_raises_ends_its_operation_with_the_reason_and_nothing_else(
    bench: Bench, error: BaseException, error_class: str, sentence: str
) -> None:
    operation = bench.create()
    runner = bench.runner(failing(error))
    ended = bench.wait_ended(operation, "failed")
    assert ended.error_class == error_class
    assert sentence in (ended.error or "")
    assert bench.status(operation) == "error"
    other = bench.create()
    bench.wait_ended(other, "failed")
    wait_until(lambda: not runner.running() and not runner.locks.held(), "the runner to be idle", DEADLINE_S)


def test_an_action_that_this_daemon_does_not_know_says_to_upgrade(bench: Bench) -> None:
    operation = bench.create()
    bench.runner(None)
    assert "upgrade it" in (bench.wait_ended(operation, "failed").error or "")


def test_a_backend_that_is_unavailable_puts_the_operation_back_without_counting(bench: Bench) -> None:
    is_away = threading.Event()
    is_away.set()
    told: list[exc.BackendUnavailable] = []

    def handler(operation: models.Operation, control: OperationControl) -> Result:
        if is_away.is_set():
            raise exc.BackendUnavailable(reason="no answer")
        return Result()

    operation = bench.create()
    bench.runner(handler, on_unavailable=told.append, is_accepting=lambda: not told or not is_away.is_set())
    wait_until(lambda: told, "the backend to be reported", DEADLINE_S)
    wait_until(lambda: bench.store.get_operation(operation.id).state == "queued", "the release", DEADLINE_S)
    waiting = bench.store.get_operation(operation.id)
    assert (waiting.attempts, "no answer" in (waiting.error or "")) == (0, True)
    assert bench.status(operation) == "creating"
    is_away.clear()
    assert bench.wait_ended(operation, "done").error is None


def test_progress_is_written_and_a_cancel_stops_the_handler_at_its_next_step(bench: Bench) -> None:
    def handler(operation: models.Operation, control: OperationControl) -> Result:
        for done_bytes in range(10_000):
            control.report(done_bytes, 10_000)
            threading.Event().wait(0.005)
        return Result()

    operation = bench.create()
    bench.runner(handler)
    wait_until(lambda: bench.store.get_operation(operation.id).progress_done > 2, "progress", DEADLINE_S)
    assert bench.store.get_operation(operation.id).progress_total == 10_000
    assert bench.store.request_cancel(operation.id).is_open
    ended = bench.wait_ended(operation, "cancelled")
    assert ended.error_class == "OperationCancelled"
    assert bench.status(operation) == "error"


def test_checkpoints_write_now_and_then_only(bench: Bench) -> None:
    now = [100.0]
    operation = b.claim(bench.store, bench.create())
    control = OperationControl(operation, bench.store, threading.Event(), lambda: now[0])
    control.checkpoint(1, 10)
    assert bench.store.get_operation(operation.id).progress_done == 0
    now[0] += 0.6
    control.checkpoint(2, 10)
    control.checkpoint(3, 10)
    assert bench.store.get_operation(operation.id).progress_done == 2


def test_a_superseded_handler_stops_at_its_next_step_and_writes_nothing(bench: Bench) -> None:
    stepped = threading.Event()

    def handler(operation: models.Operation, control: OperationControl) -> Result:
        while True:
            control.report(1, 2)
            stepped.set()
            threading.Event().wait(0.005)

    operation = bench.create()
    runner = bench.runner(handler)
    assert stepped.wait(DEADLINE_S)
    runner.stop_claiming()
    bench.store.take_back(b.HOST, "a-newer-instance", 0)
    claimed = b.claim(bench.store, operation, "a-newer-instance")
    wait_until(lambda: not runner.running(), "the old handler to stop", DEADLINE_S)
    assert bench.store.get_operation(operation.id) == claimed


def test_a_superseded_handler_that_returns_writes_nothing_and_held_its_volume_until_then(bench: Bench) -> None:
    gate = Gate()
    operation = bench.create()
    bench.runner(gate)
    wait_until(lambda: gate.entered, "the handler to begin", DEADLINE_S)
    bench.store.take_back(b.HOST, "a-newer-instance", 0)
    wait_until(lambda: not gate.controls[0].is_current(), "the claim to be lost", DEADLINE_S)
    later = bench.create()
    wait_until(lambda: later.resource_id in gate.entered, "a look at what can be claimed", DEADLINE_S)
    assert gate.entered.count(operation.resource_id) == 1, "the old handler is inside, so nobody else works on it"
    gate.open()
    bench.wait_ended(operation, "done")
    assert gate.entered.count(operation.resource_id) == 2
    assert bench.store.get_operation(operation.id).claim_epoch == 2


# -- waiting for an end ---------------------------------------------------------------------------------------


def test_whoever_waits_is_woken_by_the_end(bench: Bench) -> None:
    gate = Gate()
    runner = bench.runner(gate)
    operation = bench.create()
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(runner.wait_ended(operation.id, DEADLINE_S)))
    thread.start()
    wait_until(lambda: gate.entered, "the handler to begin", DEADLINE_S)
    gate.open()
    thread.join(DEADLINE_S)
    assert answers == [True]


def test_waiting_ends_with_the_time_and_for_what_has_ended_or_is_unknown_at_once(bench: Bench) -> None:
    gate = Gate()
    runner = bench.runner(gate)
    operation = bench.create()
    assert not runner.wait_ended(operation.id, 0.05)
    gate.open()
    bench.wait_ended(operation, "done")
    assert runner.wait_ended(operation.id, 0.0)
    assert bench.runner(done).wait_ended(operation.id, 0.0), "one that another runner has ended"
    assert not runner.wait_ended(b.new_id(), DEADLINE_S)


def test_history_is_kept_in_the_order_of_the_records(bench: Bench) -> None:
    operations = [bench.create() for _ in range(3)]
    bench.runner(done)
    for operation in operations:
        bench.wait_ended(operation, "done")
    listed = bench.store.list_operations(Query(sort=(("seq", "asc"),))).items
    assert [operation.id for operation in listed] == [operation.id for operation in operations]
