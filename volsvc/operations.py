"""Running what the database says is to be done: claim, lock, handle, write the end.

One ``OperationRunner`` belongs to one backend (``host@backend``).  Its dispatcher thread
claims operations while workers are free; a bounded pool of threads runs the handlers.  The
doorbell only wakes the dispatcher, so a lost ring costs at most one sweep.

What an operation does to the storage is the handlers' business; which statuses follow is
the table's; this module sees to it that each claimed operation has exactly one end.

Operations that don't stand in line (``states.Standing``) have a lane of their own: they are recorded
under another name, claimed first, run on threads that nothing else takes, and hold no lock but
what they ask for with ``alone``.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from volsvc import exceptions as exc
from volsvc import models, states
from volsvc.operation_control import Handler, OperationControl, Result
from volsvc.ports import Clock, Outcome, Store
from volsvc.resource_locks import Hold, ResourceLocks

__all__ = ["Handler", "Lease", "OperationControl", "OperationRunner", "Result", "RunnerSettings", "holds_of"]

LOG = logging.getLogger(__name__)

REMEMBERED_ENDS = 4096
MAX_ASIDE = 64  # handlers that wait for another daemon beside those that work
LEASE_POLL_S = 0.2
DATABASE_PAUSE_S = 1.0  # before what met a database that is away runs again


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """``workers``: operations of this backend at a time; ``express_workers``: those that don't stand in
    line, beside them; ``sweep_interval_s``: how often the database is looked at without a ring;
    ``max_attempts``: starts of one operation that the daemon did not survive."""

    workers: int = 8
    express_workers: int = 8
    sweep_interval_s: float = 5.0
    max_attempts: int = 5


@dataclass(frozen=True, slots=True)
class _Running:
    operation: models.Operation
    control: OperationControl
    holds: tuple[Hold, ...]


class Lease:
    """A resource held alone; ``release`` gives it back, once, from any thread."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self._guard = threading.Lock()
        self._is_held = True

    def release(self) -> None:
        with self._guard:
            was_held, self._is_held = self._is_held, False
        if was_held:
            self._release()


class OperationRunner:
    """Claims and runs the operations of one ``host@backend``.

    ``has_express_lane``: also run what doesn't stand in line.  ``claim_hosts`` are the names that
    operations are recorded under, when that is not ``host``.  ``find_handler`` maps an action to its
    handler, ``is_accepting`` says whether new work may start (the backend is ready),
    ``on_unavailable`` is told when a handler met ``BackendUnavailable``, ``on_ended`` of each operation whose
    end was written here.
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
        on_ended: Callable[[models.Operation], None] = lambda operation: None,
        claim_hosts: Callable[[], Sequence[str]] | None = None,
        has_express_lane: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        self.host = host
        self.instance = instance
        self._claim_hosts = claim_hosts or (lambda: (host,))
        self._express_hosts = (models.express_host(host),) if has_express_lane else ()
        self._store = store
        self._find_handler = find_handler
        self._settings = settings
        self._is_accepting = is_accepting
        self._on_unavailable = on_unavailable
        self._on_ended = on_ended
        self._clock = clock
        self.locks = ResourceLocks()
        self._bell = threading.Event()
        self._leaving = threading.Event()  # no more claims of what stands in line
        self._stopping = threading.Event()  # no more claims
        self._interrupting = threading.Event()  # running handlers stop at their next step
        self._changed = threading.Condition()
        self._running: dict[str, _Running] = {}
        self._doubtful: set[str] = set()  # claims whose answer was lost
        self._ended: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._aside: set[str] = set()  # running, but waiting for another daemon
        self._returning: set[str] = set()  # of those, ready to go on: served before what is new
        self._pool = self._new_pool(settings)
        self._express_pool = ThreadPoolExecutor(settings.express_workers, thread_name_prefix=f"express-{host}")
        self._dispatcher = threading.Thread(target=self._dispatch_loop, name=f"dispatch-{host}", daemon=True)

    def _new_pool(self, settings: RunnerSettings) -> ThreadPoolExecutor:
        """Threads are made when they are needed; those that wait aside need one too."""
        return ThreadPoolExecutor(settings.workers + MAX_ASIDE, thread_name_prefix=f"op-{self.host}")

    # -- life ---------------------------------------------------------------------

    def start(self) -> None:
        self._dispatcher.start()

    def ring(self) -> None:
        """There may be work.  Never blocks."""
        self._bell.set()

    def leave_queue(self) -> None:
        """Claim nothing more that stands in line; others of the process may need the express lane a while longer."""
        self._leaving.set()

    def stop_claiming(self) -> None:
        self._leaving.set()
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
        self._express_pool.shutdown(wait=False, cancel_futures=True)
        return is_idle

    def running(self) -> list[models.Operation]:
        with self._changed:
            return [running.operation for running in self._running.values()]

    def take_back(self) -> None:
        """Requeue what an earlier instance of this host left running; those tried too often end here."""
        for host in (*self._claim_hosts(), *self._express_hosts):
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
                self._pool = self._new_pool(settings)
                old.shutdown(wait=False)
        self._bell.set()

    # -- holding a resource alone -------------------------------------------------------

    def alone(self, resource_id: str, control: OperationControl, timeout_s: float) -> Lease:
        """Hold a resource alone, for an operation that stands ahead of its queue.

        Handlers that hold it are asked to stop and go back to the queue, where they stay as long as the
        operation of ``control`` is open.  Raises ``Conflict`` when one has not stopped in time (it
        goes on), and like ``control.raise_if_stopping``.
        """
        wish = [Hold(resource_id, is_shared=False)]
        deadline = self._clock() + timeout_s
        asked: list[OperationControl] = []
        try:
            with self._changed:
                while not self.locks.try_acquire(wish):
                    holders = self._holders(resource_id)
                    asked = [holder.control for holder in holders]
                    for holder in asked:
                        holder.yield_to(control.operation.id)
                    remaining = deadline - self._clock()
                    if remaining <= 0:
                        raise exc.Conflict(reason=_why_not_alone(resource_id, holders, timeout_s))
                    self._changed.wait(min(LEASE_POLL_S, remaining))
                    control.raise_if_stopping()
        except BaseException:
            for holder in asked:
                holder.yield_to(None)
            raise
        return Lease(lambda: self._let_go(wish))

    def share(self, resource_id: str, timeout_s: float) -> Lease | None:
        """Hold a resource beside others that only share it; None when it was not to be had in time."""
        wish = [Hold(resource_id, is_shared=True)]
        with self._changed:
            if not self._changed.wait_for(lambda: self.locks.try_acquire(wish), timeout_s):
                return None
        return Lease(lambda: self._let_go(wish))

    def _holders(self, resource_id: str) -> list[_Running]:
        return [
            running
            for running in self._running.values()
            if any(hold.resource_id == resource_id for hold in running.holds)
        ]

    def _let_go(self, holds: Sequence[Hold]) -> None:
        self.locks.release(holds)
        with self._changed:
            self._changed.notify_all()
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
        try:
            self._on_ended(operation)
        except exc.StoreUnavailable as error:
            LOG.warning("operation %s: who waits for its end is not told: %s", operation.id, error)

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
            may_be_more = self._dispatch_express()
            free = self._settings.workers - self._count_working(with_returning=True)
            if free > 0 and not self._leaving.is_set():
                may_be_more = self._dispatch_some(free) or may_be_more
            if not may_be_more:
                return

    def _count_working(self, *, with_returning: bool) -> int:
        with self._changed:
            idle = self._aside - self._returning if with_returning else self._aside
            return sum(bool(running.holds) and key not in idle for key, running in self._running.items())

    def _count_express(self) -> int:
        with self._changed:
            return sum(not running.holds for running in self._running.values())

    def _dispatch_express(self) -> bool:
        """Start what doesn't stand in line; whether more than was looked at may wait."""
        free = self._settings.express_workers - self._count_express()
        if not self._express_hosts or free <= 0:
            return False
        started = False
        candidates = self._store.claimable(self._express_hosts, free)
        for candidate in candidates:
            operation = self._claim(candidate)
            if operation is not None:
                self._start(operation, ())
                started = True
        return started and len(candidates) == free

    def _dispatch_some(self, free: int) -> bool:
        """Start up to ``free`` operations; whether more than was looked at may wait, and could be started."""
        started = False
        # What is held by a handler that was superseded, or by a driver that hangs, is claimable for ever:
        # it must not hide what comes after it.
        limit = free + len(self.locks.held())
        candidates = self._store.claimable(self._claim_hosts(), limit)
        for candidate in candidates:
            holds = tuple(holds_of(candidate))
            if not self.locks.try_acquire(holds):
                continue
            operation = None
            try:
                operation = self._claim(candidate)
            finally:
                if operation is None:
                    self.locks.release(holds)
            if operation is None:
                continue
            self._start(operation, holds)
            started = True
            free -= 1
            if free == 0:
                break
        return started and len(candidates) == limit

    def _claim(self, candidate: models.Operation) -> models.Operation | None:
        try:
            return self._store.claim(candidate.id, self.instance)
        except exc.StoreUnavailable:
            self._doubtful.add(candidate.id)
            raise

    def _start(self, operation: models.Operation, holds: tuple[Hold, ...]) -> None:
        control = OperationControl(
            operation,
            self._store,
            self._interrupting,
            self._clock,
            lambda outcome: self._until_store_answers(lambda: self._store.finish(operation, outcome)),
            is_leaving=self._leaving.is_set,
            aside=lambda: self._stand_aside(control),
        )
        running = _Running(operation, control, holds)
        with self._changed:
            self._running[operation.id] = running
            pool = self._pool if holds else self._express_pool
            pool.submit(self._run, running)

    @contextlib.contextmanager
    def _stand_aside(self, control: OperationControl) -> Iterator[None]:
        """Others may work in this handler's place meanwhile; it has to get one again before it goes on.

        Raises like ``checkpoint`` while it waits for that.
        """
        operation = control.operation
        with self._changed:
            has_room = len(self._aside) < MAX_ASIDE
            if has_room:
                self._aside.add(operation.id)
        if not has_room:
            yield
            return
        self._bell.set()
        try:
            yield
            with self._changed:
                self._returning.add(operation.id)
            while not self._has_place_again(operation.id):
                control.checkpoint(operation.progress_done, operation.progress_total)
        finally:
            with self._changed:
                self._aside.discard(operation.id)
                self._returning.discard(operation.id)

    def _has_place_again(self, operation_id: str) -> bool:
        with self._changed:
            if self._count_working(with_returning=False) >= self._settings.workers:
                self._changed.wait(LEASE_POLL_S)
                return False
            self._aside.discard(operation_id)
            return True

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

    def _run(self, running: _Running) -> None:
        operation = running.operation
        try:
            self._handle(operation, running.control)
        except exc.StoreUnavailable as error:
            LOG.warning("operation %s: the next start takes it back: %s", operation.id, error)
        except Exception as error:
            LOG.exception("operation %s: its end could not be written", operation.id)
            self._end_badly(operation, error)
        finally:
            self.locks.release(running.holds)
            with self._changed:
                self._running.pop(operation.id, None)
                self._changed.notify_all()
            self._bell.set()

    def _handle(self, operation: models.Operation, control: OperationControl) -> None:
        handler = self._find_handler(operation.action)
        started_at = self._clock()
        try:
            if handler is None:
                raise exc.OperationFailed(
                    id=operation.id, reason=f"this daemon doesn't know the action {operation.action!r}; upgrade it"
                )
            if operation.is_cancel_requested:
                raise exc.OperationCancelled(id=operation.id)
            result = handler(operation, control)
            if control.has_ended:
                self._mark_ended(operation)
                return
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
        except exc.StoreUnavailable as error:
            LOG.warning("operation %s: back to the queue: %s", operation.id, error)
            self._interrupting.wait(DATABASE_PAUSE_S)
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


def _why_not_alone(resource_id: str, holders: Sequence[_Running], waited_s: float) -> str:
    names = [f"operation {holder.operation.id} ({holder.operation.action})" for holder in holders]
    what = " and ".join(names) or "a call to the driver that was given up and has not come back"
    return (
        f"{resource_id} is held by {what}, which did not stop within {waited_s:g} s and goes on. Wait for it, or reset "
        'with "force": "skip", which writes the record without asking anybody'
    )
