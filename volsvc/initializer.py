"""Bringing a driver up, and up again: one state machine for every manager.

An attempt runs named steps in a thread of its own, so that a driver that hangs holds up
nobody, and so that an error says which step failed.  What follows from each end of an attempt
is one table, ``NEXT_STATE``.  Nothing here sleeps or retries: whoever publishes capabilities
calls ``attempt`` again while ``wants_attempt`` says so.
"""

from __future__ import annotations

import datetime as dt
import enum
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from volsvc import exceptions as exc
from volsvc.init_attempt import Attempt, Step, discard_quietly
from volsvc.ports import Clock

LOG = logging.getLogger(__name__)

C = TypeVar("C")

CLOSE_TIMEOUT_S = 2.0
MAX_HUNG_CLOSES = 3


class InitState(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    RETRYING = "retrying"
    LOST = "lost"
    EXHAUSTED = "exhausted"
    UNRECOVERABLE = "unrecoverable"


class Event(enum.StrEnum):
    SUCCEEDED = "an attempt succeeded"
    FAILED = "an attempt failed, others remain"
    FAILED_LAST = "an attempt failed, it was the last"
    FAILED_FOR_GOOD = "an attempt failed with an unrecoverable error"
    LOST = "the backend's health was lost"
    ASKED = "reload or reinit asked for an attempt"


_S, _E = InitState, Event

#: (state, event) → state.  A count that is used up never ends a backend that was ready before:
#: the count is about a start that never worked.
NEXT_STATE: dict[tuple[InitState, Event], InitState] = {
    (_S.STARTING, _E.SUCCEEDED): _S.READY,
    (_S.STARTING, _E.FAILED): _S.RETRYING,
    (_S.STARTING, _E.FAILED_LAST): _S.EXHAUSTED,
    (_S.STARTING, _E.FAILED_FOR_GOOD): _S.UNRECOVERABLE,
    (_S.STARTING, _E.LOST): _S.STARTING,
    (_S.STARTING, _E.ASKED): _S.STARTING,
    (_S.READY, _E.SUCCEEDED): _S.READY,
    (_S.READY, _E.FAILED): _S.LOST,
    (_S.READY, _E.FAILED_LAST): _S.LOST,
    (_S.READY, _E.FAILED_FOR_GOOD): _S.UNRECOVERABLE,
    (_S.READY, _E.LOST): _S.LOST,
    (_S.READY, _E.ASKED): _S.READY,
    (_S.RETRYING, _E.SUCCEEDED): _S.READY,
    (_S.RETRYING, _E.FAILED): _S.RETRYING,
    (_S.RETRYING, _E.FAILED_LAST): _S.EXHAUSTED,
    (_S.RETRYING, _E.FAILED_FOR_GOOD): _S.UNRECOVERABLE,
    (_S.RETRYING, _E.LOST): _S.RETRYING,
    (_S.RETRYING, _E.ASKED): _S.RETRYING,
    (_S.LOST, _E.SUCCEEDED): _S.READY,
    (_S.LOST, _E.FAILED): _S.LOST,
    (_S.LOST, _E.FAILED_LAST): _S.LOST,
    (_S.LOST, _E.FAILED_FOR_GOOD): _S.UNRECOVERABLE,
    (_S.LOST, _E.LOST): _S.LOST,
    (_S.LOST, _E.ASKED): _S.LOST,
    (_S.EXHAUSTED, _E.SUCCEEDED): _S.READY,
    (_S.EXHAUSTED, _E.FAILED): _S.RETRYING,
    (_S.EXHAUSTED, _E.FAILED_LAST): _S.EXHAUSTED,
    (_S.EXHAUSTED, _E.FAILED_FOR_GOOD): _S.UNRECOVERABLE,
    (_S.EXHAUSTED, _E.LOST): _S.EXHAUSTED,
    (_S.EXHAUSTED, _E.ASKED): _S.RETRYING,
    (_S.UNRECOVERABLE, _E.SUCCEEDED): _S.READY,
    (_S.UNRECOVERABLE, _E.FAILED): _S.RETRYING,
    (_S.UNRECOVERABLE, _E.FAILED_LAST): _S.EXHAUSTED,
    (_S.UNRECOVERABLE, _E.FAILED_FOR_GOOD): _S.UNRECOVERABLE,
    (_S.UNRECOVERABLE, _E.LOST): _S.UNRECOVERABLE,
    (_S.UNRECOVERABLE, _E.ASKED): _S.RETRYING,
}

#: States that an attempt leaves by itself at the next publish.
SELF_HEALING = frozenset({InitState.STARTING, InitState.RETRYING, InitState.LOST})


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """How one attempt ended, or that it hangs; ``step`` is None when it succeeded.

    ``was_hanging``: an attempt that was reported as hanging before has ended now.
    """

    number: int
    step: str | None
    reason: str | None
    error_class: str | None
    at: dt.datetime
    duration_s: float
    was_hanging: bool = False


@dataclass(frozen=True, slots=True)
class InitStatus:
    """All that is known, as it goes on the service's row."""

    state: InitState = InitState.STARTING
    step: str | None = None
    reason: str | None = None
    attempts: int = 0
    max_attempts: int = 0  # the first one and the retries; 0 = no limit
    losses: int = 0
    hanging_since: dt.datetime | None = None
    next_attempt_at: dt.datetime | None = None  # filled by whoever calls ``attempt`` periodically
    last_attempt: AttemptReport | None = None


class DriverInitializer(Generic[C]):
    """Runs attempts, keeps the state, hands a good candidate over and closes a bad one.

    ``new_candidate`` builds an empty candidate; ``steps`` fill it; ``adopt`` puts a whole one in
    service, ``discard`` closes one that failed or came too late.  ``on_change`` is told of every
    new status, in order; it must not raise.

    ``max_retries``: attempts after the first one until the count is used up, 0 = no limit;
    ``is_retrying`` False: there are none, whatever the count.
    ``timeout_s``: after it an attempt is shown as hanging; it goes on, nothing runs beside it.
    """

    def __init__(
        self,
        *,
        name: str,
        steps: Sequence[Step[C]],
        new_candidate: Callable[[], C],
        adopt: Callable[[C], None],
        discard: Callable[[C], None],
        on_change: Callable[[InitStatus], None],
        max_retries: int,
        timeout_s: float,
        is_retrying: bool = True,
        clock: Clock = time.monotonic,
    ) -> None:
        if max_retries < 0:
            raise exc.ConfigurationError(reason=f"reinit_driver_count is {max_retries}; it can't be negative")
        self.name = name
        self._steps = steps
        self._new_candidate = new_candidate
        self._adopt = adopt
        self._discard = discard
        self._on_change = on_change
        self._max_retries = max_retries
        self._is_retrying = is_retrying
        self._timeout_s = timeout_s
        self._clock = clock
        self._guard = threading.RLock()
        self._running: Attempt[C] | None = None
        self._is_asked = False
        self._hung_closes: list[threading.Thread] = []
        self._is_closed = False
        self._status = InitStatus(max_attempts=self._count_attempts())

    # -- what others ask ---------------------------------------------------------

    @property
    def status(self) -> InitStatus:
        return self._status

    @property
    def is_ready(self) -> bool:
        return self._status.state is InitState.READY

    @property
    def wants_attempt(self) -> bool:
        """Whether the next publish should call ``attempt``."""
        with self._guard:
            return self._running is None and not self._is_closed and self._status.state in SELF_HEALING

    @property
    def is_asked(self) -> bool:
        """Whether an attempt that ``ask`` is for has not ended yet."""
        return self._is_asked

    def ask(self) -> None:
        """Somebody mended something: the count starts anew and the next ``attempt`` is due now.

        An attempt that runs already may have looked before the mending, so one more follows it.
        """
        with self._guard:
            if self._status.state is InitState.READY or self._is_closed:
                return
            self._is_asked = True
            if self._running is None or self._status.hanging_since is not None:
                self._move(Event.ASKED, attempts=0, hanging_since=self._status.hanging_since)

    def lose(self, reason: str, *, step: str) -> bool:
        """A ready backend can't serve any more.  Returns whether that was news."""
        with self._guard:
            if self._status.state is not InitState.READY:
                return False
            self._move(Event.LOST, step=step, reason=reason, attempts=0, losses=self._status.losses + 1)
            return True

    def note_failed_publish(self, reason: str) -> None:
        """Publishing failed although the backend is ready: shown, and tried again at the next publish."""
        with self._guard:
            if self._status.state is InitState.READY and self._status.reason != reason:
                self._set(replace(self._status, step="publish", reason=reason))

    def note_published(self) -> None:
        with self._guard:
            if self._status.state is InitState.READY and self._status.reason is not None:
                self._set(replace(self._status, step=None, reason=None))

    def set_limits(self, *, max_retries: int, timeout_s: float, is_retrying: bool = True) -> None:
        """A reload has changed them; they hold from the next attempt on."""
        with self._guard:
            self._max_retries = max_retries
            self._is_retrying = is_retrying
            self._timeout_s = timeout_s
            self._status = replace(self._status, max_attempts=self._count_attempts())

    def _count_attempts(self) -> int:
        """Until the count is used up, the first one included; 0 = no limit."""
        if not self._is_retrying:
            return 1
        return self._max_retries + 1 if self._max_retries else 0

    def close(self) -> None:
        """No more attempts and no more statuses; an attempt that still runs is discarded when it ends."""
        with self._guard:
            self._is_closed = True
            self._is_asked = False

    # -- an attempt ------------------------------------------------------------------

    def attempt(self, stop: threading.Event | None = None) -> InitStatus:
        """Run one attempt and wait for its end, for ``timeout_s``, or for ``stop``.

        Does nothing when one is running (or hanging) already, or after ``close``.
        """
        with self._guard:
            if self._running is not None or self._is_closed:
                return self._status
            number = self._status.attempts + 1
            running = Attempt(number, self._new_candidate(), self._steps, self.name, self._clock)
            running.is_answer = self._is_asked
            self._running = running
            running.start(self._end)
        deadline = self._clock() + self._timeout_s
        while not running.ended.wait(min(0.5, max(0.0, deadline - self._clock()))):
            if stop is not None and stop.is_set():
                break
            if self._clock() >= deadline:
                self._mark_hanging(running)
                break
        return self._status

    def _mark_hanging(self, running: Attempt[C]) -> None:
        with self._guard:
            if self._running is not running or running.ended.is_set() or self._status.hanging_since is not None:
                return
            step = running.current_step
            reason = (
                f"{step} has not come back within {self._timeout_s:.0f} s; a restart of the daemon ends it "
                "('volsvc-volume --backend' runs a backend in a process of its own, to be restarted alone)"
            )
            so_far_s = self._clock() - running.started_at
            since = _utcnow() - dt.timedelta(seconds=so_far_s)
            report = AttemptReport(running.number, step, reason, None, _utcnow(), round(so_far_s, 3))
            event = self._failure_event(running.number, None)
            self._move(
                event, step=step, reason=reason, attempts=running.number, hanging_since=since, last_attempt=report
            )

    def _end(self, running: Attempt[C]) -> None:
        """Called in the attempt's thread."""
        error = running.error
        with self._guard:
            is_closed = self._is_closed
        if error is None and not is_closed:
            try:
                self._adopt(running.candidate)
            except BaseException as adopt_error:  # noqa: BLE001 - ends as a failed attempt, below
                error = adopt_error
                running.current_step = "adopt"
        if error is not None or is_closed:
            self._close_candidate(running)
        report = AttemptReport(
            number=running.number,
            step=running.current_step if error is not None else None,
            reason=exc.describe(error) if error is not None else None,
            error_class=type(error).__name__ if error is not None else None,
            at=_utcnow(),
            duration_s=round(self._clock() - running.started_at, 3),
        )
        with self._guard:
            self._running = None
            is_late = self._status.hanging_since is not None
            if running.is_answer:
                self._is_asked = False
            if is_closed:
                return
            self._record(running, error, replace(report, was_hanging=is_late))
            if self._is_asked and error is None:
                self._is_asked = False
            elif self._is_asked:
                self._move(Event.ASKED, attempts=0)

    def _close_candidate(self, running: Attempt[C]) -> None:
        """Close what the attempt has built, without letting a close that hangs end all attempts.

        It is left to its thread, but only so often; then it counts as the attempt that hangs.
        """
        failed_step, running.current_step = running.current_step, "close"
        closing = threading.Thread(
            target=discard_quietly,
            args=(self.name, self._discard, running.candidate),
            name=f"close-{self.name}-attempt",
            daemon=True,
        )
        closing.start()
        self._hung_closes = [thread for thread in self._hung_closes if thread.is_alive()]
        closing.join(CLOSE_TIMEOUT_S if len(self._hung_closes) < MAX_HUNG_CLOSES else None)
        if closing.is_alive():
            LOG.warning("%s: closing the driver that did not start hangs; it is left behind", self.name)
            self._hung_closes.append(closing)
        running.current_step = failed_step

    def _record(self, running: Attempt[C], error: BaseException | None, report: AttemptReport) -> None:
        if error is None:
            self._move(Event.SUCCEEDED, attempts=0, last_attempt=report)
            return
        if not isinstance(error, exc.VolsvcError):
            LOG.error("%s: attempt %d failed in %s", self.name, running.number, report.step, exc_info=error)
        # A hang was counted when it was noticed; its end only replaces the reason.
        event = self._failure_event(running.number, error)
        if report.was_hanging and event is not Event.FAILED_FOR_GOOD:
            self._set(
                replace(self._status, hanging_since=None, step=report.step, reason=report.reason, last_attempt=report)
            )
            return
        # The count is about the storage: a database that is away must not use it up.
        attempts = running.number - isinstance(error, exc.StoreUnavailable)
        self._move(event, step=report.step, reason=report.reason, attempts=attempts, last_attempt=report)

    def _failure_event(self, number: int, error: BaseException | None) -> Event:
        if isinstance(error, exc.VolsvcError) and not error.is_recoverable:
            return Event.FAILED_FOR_GOOD
        if isinstance(error, exc.StoreUnavailable):
            return Event.FAILED
        limit = self._count_attempts()
        if limit and number >= limit:
            return Event.FAILED_LAST
        return Event.FAILED

    # -- the state -------------------------------------------------------------------------

    def _move(self, event: Event, **fields: Any) -> None:
        before = self._status.state
        fields.setdefault("hanging_since", None)
        if event in (Event.SUCCEEDED,):
            fields.setdefault("step", None)
            fields.setdefault("reason", None)
        after = NEXT_STATE[(before, event)]
        self._set(replace(self._status, state=after, **fields))

    def _set(self, status: InitStatus) -> None:
        if self._is_closed:
            return  # whoever closed it says what it is now
        self._status = status
        self._on_change(status)


def _utcnow() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
