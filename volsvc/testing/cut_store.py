"""A backup store whose n-th call is cut, as when the daemon is killed there."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from volsvc.backup.drivers.base import BackupDriver, Data, ObjectInfo
from volsvc.testing.cuts import Cut


class CutStore(BackupDriver):
    """Passes calls on to ``store`` until the ``number``-th one (from 1); that and all later ones raise ``Cut``.

    ``after``: the cut call still has its effect.  ``calls`` has the names of all calls.
    """

    def __init__(self, store: BackupDriver, number: int, *, after: bool = False) -> None:
        super().__init__(store.context)
        self._store = store
        self._number = number
        self._after = after
        self._guard = threading.Lock()
        self.calls: list[str] = []

    @property
    def was_cut(self) -> bool:
        return len(self.calls) >= self._number

    def put(self, name: str, data: Data) -> None:
        if self._step("put"):
            self._store.put(name, data)
        self._end()

    def put_if_absent(self, name: str, data: Data) -> None:
        if self._step("put_if_absent"):
            self._store.put_if_absent(name, data)
        self._end()

    def get(self, name: str) -> bytes:
        self._step("get")
        self._end()
        return self._store.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._step("get_range")
        self._end()
        return self._store.get_range(name, offset, length)

    def list(self, prefix: str) -> Iterator[Sequence[ObjectInfo]]:
        self._step("list")
        self._end()
        return self._store.list(prefix)

    def delete(self, name: str) -> None:
        if self._step("delete"):
            self._store.delete(name)
        self._end()

    def delete_many(self, names: Sequence[str]) -> None:
        for name in names:
            self.delete(name)

    def check_identity(self) -> None:
        self._store.check_identity()

    def _step(self, name: str) -> bool:
        """Count a call; whether it still has its effect."""
        with self._guard:
            self.calls.append(name)
            count = len(self.calls)
        if count > self._number or (count == self._number and not self._after):
            raise Cut(f"at call {count}, {name}")
        return True

    def _end(self) -> None:
        if len(self.calls) >= self._number:
            raise Cut(f"after call {self._number}")
