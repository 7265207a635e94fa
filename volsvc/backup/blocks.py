"""How the engine reads and writes volumes: two small protocols, whatever lies behind.

A source is a point in time: its bytes don't change while it is open.  Both may be used by
several threads at once.  Extents come in pages, because a volume may have millions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

#: Extents in one page.
PAGE_EXTENTS = 1024


class Extent(NamedTuple):
    """``length`` bytes from ``offset``."""

    offset: int
    length: int


class ExtentPage(NamedTuple):
    """Extents in ascending order, and where the next page begins; None after the last one."""

    extents: Sequence[Extent]
    next_offset: int | None


class BlockSource(Protocol):
    """Something of ``size_bytes`` to read."""

    @property
    def size_bytes(self) -> int: ...

    def list_data(self, offset: int) -> ExtentPage:
        """Extents at or behind ``offset`` that may hold anything but zeros."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``.  Raises ``VolumeAccessError``."""

    def close(self) -> None: ...


@runtime_checkable
class ChangedBlocks(Protocol):
    """What a source may also have: knowing what changed since an earlier point in time."""

    def list_changed(self, since: str, offset: int) -> ExtentPage:
        """Extents at or behind ``offset`` that may differ from the point in time ``since``.

        Raises ``AbilityMissing`` when that one isn't known any more; then everything is read.
        """


class BlockSink(Protocol):
    """Something of ``size_bytes`` to write."""

    @property
    def size_bytes(self) -> int: ...

    def write(self, offset: int, data: memoryview) -> None:
        """Durable after ``sync``.  Raises ``VolumeAccessError`` or ``StorageFull``."""

    def write_zeroes(self, offset: int, length: int) -> None:
        """Let the range read as zeros, giving its room back where that is possible."""

    def sync(self) -> None:
        """Wait until everything that was written is on the disk."""

    def close(self) -> None: ...


def iterate_data(source: BlockSource, offset: int = 0) -> Iterator[Extent]:
    """All data extents from ``offset``, page by page."""
    at: int | None = offset
    while at is not None:
        page = source.list_data(at)
        yield from page.extents
        if page.next_offset is not None and page.next_offset <= at:
            raise ValueError(f"{source} lists extents in a circle at {at}")
        at = page.next_offset
