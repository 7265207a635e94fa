"""The file driver as the driver contract wants it: on a directory, with the target of your choice."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from volsvc.drivers.base import DriverContext
from volsvc.drivers.directory import PART_PREFIX
from volsvc.drivers.file import FileDriver
from volsvc.drivers.marker import MARKER_NAME
from volsvc.targets.base import BaseTarget, TargetContext
from volsvc.targets.local import LocalTarget
from volsvc.targets.nbd import NbdTarget
from volsvc.testing.driver_contract import DriverHarness
from volsvc.testing.snapshots import options_of


class FileHarness(DriverHarness):
    """``runtime_path`` must be short enough for sockets; ``options`` are the driver's."""

    def __init__(
        self, store_path: pathlib.Path, runtime_path: str, target: type[BaseTarget] = NbdTarget, **options: Any
    ) -> None:
        self.store_path = store_path
        self.runtime_path = runtime_path
        self.can_sever = target is not LocalTarget
        self._target = target
        self._options = options

    def new_driver(self) -> FileDriver:
        target = self._target(TargetContext("backend", "host@backend", options_of(self._target), self.runtime_path))
        options = options_of(FileDriver, file_store_path=str(self.store_path), **self._options)
        return FileDriver(
            DriverContext("backend", "host@backend", options, self.runtime_path, self.runtime_path, target)
        )

    @contextlib.contextmanager
    def swap_storage(self) -> Iterator[None]:
        hidden = self.store_path / "hidden-marker"
        os.rename(self.store_path / MARKER_NAME, hidden)
        yield
        os.rename(hidden, self.store_path / MARKER_NAME)

    def leftovers(self) -> list[str]:
        return [name for name in os.listdir(self.store_path) if name.startswith(PART_PREFIX)]
