"""One attempt: named steps, run in a thread of their own on a candidate that they build up.

So a driver that hangs holds up nobody, and an error says which step failed.  What follows from how it
ends is the business of whoever began it: the initialiser's state machine, or a reload.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from volsvc import exceptions as exc
from volsvc.ports import Clock

LOG = logging.getLogger(__name__)

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Step(Generic[C]):
    """One named part of an attempt; it works on the candidate that the attempt builds up."""

    name: str
    run: Callable[[C], None]


class Attempt(Generic[C]):
    """One run of the steps in its own thread."""

    def __init__(self, number: int, candidate: C, steps: Sequence[Step[C]], name: str, clock: Clock) -> None:
        self.number = number
        self.is_answer = False  # to ``ask``: it began after that
        self.candidate = candidate
        self.current_step: str | None = None
        self.error: BaseException | None = None
        self.started_at = clock()
        self.ended = threading.Event()
        self._steps = steps
        self._on_end: Callable[[Attempt[C]], None] | None = None
        self.thread = threading.Thread(target=self._run, name=f"init-{name}-{number}", daemon=True)

    def start(self, on_end: Callable[[Attempt[C]], None]) -> None:
        self._on_end = on_end
        self.thread.start()

    def _run(self) -> None:
        try:
            for step in self._steps:
                self.current_step = step.name
                step.run(self.candidate)
            self.current_step = None
        except BaseException as error:  # noqa: BLE001 - whatever a driver raises, SystemExit included, ends the attempt
            self.error = error
        finally:
            try:
                if self._on_end is not None:
                    self._on_end(self)
            finally:
                self.ended.set()


class StepFailed(exc.VolsvcError):
    """A single run of the steps failed; ``step`` says in which, ``error`` with what."""

    template = "{step}: {reason}"

    def __init__(self, step: str, error: BaseException | None, reason: str) -> None:
        super().__init__(step=step, reason=reason)
        self.step = step
        self.error = error


def run_once(
    name: str,
    steps: Sequence[Step[C]],
    candidate: C,
    *,
    timeout_s: float,
    discard: Callable[[C], None],
    wait: Callable[[threading.Event, float], bool],
    clock: Clock = time.monotonic,
) -> None:
    """Run steps once in a thread of their own, beside whatever state the backend is in.

    ``wait`` waits for an event and may raise to give up.  Raises ``StepFailed``.  A candidate that
    failed, or whose steps end after the time was over, is discarded.
    """
    guard = threading.Lock()
    has_ended = is_given_up = False

    def on_end(attempt: Attempt[C]) -> None:
        nonlocal has_ended
        with guard:
            has_ended = True
        if is_given_up or attempt.error is not None:
            discard_quietly(name, discard, candidate)

    attempt = Attempt(0, candidate, steps, name, clock)
    attempt.start(on_end)
    try:
        wait(attempt.ended, timeout_s)
    finally:
        with guard:
            is_given_up = not has_ended
    if is_given_up:
        raise StepFailed(attempt.current_step or "setup", None, f"it has not come back within {timeout_s:.0f} s")
    attempt.ended.wait()
    if attempt.error is not None:
        raise StepFailed(attempt.current_step or "setup", attempt.error, exc.describe(attempt.error))


def discard_quietly(name: str, discard: Callable[[C], None], candidate: C) -> None:
    try:
        discard(candidate)
    except BaseException:  # a driver's close may raise anything
        LOG.exception("%s: closing a driver that did not start failed; it is dropped", name)
