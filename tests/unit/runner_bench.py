"""Runners of operations on the real store, with handlers that a test controls."""

from __future__ import annotations

import threading
from typing import Any

from volsvc import models
from volsvc.operations import Handler, OperationControl, OperationRunner, Result, RunnerSettings
from volsvc.ports import Store
from volsvc.testing.daemon import wait_until
from volsvc.testing.stores import builders as b

DEADLINE_S = 10.0


class Gate:
    """A handler that waits to be let through; ``entered`` has the resources in the order in which they came."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.controls: list[OperationControl] = []
        self._open = threading.Event()

    def __call__(self, operation: models.Operation, control: OperationControl) -> Result:
        self.entered.append(operation.resource_id)
        self.controls.append(control)
        assert self._open.wait(DEADLINE_S)
        return Result()

    def open(self) -> None:
        self._open.set()


class Bench:
    """A store, and runners on it that are stopped when the test is over."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.runners: list[OperationRunner] = []

    def runner(self, handler: Handler | None, *, store: Any = None, **kwargs: Any) -> OperationRunner:
        settings = RunnerSettings(**{"sweep_interval_s": 0.05, **kwargs.pop("settings", {})})
        runner = OperationRunner(
            **{"host": b.HOST, "instance": f"instance-{len(self.runners)}", **kwargs},
            store=store or self.store,
            find_handler=lambda action: handler,
            settings=settings,
        )
        self.runners.append(runner)
        runner.start()
        return runner

    def create(self, **fields: Any) -> models.Operation:
        """A recorded volume_create."""
        return b.submit(self.store, b.create_intent(b.volume_record(**fields)))

    def wait_ended(self, operation: models.Operation, state: str) -> models.Operation:
        wait_until(lambda: not self.store.get_operation(operation.id).is_open, "the operation to end", DEADLINE_S)
        ended = self.store.get_operation(operation.id)
        assert ended.state == state, ended
        return ended

    def status(self, operation: models.Operation) -> str:
        return self.store.get_volume(operation.resource_id).status


def done(operation: models.Operation, control: OperationControl) -> Result:
    return Result(first={"provider": {"made": True}}, result={"answer": 42})
