"""Asking a driver that serves how its storage is, within a time.

A call that hangs can't be ended: it stays on its thread, and the same driver is not asked again
beside it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from volsvc import exceptions as exc

DriverT = TypeVar("DriverT")
AnswerT = TypeVar("AnswerT")


class _Call(Generic[DriverT, AnswerT]):
    """One call on a thread of its own."""

    def __init__(
        self, name: str, use: Callable[[], AbstractContextManager[DriverT]], ask: Callable[[DriverT], AnswerT]
    ) -> None:
        self.driver: DriverT | None = None
        self.ended = threading.Event()
        self._answers: list[AnswerT] = []
        self._error: BaseException | None = None
        self._use = use
        self._ask = ask
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            with self._use() as driver:
                self.driver = driver
                self._answers.append(self._ask(driver))
        except BaseException as error:  # noqa: BLE001 - whatever a driver raises is handed on by ``result``
            self._error = error
        finally:
            self.ended.set()

    def result(self) -> AnswerT:
        if self._error is not None:
            raise self._error
        return self._answers[0]


class DriverProbe(Generic[DriverT, AnswerT]):
    """Asks whatever driver ``use`` gives; ``name`` is the threads', ``what`` the call's in messages."""

    def __init__(
        self,
        name: str,
        use: Callable[[], AbstractContextManager[DriverT]],
        ask: Callable[[DriverT], AnswerT],
        what: str,
    ) -> None:
        self.what = what
        self._name = name
        self._use = use
        self._ask = ask
        self._hanging: _Call[DriverT, AnswerT] | None = None

    def read(self, timeout_s: float) -> AnswerT:
        """The driver's answer now.  Called by one thread at a time.

        Raises ``BackendUnavailable`` when it doesn't come within ``timeout_s`` or an earlier call of
        the same driver still hangs, else whatever the driver raised.
        """
        if self._hanging is not None and not self._hanging.ended.is_set():
            with self._use() as driver:
                if self._hanging.driver in (driver, None):
                    raise exc.BackendUnavailable(reason=f"{self.what} has still not come back")
        self._hanging = None
        call = _Call(self._name, self._use, self._ask)
        if not call.ended.wait(timeout_s):
            self._hanging = call
            raise exc.BackendUnavailable(reason=f"{self.what} has not come back within {timeout_s:.0f} s")
        return call.result()
