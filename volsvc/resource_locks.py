"""Locks in memory, one for each resource, shared or exclusive, taken without waiting.

The database already lets only one operation of a resource run.  These locks cover what it
can't see: a handler that was superseded but whose driver call has not returned yet still
holds its resources, so that nobody touches the same storage beside it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """One wish: this resource, alone or together with other sharers."""

    resource_id: str
    is_shared: bool


class ResourceLocks:
    """Holders by resource: a positive count of sharers, or -1 for one exclusive holder."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[str, int] = {}

    def try_acquire(self, holds: Iterable[Hold]) -> bool:
        """Take all of them or none; returns whether they were taken.  Never waits."""
        wanted = list(holds)
        with self._guard:
            for hold in wanted:
                count = self._held.get(hold.resource_id, 0)
                if count < 0 or (count > 0 and not hold.is_shared):
                    return False
            for hold in wanted:
                if hold.is_shared:
                    self._held[hold.resource_id] = self._held.get(hold.resource_id, 0) + 1
                else:
                    self._held[hold.resource_id] = -1
            return True

    def release(self, holds: Iterable[Hold]) -> None:
        with self._guard:
            for hold in holds:
                count = self._held.pop(hold.resource_id, 0)
                if count > 1:
                    self._held[hold.resource_id] = count - 1

    def held(self) -> frozenset[str]:
        with self._guard:
            return frozenset(self._held)
