"""Building the manifest while packs are written: a page is written when its last chunk is stored.

Keeps entries of unfinished pages only, so memory follows the packs in work and not the volume.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from volsvc.backup.format import names
from volsvc.backup.format.codec import Codec
from volsvc.backup.format.hashing import Hasher
from volsvc.backup.format.pack import Location, PackBuilder, PackHeader, PackIndex
from volsvc.backup.format.page import PAGE_CHUNKS, Entry, encode_page
from volsvc.backup.format.root import PageEntry

#: Size of a pack of pages: some 150 full ones.
_PAGE_PACK_BYTES = 8 * 1024**2


@dataclass(slots=True)
class _OpenPage:
    entries: dict[int, Entry] = field(default_factory=dict)
    pending: int = 0
    is_planned: bool = False


class ManifestBuilder:
    """``store_pack(name, data)`` writes a pack of pages; called under this object's lock."""

    def __init__(self, header: PackHeader, hasher: Hasher, store_pack: Callable[[str, memoryview], None]) -> None:
        self._header = header
        self._hasher = hasher
        self._store_pack = store_pack
        self._codec = Codec()
        self._guard = threading.Lock()
        self._open: dict[int, _OpenPage] = {}
        self._buffer = memoryview(bytearray(_PAGE_PACK_BYTES))
        self._pack: PackBuilder | None = None
        self.pages: dict[int, PageEntry] = {}
        self.chunks = 0
        self._pending = 0

    @property
    def pending_chunks(self) -> int:
        """Planned and not stored yet."""
        return self._pending

    def know(self, page: int, entries: Mapping[int, Entry]) -> None:
        """Entries, by position, that an earlier attempt stored."""
        if entries:
            with self._guard:
                self._open.setdefault(page, _OpenPage()).entries.update(entries)

    def expect(self, page: int, chunks: int) -> None:
        """That many chunks of the page are going to be settled by packs."""
        with self._guard:
            self._open.setdefault(page, _OpenPage()).pending += chunks
            self._pending += chunks

    def end_page(self, page: int) -> None:
        """All chunks of the page are expected by now."""
        with self._guard:
            if page in self._open:
                self._open[page].is_planned = True
                self._finish_if_whole(page)

    def settle(self, pack: str, index: PackIndex) -> None:
        """A data pack is stored, and so are the chunks it settles."""
        with self._guard:
            for stored in index.stored:
                self._enter(stored.number, Entry(stored.digest, Location(pack, stored.offset, stored.length)))
            for reference in index.references:
                self._enter(reference.number, Entry(reference.digest, reference.location))
            touched = set()
            for run in index.runs:
                for chunk in range(run.first, run.first + run.chunks):
                    page = chunk // PAGE_CHUNKS
                    self._open[page].pending -= 1
                    touched.add(page)
                self._pending -= run.chunks
            for page in touched:
                self._finish_if_whole(page)

    def finish(self) -> None:
        """Write what is left; every page was ended and every chunk settled before."""
        with self._guard:
            if self._open:
                raise AssertionError(f"pages {sorted(self._open)[:5]} are not whole")
            self._flush()

    def _enter(self, chunk: int, entry: Entry) -> None:
        page, position = divmod(chunk, PAGE_CHUNKS)
        self._open[page].entries[position] = entry

    def _finish_if_whole(self, page: int) -> None:
        found = self._open[page]
        if found.pending or not found.is_planned:
            return
        del self._open[page]
        if found.entries:
            self.chunks += len(found.entries)
            self._write(page, encode_page(found.entries))

    def _write(self, page: int, raw: bytes) -> None:
        if self._pack is not None and not self._pack.has_room(len(raw)):
            self._flush()
        if self._pack is None:
            name = names.new_page_pack(self._header.backup_id)
            self._pack = PackBuilder(name, self._header, self._buffer, self._hasher)
        digest = self._hasher.digest(raw)
        location = self._pack.add(page, digest, self._codec.compress(raw), len(raw))
        self.pages[page] = PageEntry(digest, location, len(raw))

    def _flush(self) -> None:
        if self._pack is not None:
            self._store_pack(self._pack.name, self._pack.seal())
            self._pack = None
