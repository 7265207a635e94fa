"""Restoring a backup into a volume, every chunk checked by its hash before it is written.

Works in windows of pages.  After each the volume is synced and the journal told, so that a
restore that was cut goes on there; what it had written of a window is written again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Protocol

from volsvc import exceptions as exc
from volsvc.backup.blocks import BlockSink
from volsvc.backup.drivers.base import BackupDriver
from volsvc.backup.engine.reading import load_page, load_root, read_piece
from volsvc.backup.engine.threads import Channel, Crew, new_buffer
from volsvc.backup.engine.windows import PackRead, absent_ranges, plan_reads
from volsvc.backup.format.codec import Codec
from volsvc.backup.format.hashing import PLAIN, Hasher
from volsvc.backup.format.page import Entry
from volsvc.backup.format.root import Root
from volsvc.drivers.base import Work

LOG = logging.getLogger(__name__)

_WINDOW_PAGES = 64
_WRITE_BYTES = 1024**2


class RestoreJournal(Protocol):
    """Where a restore notes how far it is; ``position`` counts pages."""

    def load(self) -> int: ...

    def save(self, position: int) -> None: ...


class NoJournal:
    """A restore that begins anew each time."""

    def load(self) -> int:
        return 0

    def save(self, position: int) -> None:
        return None


class FileJournal:
    """A small file; ``token`` names this very restore (backup, volume and request)."""

    def __init__(self, path: str, token: str) -> None:
        self._path = path
        self._token = token

    def load(self) -> int:
        try:
            with open(self._path) as file:
                found = json.load(file)
            return int(found["position"]) if found["token"] == self._token else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def save(self, position: int) -> None:
        """A note that can't be written costs time after a cut; the one before is still true."""
        temporary = f"{self._path}.new"
        try:
            with open(temporary, "w") as file:
                json.dump({"token": self._token, "position": position}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError as error:
            LOG.warning("the restore goes on, but cut it would write again: %s: %s", self._path, exc.describe(error))

    def remove(self) -> None:
        """To be called when the restore's end is recorded elsewhere.  Repeatable."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            return


def restore_backup(
    store: BackupDriver,
    backup_id: str,
    sink: BlockSink,
    work: Work,
    *,
    is_blank: bool,
    journal: RestoreJournal | None = None,
    hasher: Hasher = PLAIN,
    workers: int = 2,
) -> Root:
    """Write a backup into ``sink``, which may be larger; the rest of it becomes zeros.

    ``is_blank``: the sink was all zeros before the first attempt, so holes need not be written.
    Repeatable after any end.  Raises ``BackupNotFound``, ``BackupDamaged`` (what was written
    before stays), ``BackupNotReadable``, ``InvalidInput`` for a sink that is too small, what the
    store and the sink raise, and what ``work`` raises, with all threads ended.
    """
    store.check_identity()
    root = load_root(store, backup_id, hasher)
    if sink.size_bytes < root.volume_bytes:
        raise exc.InvalidInput(
            reason=f"backup {root.backup_id} is of {root.volume_bytes} bytes and the volume has {sink.size_bytes}"
        )
    writer = _Writer(store, root, sink, is_blank=is_blank, hasher=hasher)
    journal = journal or NoJournal()
    page = min(journal.load(), root.page_count)
    while page < root.page_count:
        end = min(page + _WINDOW_PAGES, root.page_count)
        _restore_window(writer, page, end, work, workers)
        sink.sync()
        page = end
        journal.save(page)
    if not is_blank and sink.size_bytes > root.volume_bytes:
        sink.write_zeroes(root.volume_bytes, sink.size_bytes - root.volume_bytes)
    sink.sync()
    work.checkpoint(root.volume_bytes, root.volume_bytes)
    return root


def _restore_window(writer: _Writer, first: int, end: int, work: Work, workers: int) -> None:
    root = writer.root

    def tick() -> None:
        work.checkpoint(min(first * root.page_bytes + writer.done_bytes, root.volume_bytes), root.volume_bytes)

    writer.done_bytes = 0
    with Crew("restore", workers, tick) as crew:
        reads: Channel[PackRead] = crew.channel(workers)
        working = [crew.start(writer.worker(reads)) for _ in range(workers)]
        codec = Codec()
        entries: dict[int, Entry] = {}
        for page in range(first, end):
            at = page * root.page_chunks
            for position, entry in load_page(writer.store, root, page, writer.hasher, codec).items():
                entries[at + position] = entry
            crew.tick()
        writer.clear(entries, first * root.page_chunks, end * root.page_chunks)
        for read in plan_reads(entries):
            crew.put(reads, read)
        reads.close()
        crew.join(*working)


class _Writer:
    """What the threads of a restore share."""

    def __init__(self, store: BackupDriver, root: Root, sink: BlockSink, *, is_blank: bool, hasher: Hasher) -> None:
        self.store = store
        self.root = root
        self.hasher = hasher
        self.done_bytes = 0
        self._sink = sink
        self._is_blank = is_blank

    def clear(self, entries: dict[int, Entry], first_chunk: int, end_chunk: int) -> None:
        """Let everything that isn't in ``entries`` read as zeros."""
        step, size = self.root.chunk_bytes, self.root.volume_bytes
        for chunk, count in absent_ranges(entries, first_chunk, end_chunk):
            offset = chunk * step
            length = min(count * step, size - offset)
            if length > 0:
                self.done_bytes += length
                if not self._is_blank:
                    self._sink.write_zeroes(offset, length)

    def worker(self, reads: Channel[PackRead]) -> Callable[[], None]:
        def work() -> None:
            codec, buffer = Codec(), new_buffer(max(_WRITE_BYTES, self.root.chunk_bytes))
            while (read := reads.get()) is not None:
                self._write(read, codec, buffer)

        return work

    def _write(self, read: PackRead, codec: Codec, buffer: memoryview) -> None:
        """Expand the chunks of one read into ``buffer`` and write neighbours together."""
        what = f"backup {self.root.backup_id}"
        data = memoryview(read_piece(self.store, read.pack, read.offset, read.length, what))
        step, size = self.root.chunk_bytes, self.root.volume_bytes
        begin, filled = 0, 0
        for piece in read.pieces:
            offset = piece.chunk * step
            raw_bytes = min(step, size - offset)
            if filled and (offset != begin + filled or filled + raw_bytes > len(buffer)):
                self._flush(begin, buffer[:filled])
                filled = 0
            if not filled:
                begin = offset
            at = piece.offset - read.offset
            raw = codec.expand(data[at : at + piece.length], raw_bytes, f"chunk {piece.chunk} of {what}")
            if self.hasher.digest(raw) != piece.digest:
                raise exc.BackupDamaged(
                    what=f"chunk {piece.chunk} of {what}", reason=f"its hash in {read.pack} is wrong"
                )
            buffer[filled : filled + raw_bytes] = raw
            filled += raw_bytes
        if filled:
            self._flush(begin, buffer[:filled])

    def _flush(self, offset: int, data: memoryview) -> None:
        self._sink.write(offset, data)
        self.done_bytes += len(data)
