"""A handler that waits for another daemon leaves its place to others, and gets one again before it goes on."""

from __future__ import annotations

import threading

from tests.unit.runner_bench import DEADLINE_S, Bench
from volsvc import models
from volsvc.operations import OperationControl, Result
from volsvc.testing.daemon import wait_until


class Waiting:
    """Of the first ``count`` operations the handler waits aside; the others work until they are let go."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._guard = threading.Lock()
        self.is_back = threading.Event()
        self.may_end = threading.Event()
        self.aside: list[str] = []
        self.working: list[str] = []
        self.most_working = 0

    def __call__(self, operation: models.Operation, control: OperationControl) -> Result:
        with self._guard:
            is_waiting = len(self.aside) < self._count
            if is_waiting:
                self.aside.append(operation.id)
        if is_waiting:
            with control.aside():
                assert self.is_back.wait(DEADLINE_S)
        with self._guard:
            self.working.append(operation.id)
            self.most_working = max(self.most_working, len(self.working))
        assert self.may_end.wait(DEADLINE_S)
        with self._guard:
            self.working.remove(operation.id)
        return Result()


def test_others_work_while_handlers_wait_and_all_keep_to_the_limit(bench: Bench) -> None:
    handler = Waiting(4)
    bench.runner(handler, settings={"workers": 2})
    waiting = [bench.create() for _ in range(4)]
    wait_until(lambda: len(handler.aside) == 4, "four to wait aside", DEADLINE_S)
    others = [bench.create() for _ in range(3)]
    wait_until(lambda: len(handler.working) == 2, "two others to work", DEADLINE_S)
    handler.is_back.set()
    handler.may_end.set()
    for operation in (*waiting, *others):
        bench.wait_ended(operation, "done")
    assert handler.most_working == 2


def test_one_that_is_back_goes_before_what_is_new(bench: Bench) -> None:
    handler = Waiting(1)
    runner = bench.runner(handler, settings={"workers": 1})
    back = bench.create()
    wait_until(lambda: handler.aside == [back.id], "it to wait aside", DEADLINE_S)
    busy = bench.create()
    wait_until(lambda: handler.working == [busy.id], "another to have the place", DEADLINE_S)
    handler.is_back.set()
    wait_until(lambda: runner._returning == {back.id}, "it to wait for a place", DEADLINE_S)
    new = bench.create()
    handler.may_end.set()
    for operation in (back, busy, new):
        bench.wait_ended(operation, "done")
    assert handler.most_working == 1
    started = bench.store.get_operation(new.id).started_at
    ended = bench.store.get_operation(back.id).finished_at
    assert started is not None
    assert ended is not None
    assert ended <= started


def test_one_that_waits_for_a_place_can_be_cancelled(bench: Bench) -> None:
    handler = Waiting(1)
    bench.runner(handler, settings={"workers": 1})
    back = bench.create()
    wait_until(lambda: handler.aside == [back.id], "it to wait aside", DEADLINE_S)
    busy = bench.create()
    wait_until(lambda: handler.working == [busy.id], "another to have the place", DEADLINE_S)
    handler.is_back.set()
    bench.store.request_cancel(back.id)
    bench.wait_ended(back, "cancelled")
    handler.may_end.set()
    bench.wait_ended(busy, "done")
