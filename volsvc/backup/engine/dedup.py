"""Finding chunks that this backup has stored already, in bounded memory.

The index in memory knows the latest chunks only; what it has forgotten is stored once more,
which costs room and nothing else.  An index over all backups of a store can take its place.
"""

from __future__ import annotations

from typing import Protocol

from volsvc.backup.format.pack import Location

#: Chunks in each of two generations; about 300 bytes each.
GENERATION_CHUNKS = 128 * 1024


class ChunkIndex(Protocol):
    """Where chunks are stored, by hash.  Called from several threads."""

    def find(self, digest: bytes) -> Location | None: ...

    def add(self, digest: bytes, location: Location) -> None: ...


class RecentChunks:
    """Remembers between one and two generations of the chunks added last."""

    def __init__(self, generation_chunks: int = GENERATION_CHUNKS) -> None:
        self._limit = generation_chunks
        self._new: dict[bytes, Location] = {}
        self._old: dict[bytes, Location] = {}

    def find(self, digest: bytes) -> Location | None:
        return self._new.get(digest) or self._old.get(digest)

    def add(self, digest: bytes, location: Location) -> None:
        # Two threads may begin a generation at once: then one is a little short, nothing more.
        if len(self._new) >= self._limit:
            self._old, self._new = self._new, {}
        self._new[digest] = location
