"""Reading and writing an attached volume as its client does, whatever the target.

Contract suites know a volume's bytes only this way: through the connection_info that the
driver gave.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from volsvc.targets.fake import FakeClient
from volsvc.testing.nbd_client import NbdClient


class BlockClient(Protocol):
    """One open connection; what a client does to a block device."""

    @property
    def size_bytes(self) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class LocalClient:
    """A path of this host, opened as a hypervisor would."""

    def __init__(self, path: str, *, is_read_only: bool = False) -> None:
        self._fd = os.open(path, os.O_RDONLY if is_read_only else os.O_RDWR)

    @property
    def size_bytes(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self._fd, data, offset)

    def flush(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_connection(info: Mapping[str, Any]) -> BlockClient:
    """Connect as ``connection_info`` says.  Raises OSError when the export isn't there."""
    data = info["data"]
    kind = info["driver_volume_type"]
    if kind == "nbd":
        return NbdClient.from_uri(data["uri"])
    if kind == "local":
        return LocalClient(data["device_path"], is_read_only=data["access_mode"] == "ro")
    if kind == "fake":
        return FakeClient(data)
    raise ValueError(f"no client for a connection of type {kind!r}")
