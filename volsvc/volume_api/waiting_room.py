"""How many requests may wait for one backend, so that one that hangs leaves threads for all the others."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator

from volsvc import exceptions as exc


class WaitingRoom:
    """Places by ``host@backend``, and ``places_in_all`` for several that hang; nobody waits for a place."""

    def __init__(self, places: int, places_in_all: int) -> None:
        self._places = places
        self._places_in_all = places_in_all
        self._guard = threading.Lock()
        self._taken: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def place(self, host: str) -> Iterator[None]:
        """Raises ``BackendBusy`` when as many wait for that backend, or for all of them, as may."""
        with self._guard:
            if self._taken[host] >= self._places:
                raise exc.BackendBusy(waiting=self._taken[host], what=f"the backend {host}")
            if self._taken.total() >= self._places_in_all:
                raise exc.BackendBusy(waiting=self._taken.total(), what="backends that have not answered")
            self._taken[host] += 1
        try:
            yield
        finally:
            with self._guard:
                self._taken[host] -= 1
                if not self._taken[host]:
                    del self._taken[host]
