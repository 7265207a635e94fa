"""A handler's view of the operation that it runs: reporting, being stopped, and ending it itself."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Clock, Outcome, Store

LOG = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class Result:
    """What a handler returns: further columns of the two resources, and the operation's result."""

    first: Mapping[str, Any] = field(default_factory=dict)
    second: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)


def _cannot_end(outcome: Outcome) -> None:
    raise ValueError("this handler's end is written by its runner")


class OperationControl:
    """The ``Work`` that drivers report to.

    ``end``: writes an outcome under the claim, for handlers that must see whether it was written.
    ``is_leaving``: whether the daemon is about to stop and lets what runs finish.
    ``aside``: lets others work in the handler's place, see ``aside``.
    """

    def __init__(
        self,
        operation: models.Operation,
        store: Store,
        stopping: threading.Event,
        clock: Clock,
        end: Callable[[Outcome], None] = _cannot_end,
        *,
        is_leaving: Callable[[], bool] = lambda: False,
        aside: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self.operation = operation
        self.has_ended = False
        self._store = store
        self._stopping = stopping
        self._clock = clock
        self._end = end
        self._is_leaving = is_leaving
        self._stand_aside = aside
        self._reported_at = clock()
        self._yields_to: str | None = None

    def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
        """Report progress now and then; stop the handler when it must.

        Raises ``OperationInterrupted``, ``OperationCancelled`` or ``OperationSuperseded``.
        """
        self.raise_if_stopping()
        if self._yields_to is not None:
            raise exc.OperationInterrupted(f"it was stopped to let the reset {self._yields_to} go first")
        now = self._clock()
        if now - self._reported_at < PROGRESS_INTERVAL_S:
            return
        self._reported_at = now
        self.report(done_bytes, total_bytes)

    def raise_if_stopping(self) -> None:
        """Raises ``OperationInterrupted`` when the daemon stops."""
        if self._stopping.is_set():
            raise exc.OperationInterrupted(id=self.operation.id)

    def raise_if_leaving(self) -> None:
        """Raises ``OperationInterrupted`` as soon as the daemon is to stop: for a handler that only waits."""
        if self._is_leaving():
            raise exc.OperationInterrupted(id=self.operation.id)

    def aside(self) -> AbstractContextManager[None]:
        """While another daemon is waited for, others may work in this handler's place.

        Leaving it waits for a place again, and raises like ``checkpoint`` meanwhile.
        """
        return self._stand_aside()

    def report(self, done_bytes: int, total_bytes: int) -> None:
        """Write progress at once; raises like ``checkpoint``.  A database that is away is waited out."""
        try:
            is_cancel_requested = self._store.report_progress(self.operation, done_bytes, total_bytes)
        except exc.StoreUnavailable as error:
            LOG.warning("operation %s: progress not written: %s", self.operation.id, error)
            return
        if is_cancel_requested:
            raise exc.OperationCancelled(id=self.operation.id)

    def is_current(self) -> bool:
        """Whether this claim still holds; False also when the database can't say."""
        try:
            self._store.report_progress(self.operation, self.operation.progress_done, self.operation.progress_total)
        except (exc.OperationSuperseded, exc.StoreUnavailable):
            return False
        return True

    def yield_to(self, operation_id: str | None) -> None:
        """Have the handler stop at its next checkpoint and go back to the queue; None lets it go on."""
        self._yields_to = operation_id

    def end(self, outcome: Outcome) -> None:
        """End the operation now; the runner writes nothing more.

        Waits for a database that is away.  Raises ``OperationSuperseded``, or ``Conflict`` from the
        outcome's correction: then the operation is as it was.
        """
        self._end(outcome)
        self.has_ended = True


Handler = Callable[[models.Operation, OperationControl], Result]
