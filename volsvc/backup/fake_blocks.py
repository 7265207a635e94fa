"""The fake driver's volumes as a backup reads and writes them: straight in the fake store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc.backup.blocks import PAGE_EXTENTS, Extent, ExtentPage
from volsvc.drivers import fake_store
from volsvc.drivers.fake_store import BLOCK_BYTES


class FakeBlocks:
    """Both a ``BlockSource`` and a ``BlockSink``; ``data`` is the connection's."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self._store = fake_store.open_store(data["store"])
        with self._file() as file:
            self.size_bytes: int = file["size"]

    def __str__(self) -> str:
        return f"the fake's reader {self._data['reader']}"

    def list_data(self, offset: int) -> ExtentPage:
        with self._file() as file:
            starts = sorted(int(number) * BLOCK_BYTES for number in file["blocks"])
        extents = [
            Extent(max(start, offset), min(start + BLOCK_BYTES, self.size_bytes) - max(start, offset))
            for start in starts
            if start + BLOCK_BYTES > offset
        ]
        if len(extents) <= PAGE_EXTENTS:
            return ExtentPage(extents, None)
        return ExtentPage(extents[:PAGE_EXTENTS], extents[PAGE_EXTENTS].offset)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._file() as file:
            buffer[:] = fake_store.read_file(file, offset, len(buffer))

    def write(self, offset: int, data: memoryview) -> None:
        if self._data["access_mode"] == "ro":
            raise exc.VolumeAccessError(reason=f"{self} is for reading only")
        with self._file() as file:
            fake_store.write_file(file, offset, bytes(data))

    def write_zeroes(self, offset: int, length: int) -> None:
        with self._file() as file:
            for number in [number for number in file["blocks"] if _is_within(int(number), offset, length)]:
                del file["blocks"][number]
        for start, end in _ragged_ends(offset, length):
            self.write(start, memoryview(bytes(end - start)))

    def sync(self) -> None:
        """Nothing is cached."""

    def close(self) -> None:
        """Nothing is open."""

    @contextlib.contextmanager
    def _file(self) -> Iterator[dict[str, Any]]:
        with self._store.transaction() as state:
            reader = state["readers"].get(self._data["reader"])
            if reader is None or reader["name"] not in state["files"]:
                raise exc.VolumeAccessError(reason=f"{self} was closed")
            yield state["files"][reader["name"]]


def _is_within(number: int, offset: int, length: int) -> bool:
    return offset <= number * BLOCK_BYTES and (number + 1) * BLOCK_BYTES <= offset + length


def _ragged_ends(offset: int, length: int) -> list[tuple[int, int]]:
    """What a range has before its first whole block and behind its last one."""
    end = offset + length
    first, last = -(-offset // BLOCK_BYTES) * BLOCK_BYTES, end // BLOCK_BYTES * BLOCK_BYTES
    if first > last:
        return [(offset, end)]
    return [(start, stop) for start, stop in ((offset, first), (last, end)) if start < stop]
