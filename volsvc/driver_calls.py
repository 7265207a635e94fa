"""Calls to a driver that may not come back: each has a deadline, one after the other in a thread of its own.

A thread can't be ended, so a call that hangs is left to itself: whoever waited goes on without it, and
leaves word of what is to be done when it does come back.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from volsvc import exceptions as exc

LOG = logging.getLogger(__name__)

T = TypeVar("T")
DriverT = TypeVar("DriverT")

Method = Callable[[DriverT], Any]
UseDriver = Callable[[], contextlib.AbstractContextManager[DriverT]]
#: What is done with the driver after a late end; the error is None when the call succeeded after all.
AfterLateEnd = Callable[[DriverT, BaseException | None], None]


class DriverHangs(exc.DriverError):
    """The call goes on in its thread."""

    template = "{what} has not come back within {timeout_s:.1f} s"


class _Call(Generic[DriverT]):
    def __init__(self, method: Method[DriverT]) -> None:
        self.method = method
        self.ended = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self, driver: DriverT) -> None:
        try:
            self.result = self.method(driver)
        except BaseException as error:  # noqa: BLE001 - whatever a driver raises is its caller's to judge
            self.error = error
        finally:
            self.ended.set()

    def fail(self, error: BaseException) -> None:
        """There is no driver to run it with."""
        self.error = error
        self.ended.set()


class _LastCall(_Call[DriverT]):
    """What is left to be done when a call that was given up has ended; ``always`` also without a driver."""

    def __init__(self, method: Method[DriverT], always: Callable[[], None]) -> None:
        super().__init__(method)
        self._always = always

    def run(self, driver: DriverT) -> None:
        try:
            super().run(driver)
            if self.error is not None:
                LOG.error("what was to follow a late answer of the driver failed", exc_info=self.error)
        finally:
            self._always()

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        self._always()


class DriverCalls(Generic[DriverT]):
    """The calls of one handler, all to the driver that is current at the first one.

    Use it as a context manager.  Not thread-safe: one handler waits for one call at a time.
    """

    def __init__(self, use_driver: UseDriver[DriverT], name: str) -> None:
        self._use_driver = use_driver
        self._queue: queue.SimpleQueue[_Call[DriverT] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"driver-{name}", daemon=True)
        self._hanging: _Call[DriverT] | None = None

    @property
    def is_hanging(self) -> bool:
        """Whether a call was given up; no other is made after it."""
        return self._hanging is not None

    def __enter__(self) -> DriverCalls[DriverT]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._queue.put(None)

    def call(self, what: str, method: Callable[[DriverT], T], timeout_s: float) -> T:
        """``method``'s result, or what it raised; ``DriverHangs`` after ``timeout_s``, and from then on.

        Raises ``BackendUnavailable`` when there is no driver.
        """
        if self._hanging is not None:
            raise DriverHangs(f"{what} was not called, because a call before it has not come back")
        if not self._thread.is_alive():
            self._thread.start()
        call = _Call(method)
        self._queue.put(call)
        if not call.ended.wait(max(0.0, timeout_s)):
            self._hanging = call
            raise DriverHangs(what=what, timeout_s=timeout_s)
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result

    def when_it_ends(self, after: AfterLateEnd[DriverT], always: Callable[[], None]) -> None:
        """Leave word for the call that was given up: ``after`` it, and then in any case ``always``.

        Both run in its thread, also when it has come back by now.
        """
        hanging = self._hanging
        if hanging is None:
            raise ValueError("no call was given up")
        self._queue.put(_LastCall(lambda driver: after(driver, hanging.error), always))

    def _work(self) -> None:
        try:
            with self._use_driver() as driver:
                while (call := self._queue.get()) is not None:
                    call.run(driver)
        except exc.BackendUnavailable as error:
            while (call := self._queue.get()) is not None:
                call.fail(error)
