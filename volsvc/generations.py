"""Driver generations: an operation keeps the driver it began on.

A generation is one built driver.  Replacing it is a pointer swap; the old one is closed when the
last operation that holds it has ended.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from volsvc import exceptions as exc

LOG = logging.getLogger(__name__)


class Closable(Protocol):
    """All that is asked of a driver here."""

    def close(self) -> None: ...


DriverT = TypeVar("DriverT", bound=Closable)


class Generation(Generic[DriverT]):
    """A driver, how many operations use it, and whether it was replaced."""

    def __init__(self, number: int, driver: DriverT, backend: str = "") -> None:
        self.number = number
        self._backend = backend
        self.driver = driver
        self._users = 0
        self._is_retired = False
        self._is_closed = False
        self._guard = threading.Lock()
        self.closed = threading.Event()

    def _enter(self) -> None:
        with self._guard:
            self._users += 1

    def _leave(self) -> None:
        with self._guard:
            self._users -= 1
        self._close_if_unused()

    def retire(self) -> None:
        """No new users; closed when nobody uses it, see ``closed``."""
        with self._guard:
            self._is_retired = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._guard:
            if not self._is_retired or self._users or self._is_closed:
                return
            self._is_closed = True
        # On a thread of its own: a close that hangs with its storage must not hold up whoever lost it.
        threading.Thread(target=self._close, name=f"close-{self._backend}-{self.number}", daemon=True).start()

    def _close(self) -> None:
        try:
            self.driver.close()
        except BaseException:  # a driver's close may raise anything
            LOG.exception("%s: closing generation %d failed; it is dropped", self._backend, self.number)
        finally:
            self.closed.set()


class CurrentGeneration(Generic[DriverT]):
    """The pointer to the generation that new operations begin on."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._guard = threading.Lock()
        self._current: Generation[DriverT] | None = None
        self._count = 0

    def swap(self, driver: DriverT | None) -> Generation[DriverT] | None:
        """Put a driver in place (None: there is none now), retire the one before and return it."""
        with self._guard:
            before = self._current
            if driver is None:
                self._current = None
            else:
                self._count += 1
                self._current = Generation(self._count, driver, self._backend)
        if before is not None:
            before.retire()
        return before

    def is_current(self, driver: DriverT) -> bool:
        with self._guard:
            return self._current is not None and self._current.driver is driver

    def drop(self, lost: Generation[DriverT] | None) -> None:
        """There is no driver now, unless another than ``lost`` is in place already."""
        with self._guard:
            if lost is None or self._current is not lost:
                return
            self._current = None
        lost.retire()

    @property
    def current(self) -> Generation[DriverT] | None:
        return self._current

    @contextlib.contextmanager
    def use(self) -> Iterator[DriverT]:
        """The current driver, kept open for the length of the block.

        Raises ``BackendUnavailable`` when there is none.
        """
        with self._guard:
            generation = self._current
            if generation is None:
                error = exc.BackendUnavailable(reason=f"the driver of {self._backend} is not initialised")
                # Whoever took it away knows why: a reload that makes room has not lost the backend.
                error.is_of_current_driver = False
                raise error
            generation._enter()
        try:
            yield generation.driver
        finally:
            generation._leave()
