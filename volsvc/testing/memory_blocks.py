"""A volume in memory, as the backup engine reads and writes it, with failures to order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from volsvc.backup.blocks import Extent, ExtentPage


class MemorySource:
    """``content`` with holes where ``extents`` (ascending) aren't; None: data everywhere.

    ``on_read(offset, length)`` is called before each read and may raise.
    """

    def __init__(
        self,
        content: bytes,
        extents: Sequence[tuple[int, int]] | None = None,
        *,
        page_extents: int = 2,
        on_read: Callable[[int, int], None] = lambda offset, length: None,
    ) -> None:
        self._content = content
        self._extents = [Extent(0, len(content))] if extents is None else [Extent(*extent) for extent in extents]
        self._page_extents = page_extents
        self._on_read = on_read
        self.read_bytes = 0

    @property
    def size_bytes(self) -> int:
        return len(self._content)

    def list_data(self, offset: int) -> ExtentPage:
        rest = [extent for extent in self._extents if extent.offset >= offset]
        page, after = rest[: self._page_extents], rest[self._page_extents :]
        return ExtentPage(page, after[0].offset if after else None)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._on_read(offset, len(buffer))
        buffer[:] = self._content[offset : offset + len(buffer)]
        self.read_bytes += len(buffer)

    def close(self) -> None:
        return None


class MemorySink:
    """``content`` is what was written; ``synced`` what of it survives a crash.

    ``on_call(name, offset, length)`` is called before each write, write_zeroes and sync.
    """

    def __init__(
        self, size_bytes: int, fill: bytes = b"\0", on_call: Callable[[str, int, int], None] = lambda *call: None
    ) -> None:
        self.content = bytearray(fill * size_bytes)
        self.synced = bytes(self.content)
        self.on_call = on_call
        self.written_bytes = 0
        self._guard = threading.Lock()

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def write(self, offset: int, data: memoryview) -> None:
        with self._guard:
            self.on_call("write", offset, len(data))
            self.content[offset : offset + len(data)] = data
            self.written_bytes += len(data)

    def write_zeroes(self, offset: int, length: int) -> None:
        with self._guard:
            self.on_call("write_zeroes", offset, length)
            self.content[offset : offset + length] = bytes(length)

    def sync(self) -> None:
        with self._guard:
            self.on_call("sync", 0, 0)
            self.synced = bytes(self.content)

    def crash(self) -> None:
        """Forget what was not synced."""
        self.content = bytearray(self.synced)

    def close(self) -> None:
        return None
