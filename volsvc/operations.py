"""Running what the database says is to be done: claim, lock, handle, write the end.

One ``OperationRunner`` belongs to one backend (``host@backend``).  Its dispatcher thread
claims operations while workers are free; a bounded pool of threads runs the handlers.  The
doorbell only wakes the dispatcher, so a lost ring costs at most one sweep.

What an operation does to the storage is the handlers' business; which statuses follow is
the table's; this module sees to it that each claimed operation has exactly one end.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from volsvc import exceptions as exc
from volsvc import models, states
from volsvc.ports import Clock, Outcome, Store
from volsvc.resource_locks import Hold, ResourceLocks

LOG = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.5
REMEMBERED_ENDS = 4096


@dataclass(frozen=True, slots=True)
class Result:
    """What a handler returns: further columns of the two resources, and the operation's result."""

    first: Mapping[str, Any] = field(default_factory=dict)
    second: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """``workers``: operations of this backend at a time; ``sweep_interval_s``: how often the
    database is looked at without a ring; ``max_attempts``: starts of one operation that the
    daemon did not survive."""

    workers: int = 8
    sweep_interval_s: float = 5.0
    max_attempts: int = 5


class OperationControl:
    """A handler's view of its own operation: the ``Work`` that drivers report to."""

    def __init__(self, operation: models.Operation, store: Store, stopping: threading.Event, clock: Clock) -> None:
        self.operation = operation
        self._store = store
        self._stopping = stopping
        self._clock = clock
        self._reported_at = clock()

    def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
        """Report progress now and then; stop the handler when it must.

        Raises ``OperationInterrupted``, ``OperationCancelled`` or ``OperationSuperseded``.
        """
        if self._stopping.is_set():
            raise exc.OperationInterrupted(id=self.operation.id)
        now = self._clock()
        if now - self._reported_at < PROGRESS_INTERVAL_S:
            return
        self._reported_at = now
        self.report(done_bytes, total_bytes)

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


Handler = Callable[[models.Operation, OperationControl], Result]


class OperationRunner:
    """Claims and runs the operations of one ``host@backend``.

    ``claim_hosts`` are the names that operations are recorded under, when that is not ``host``.
    ``find_handler`` maps an action to its handler, ``is_accepting`` says whether new work may
    start (the backend is ready), ``on_unavailable`` is told when a handler met
    ``BackendUnavailable``.
    """

    def __init__(
        self,
        *,
        host: str,
        instance: str,
        store: Store,
        find_handler: Callable[[str], Handler | None],
        settings: RunnerSettings,
        is_accepting: Callable[[], bool] = lambda: True,
        on_unavailable: Callable[[exc.BackendUnavailable], None] = lambda error: None,
        claim_hosts: Callable[[], Sequence[str]] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.host = host
        self.instance = instance
        self._claim_hosts = claim_hosts or (lambda: (host,))
        self._store = store
        self._find_handler = find_handler
        self._settings = settings
        self._is_accepting = is_accepting
        self._on_unavailable = on_unavailable
        self._clock = clock
        self.locks = ResourceLocks()
        self._bell = threading.Event()
        self._stopping = threading.Event()  # no more claims
        self._interrupting = threading.Event()  # running handlers stop at their next step
        self._changed = threading.Condition()
        self._running: dict[str, models.Operation] = {}
        self._doubtful: set[str] = set()  # claims whose answer was lost
        self._ended: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix=f"op-{host}")
        self._dispatcher = threading.Thread(target=self._dispatch_loop, name=f"dispatch-{host}", daemon=True)

    # -- life ---------------------------------------------------------------------

    def start(self) -> None:
        self._dispatcher.start()

    def ring(self) -> None:
        """There may be work.  Never blocks."""
        self._bell.set()

    def stop_claiming(self) -> None:
        self._stopping.set()
        self._bell.set()

    def drain(self, timeout_s: float) -> bool:
        """Wait for what runs to end; returns whether it did."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout_s)

    def interrupt(self) -> None:
        """Ask what runs to stop at its next checkpoint and go back to the queue."""
        self._interrupting.set()

    def stop(self, timeout_s: float) -> bool:
        """Claim no more, let what runs finish, interrupt the rest; True when nothing runs any more."""
        self.stop_claiming()
        deadline = self._clock() + timeout_s
        is_idle = self.drain(timeout_s * 0.8)
        if not is_idle:
            self.interrupt()
            is_idle = self.drain(max(0.1, deadline - self._clock()))
        if self._dispatcher.is_alive():
            self._dispatcher.join(max(0.1, deadline - self._clock()))
        self._pool.shutdown(wait=False, cancel_futures=True)
        return is_idle

    def running(self) -> list[models.Operation]:
        with self._changed:
            return list(self._running.values())

    def take_back(self) -> None:
        """Requeue what an earlier instance of this host left running; those tried too often end here."""
        for host in self._claim_hosts():
            self._take_back(host)

    def _take_back(self, host: str) -> None:
        again, given_up = self._store.take_back(host, self.instance, self._settings.max_attempts)
        for operation in again:
            LOG.info(
                "operation %s: %s of %s %s goes on after a restart (attempt %d)",
                operation.id,
                operation.action,
                operation.resource_type,
                operation.resource_id,
                operation.attempts + 1,
            )
        for operation in given_up:
            LOG.error("operation %s: %s is given up: %s", operation.id, operation.action, operation.error)

    def apply(self, settings: RunnerSettings) -> None:
        """A reload has changed how many run at a time, or how often the database is looked at."""
        with self._changed:
            before, self._settings = self._settings, settings
            if before.workers != settings.workers:
                old = self._pool
                self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix=f"op-{self.host}")
                old.shutdown(wait=False)
        self._bell.set()

    # -- waiting for an end -------------------------------------------------------------

    def wait_ended(self, operation_id: str, timeout_s: float) -> bool:
        """Block until that operation has ended, at most ``timeout_s``; returns whether it has."""
        deadline = self._clock() + timeout_s
        while True:
            with self._changed:
                remaining = deadline - self._clock()
                self._changed.wait_for(lambda: operation_id in self._ended, max(0.0, min(1.0, remaining)))
                if operation_id in self._ended:
                    return True
            try:
                if not self._store.get_operation(operation_id).is_open:
                    return True
            except (exc.OperationNotFound, exc.StoreUnavailable):
                return False
            if self._clock() >= deadline or self._stopping.is_set():
                return False

    def _mark_ended(self, operation: models.Operation) -> None:
        with self._changed:
            self._ended[operation.id] = None
            while len(self._ended) > REMEMBERED_ENDS:
                self._ended.popitem(last=False)
            self._changed.notify_all()

    # -- dispatching ---------------------------------------------------------------------

    def _dispatch_loop(self) -> None:
        while not self._stopping.is_set():
            self._bell.wait(self._settings.sweep_interval_s)
            self._bell.clear()
            try:
                self._settle_doubtful_claims()
                if self._is_accepting():
                    self._dispatch()
            except exc.StoreUnavailable as error:
                LOG.warning("%s: no work can be claimed: %s", self.host, error)
                self._stopping.wait(1.0)
                self._bell.set()
            except Exception:
                LOG.exception("%s: the dispatcher failed; it goes on at the next sweep", self.host)

    def _dispatch(self) -> None:
        while not self._stopping.is_set() and self._is_accepting():
            free = self._settings.workers - len(self._running)
            if free <= 0 or not self._dispatch_some(free):
                return

    def _dispatch_some(self, free: int) -> bool:
        """Start up to ``free`` operations; False when none could be started."""
        started = False
        for candidate in self._store.claimable(self._claim_hosts(), free):
            holds = holds_of(candidate)
            if not self.locks.try_acquire(holds):
                continue
            operation = None
            try:
                operation = self._store.claim(candidate.id, self.instance)
            except exc.StoreUnavailable:
                self._doubtful.add(candidate.id)
                raise
            finally:
                if operation is None:
                    self.locks.release(holds)
            if operation is None:
                continue
            with self._changed:
                self._running[operation.id] = operation
                self._pool.submit(self._run, operation, holds)
            started = True
        return started

    def _settle_doubtful_claims(self) -> None:
        """A claim that the database has and we were not told of goes back to the queue: nobody works on it."""
        for operation_id in sorted(self._doubtful):
            try:
                operation = self._store.get_operation(operation_id)
                if operation.state == "running" and operation.instance == self.instance:
                    self._store.release(operation, "the database went away while it was claimed")
            except (exc.OperationNotFound, exc.OperationSuperseded):
                LOG.debug("operation %s: somebody else has settled it", operation_id)
            self._doubtful.discard(operation_id)

    def _run(self, operation: models.Operation, holds: list[Hold]) -> None:
        try:
            self._handle(operation)
        except Exception as error:
            LOG.exception("operation %s: its end could not be written", operation.id)
            self._end_badly(operation, error)
        finally:
            self.locks.release(holds)
            with self._changed:
                self._running.pop(operation.id, None)
                self._changed.notify_all()
            self._bell.set()

    def _handle(self, operation: models.Operation) -> None:
        handler = self._find_handler(operation.action)
        control = OperationControl(operation, self._store, self._interrupting, self._clock)
        started_at = self._clock()
        try:
            if handler is None:
                raise exc.OperationFailed(
                    id=operation.id, reason=f"this daemon doesn't know the action {operation.action!r}; upgrade it"
                )
            if operation.is_cancel_requested:
                raise exc.OperationCancelled(id=operation.id)
            result = handler(operation, control)
        except exc.OperationSuperseded:
            LOG.warning("operation %s: claimed by another; this handler stops here", operation.id)
            return
        except exc.OperationInterrupted as error:
            self._release(operation, str(error))
            return
        except exc.BackendUnavailable as error:
            LOG.warning("operation %s: back to the queue: %s", operation.id, error)
            self._on_unavailable(error)
            self._release(operation, exc.describe(error))
            return
        except exc.OperationCancelled as error:
            outcome = Outcome("cancelled", error=str(error), error_class="OperationCancelled")
        except BaseException as error:
            LOG.exception("operation %s: %s of %s failed", operation.id, operation.action, operation.resource_id)
            outcome = Outcome("failed", error=exc.describe(error), error_class=type(error).__name__)
        else:
            outcome = Outcome("done", first=result.first, second=result.second, result=result.result)
        self._finish(operation, outcome)
        LOG.info(
            "operation %s: %s of %s %s %s in %.3f s",
            operation.id,
            operation.action,
            operation.resource_type,
            operation.resource_id,
            outcome.state,
            self._clock() - started_at,
        )

    def _end_badly(self, operation: models.Operation, error: Exception) -> None:
        """An end that the store refused must not leave the operation running for ever."""
        reason = f"its end could not be written: {exc.describe(error)}"
        try:
            self._finish(operation, Outcome("failed", error=reason, error_class="OperationFailed"))
        except Exception:
            LOG.exception("operation %s: stays 'running' until this daemon restarts", operation.id)

    def _finish(self, operation: models.Operation, outcome: Outcome) -> None:
        try:
            self._until_store_answers(lambda: self._store.finish(operation, outcome))
        except exc.OperationSuperseded:
            LOG.warning("operation %s: claimed by another before its end was written", operation.id)
            return
        self._mark_ended(operation)

    def _release(self, operation: models.Operation, reason: str) -> None:
        try:
            self._until_store_answers(lambda: self._store.release(operation, reason))
        except exc.OperationSuperseded:
            LOG.warning("operation %s: claimed by another before it was released", operation.id)

    def _until_store_answers(self, write: Callable[[], Any]) -> None:
        """A result must not be lost because the database is away: wait for it, until we are stopped."""
        delay_s = 0.2
        while True:
            try:
                write()
                return
            except exc.StoreUnavailable as error:
                if self._interrupting.is_set():
                    raise
                LOG.warning("%s: waiting for the database: %s", self.host, error)
                self._interrupting.wait(delay_s)
                delay_s = min(delay_s * 2, 5.0)


def holds_of(operation: models.Operation) -> list[Hold]:
    """The resources an operation needs while it runs, as its row of the table says."""
    row = states.TRANSITIONS.get(operation.action)
    holds = [Hold(operation.resource_id, row.first.shared if row else False)]
    if operation.second_id is not None:
        is_shared = row.second.shared if row and row.second else False
        holds.append(Hold(operation.second_id, is_shared))
    return holds
