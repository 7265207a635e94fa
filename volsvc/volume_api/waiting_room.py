"""How many requests may wait for backends, so that those that hang leave threads for everybody else."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator

from volsvc import exceptions as exc


class WaitingRoom:
    """``places`` for all, and of them some for each kind of request to each ``host@backend``."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._changed = threading.Condition()
        self._taken: collections.Counter[tuple[str, str]] = collections.Counter()

    @contextlib.contextmanager
    def place(self, kind: str, host: str, places: int, *, patience_s: float = 0.0) -> Iterator[None]:
        """Hold one of ``places`` during the block; wait ``patience_s`` for it, and no longer.

        Raises ``BackendBusy`` when as many wait for that backend, or for all of them, as may.
        """
        mine = (kind, host)

        def is_free() -> bool:
            return self._taken[mine] < places and self._taken.total() < self._places

        with self._changed:
            if not self._changed.wait_for(is_free, patience_s):
                of_host = self._taken[mine]
                if of_host >= places:
                    raise exc.BackendBusy(waiting=of_host, what=f"the backend {host}")
                raise exc.BackendBusy(waiting=self._taken.total(), what="backends that have not answered")
            self._taken[mine] += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken[mine] -= 1
                if not self._taken[mine]:
                    del self._taken[mine]
                # All of them: the first in line may wait for another backend.
                self._changed.notify_all()
