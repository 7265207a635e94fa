"""Threads of one backup or restore, the channels between them, and stopping all of them.

Whoever waits in a channel is woken when any thread fails, so nothing is left hanging.  The
thread that called the engine reports progress meanwhile, and stops the others when it is told
to stop: they end after the call to store or volume that they are in.
"""

from __future__ import annotations

import collections
import mmap
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")

TICK_S = 0.2


class Stopped(Exception):
    """Another thread failed, or the caller was told to stop."""


class Channel(Generic[T]):
    """A queue of at most ``capacity`` items that can be closed by its writer and aborted by anyone."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: collections.deque[T] = collections.deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_aborted = False

    def put(self, item: T, timeout_s: float | None = None) -> bool:
        """Wait for room; False when there was none in time.  Raises ``Stopped``."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_aborted or len(self._items) < self._capacity, timeout_s):
                return False
            if self._is_aborted:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self) -> T | None:
        """The next item; None when the channel is closed and empty.  Raises ``Stopped``."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_aborted or self._items or self._is_closed)
            if self._is_aborted:
                raise Stopped
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        with self._changed:
            self._is_aborted = True
            self._changed.notify_all()


class Crew:
    """The threads of one run, with the channels that must be aborted when one of them fails.

    ``tick`` is called while the caller waits; what it raises stops the run.
    """

    def __init__(self, name: str, size: int, tick: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=name)
        self._futures: list[Future[None]] = []
        self._channels: list[Channel[object]] = []
        self._tick = tick
        self._ticked_at = time.monotonic()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            self._abort()
        self._pool.shutdown(wait=True)
        if isinstance(error, Stopped):
            # The caller was woken by a thread's failure: that failure is what to report.
            self._raise_first()

    def channel(self, capacity: int) -> Channel[T]:
        made: Channel[T] = Channel(capacity)
        self._channels.append(made)  # type: ignore[arg-type]
        return made

    def start(self, work: Callable[[], None]) -> Future[None]:
        future = self._pool.submit(work)
        future.add_done_callback(self._on_end)
        self._futures.append(future)
        return future

    def tick(self) -> None:
        """To be called between the caller's own steps; rate-limited here."""
        now = time.monotonic()
        if now - self._ticked_at >= TICK_S:
            self._ticked_at = now
            self._tick()

    def put(self, channel: Channel[T], item: T) -> None:
        """Put as the caller, ticking while there is no room."""
        self.tick()
        while not channel.put(item, TICK_S):
            self.tick()

    def join(self, *futures: Future[None]) -> None:
        """Wait for these threads, ticking; raises what the first failed one raised."""
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=TICK_S, return_when=FIRST_EXCEPTION)
            if any(future.exception() is not None for future in done):
                raise Stopped
            self.tick()

    def _on_end(self, future: Future[None]) -> None:
        if future.exception() is not None:
            self._abort()

    def _abort(self) -> None:
        for channel in self._channels:
            channel.abort()

    def _raise_first(self) -> None:
        errors = [error for future in self._futures if (error := future.exception()) is not None]
        for error in errors:
            if not isinstance(error, Stopped):
                raise error from None


class Buffers:
    """A pool of page-aligned buffers, as O_DIRECT wants them."""

    def __init__(self, crew: Crew, count: int, size_bytes: int) -> None:
        self._free: Channel[memoryview] = crew.channel(count)
        for _ in range(count):
            self._free.put(new_buffer(size_bytes))

    def take(self) -> memoryview:
        """Wait for a free one.  Raises ``Stopped``."""
        found = self._free.get()
        if found is None:
            raise Stopped
        return found

    def give_back(self, buffer: memoryview) -> None:
        self._free.put(buffer)


def new_buffer(size_bytes: int) -> memoryview:
    """Page-aligned memory, freed with its last view."""
    return memoryview(mmap.mmap(-1, size_bytes))
