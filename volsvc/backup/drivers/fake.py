"""A backup store in memory, with failures, delays and hangs to order.

Tests and users of the engine share it; ``fake_script.py`` says how it is steered.  Options let
a real daemon run on it, with the script in a file.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import BackupDriver, BackupDriverContext, Data, ObjectInfo, check_name, check_prefix
from volsvc.drivers.fake_script import Script

_PAGE = 100

OPTS = [
    cfg.StrOpt("backup_fake_script", help="JSON file that tells the fake backup driver what to do wrong; for tests."),
]


class FakeObjects:
    """What a fake store holds; hand one object to several drivers to let them share it."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.guard = threading.Lock()
        self.capacity_bytes: int | None = None

    def total_bytes(self) -> int:
        return sum(map(len, self.objects.values()))


class FakeBackupDriver(BackupDriver):
    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        return OPTS

    def __init__(
        self, context: BackupDriverContext, objects: FakeObjects | None = None, script: Script | None = None
    ) -> None:
        super().__init__(context)
        self.objects = objects or FakeObjects()
        self.script = script or Script(path=self.options.backup_fake_script)
        self.is_closed = False

    def do_setup(self) -> None:
        with self.script.applied("do_setup"):
            return

    def check(self) -> None:
        with self.script.applied("check"):
            return

    def put(self, name: str, data: Data) -> None:
        check_name(name)
        with self.script.applied("put"):
            self._store(name, data)

    def put_if_absent(self, name: str, data: Data) -> None:
        check_name(name)
        with self.script.applied("put_if_absent"), self.objects.guard:
            if name in self.objects.objects:
                raise exc.BackupObjectExists(store=str(self), id=name)
            self._store(name, data)

    def get(self, name: str) -> bytes:
        check_name(name)
        with self.script.applied("get"):
            return self._find(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        check_name(name)
        with self.script.applied("get_range"):
            return self._find(name)[offset : offset + length]

    def list(self, prefix: str) -> Iterator[Sequence[ObjectInfo]]:
        check_prefix(prefix)
        with self.script.applied("list"):
            found = [
                ObjectInfo(name, len(data))
                for name, data in sorted(self.objects.objects.items())
                if name.startswith(prefix)
            ]
        for start in range(0, len(found), _PAGE):
            yield found[start : start + _PAGE]

    def delete(self, name: str) -> None:
        check_name(name)
        with self.script.applied("delete"):
            self.objects.objects.pop(name, None)

    def free_bytes(self) -> int | None:
        with self.script.applied("free_bytes"):
            if self.objects.capacity_bytes is None:
                return None
            return self.objects.capacity_bytes - self.objects.total_bytes()

    def close(self) -> None:
        self.is_closed = True

    def __str__(self) -> str:
        return "the fake backup store"

    def _store(self, name: str, data: Data) -> None:
        capacity = self.objects.capacity_bytes
        if capacity is not None:
            others = self.objects.total_bytes() - len(self.objects.objects.get(name, b""))
            if others + len(data) > capacity:
                raise exc.StorageFull(reason=f"{self} holds {capacity} bytes")
        self.objects.objects[name] = bytes(data)

    def _find(self, name: str) -> bytes:
        try:
            return self.objects.objects[name]
        except KeyError:
            raise exc.BackupObjectMissing(store=str(self), id=name) from None
