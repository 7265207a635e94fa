"""Making a full backup: read, leave zeros out, hash, find repeats, compress, pack, store.

The calling thread plans (which chunks, in order) and reports; workers read and fill packs;
writers store them and tell the manifest.  The root is stored when all else is, so a backup that
is listed is whole.  Cut anywhere and called again with the same request, it goes on with the
packs that are in the store.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from volsvc import exceptions as exc
from volsvc.backup.blocks import BlockSource, iterate_data
from volsvc.backup.drivers.base import BackupDriver
from volsvc.backup.engine.dedup import ChunkIndex, RecentChunks
from volsvc.backup.engine.delete import delete_data
from volsvc.backup.engine.filling import PackFiller, Segment, StoredPack
from volsvc.backup.engine.manifest import ManifestBuilder
from volsvc.backup.engine.reading import load_root
from volsvc.backup.engine.resume import Leftovers, begin
from volsvc.backup.engine.threads import Buffers, Channel, Crew
from volsvc.backup.format import names
from volsvc.backup.format.hashing import PLAIN, Hasher
from volsvc.backup.format.pack import DATA, PAGES, PackHeader
from volsvc.backup.format.page import PAGE_CHUNKS
from volsvc.backup.format.root import Root, encode_root
from volsvc.drivers.base import Work

KIB, MIB, TIB = 1024, 1024**2, 1024**4
_SEGMENT_BYTES = MIB
_LARGE_VOLUME_BYTES = 4 * TIB


@dataclass(frozen=True)
class CreateRequest:
    """``source_token`` names the point in time that is backed up: with another one, an unfinished
    backup begins anew.  ``metadata`` (JSON) is kept in the root for whoever finds the backup.

    ``chunk_bytes`` None: 64 KiB, for volumes above 4 TiB 256 KiB, to bound the manifest.
    """

    backup_id: str
    source_token: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    chunk_bytes: int | None = None
    pack_bytes: int = 16 * MIB
    workers: int = 2
    hasher: Hasher = PLAIN


def create_backup(store: BackupDriver, request: CreateRequest, source: BlockSource, work: Work) -> Root:
    """Store a backup of ``source``; returns its root.

    Repeatable after any end: a backup that is whole is left alone, one that isn't is gone on with.
    What ``work`` raises passes, with all threads ended and what was stored left for the next try;
    so do ``BackendUnavailable`` and ``StorageFull`` of the store and the source's errors.  A
    backup that is given up is cleared away by ``delete_backup``.
    """
    backup_id = names.check_backup_id(request.backup_id)
    store.check_identity()
    try:
        return load_root(store, backup_id, request.hasher)
    except exc.BackupNotFound:
        pass
    chunk_bytes = _choose_chunk_bytes(request, source.size_bytes)
    start = {
        "source": request.source_token,
        "volume_bytes": source.size_bytes,
        "chunk_bytes": chunk_bytes,
        "key_id": request.hasher.key_id.hex(),
        "created_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    start = begin(store, backup_id, start, lambda: delete_data(store, backup_id, work))
    run = _Run(store, request, source, work, chunk_bytes)
    run.execute()
    root = Root(
        backup_id=backup_id,
        created_at=str(start["created_at"]),
        volume_bytes=source.size_bytes,
        chunk_bytes=chunk_bytes,
        page_chunks=PAGE_CHUNKS,
        chunks=run.manifest.chunks,
        data_bytes=min(run.manifest.chunks * chunk_bytes, source.size_bytes),
        stored_bytes=sum(run.packs.values()),
        metadata=request.metadata,
        packs=run.packs,
        pages=run.manifest.pages,
    )
    work.checkpoint(source.size_bytes, source.size_bytes)
    return _publish(store, root, request.hasher)


def _choose_chunk_bytes(request: CreateRequest, volume_bytes: int) -> int:
    chosen = request.chunk_bytes or (256 * KIB if volume_bytes > _LARGE_VOLUME_BYTES else 64 * KIB)
    if chosen < 512 or chosen & (chosen - 1) or request.pack_bytes < 4 * chosen:
        raise exc.InvalidInput(
            reason=f"chunks of {chosen} bytes in packs of {request.pack_bytes} won't do: a chunk is a power of two, "
            "512 bytes at least, and a pack holds four"
        )
    return chosen


def _publish(store: BackupDriver, root: Root, hasher: Hasher) -> Root:
    try:
        store.put_if_absent(names.root(root.backup_id), encode_root(root, hasher))
    except exc.BackupObjectExists:
        # A store that answered a try too late has this very root; anything else is another's work.
        found = load_root(store, root.backup_id, hasher)
        if found.pages != root.pages:
            raise
    return root


class _Plan(NamedTuple):
    page: int
    segments: list[Segment]


class _Run:
    """One attempt: threads, channels and what they share."""

    def __init__(
        self, store: BackupDriver, request: CreateRequest, source: BlockSource, work: Work, chunk_bytes: int
    ) -> None:
        self._store = store
        self._request = request
        self._source = source
        self._work = work
        self._chunk_bytes = chunk_bytes
        self._position = 0
        header = PackHeader(
            DATA, names.check_backup_id(request.backup_id), chunk_bytes, source.size_bytes, request.hasher.key_id
        )
        self._header = header
        self._index: ChunkIndex = RecentChunks()
        self._leftovers = Leftovers(store, header, request.hasher, self._index)
        self.packs = self._leftovers.packs
        pages_header = PackHeader(PAGES, header.backup_id, chunk_bytes, source.size_bytes, header.key_id)
        self.manifest = ManifestBuilder(pages_header, request.hasher, self._store_pack)

    def execute(self) -> None:
        self._leftovers.look(self._tick)
        workers, writers = self._request.workers, max(1, self._store.parallel_puts)
        with Crew("backup", workers + writers, self._tick) as crew:
            segments: Channel[Segment] = crew.channel(workers * 4)
            filled: Channel[StoredPack] = crew.channel(workers + writers)
            buffers = Buffers(crew, workers + writers + 1, self._request.pack_bytes)
            working = [crew.start(self._worker(segments, filled, buffers)) for _ in range(workers)]
            writing = [crew.start(self._writer(filled, buffers)) for _ in range(writers)]
            for plan in self._plan():
                for segment in plan.segments:
                    self.manifest.expect(plan.page, segment.chunks)
                    self._position = segment.offset + segment.length
                    crew.put(segments, segment)
                self.manifest.end_page(plan.page)
                crew.tick()
            self._position = self._source.size_bytes
            segments.close()
            crew.join(*working)
            filled.close()
            crew.join(*writing)
        self.manifest.finish()

    def _tick(self) -> None:
        done = self._position - self.manifest.pending_chunks * self._chunk_bytes
        self._work.checkpoint(max(0, done), self._source.size_bytes)

    # -- what is to be done -----------------------------------------------------------------

    def _plan(self) -> Iterator[_Plan]:
        """Pages in order, each with the segments that are not stored yet."""
        page_bytes = self._chunk_bytes * PAGE_CHUNKS
        current: int | None = None
        segments: list[Segment] = []
        settled: set[int] = set()
        for offset, length in self._aligned_extents():
            while length:
                page = offset // page_bytes
                if page != current:
                    if current is not None:
                        yield _Plan(current, segments)
                    current, segments, settled = page, [], self._enter_page(page)
                piece = min(length, (page + 1) * page_bytes - offset)
                segments.extend(self._segments(offset, piece, page * PAGE_CHUNKS, settled))
                offset, length = offset + piece, length - piece
        if current is not None:
            yield _Plan(current, segments)

    def _enter_page(self, page: int) -> set[int]:
        known = self._leftovers.take(page)
        self.manifest.know(page, known.entries)
        return known.settled

    def _aligned_extents(self) -> Iterator[tuple[int, int]]:
        """Data, widened to whole chunks, without overlaps."""
        end, size, step = 0, self._source.size_bytes, self._chunk_bytes
        for extent in iterate_data(self._source):
            start = max(end, extent.offset // step * step)
            end = max(end, min(size, -(-(extent.offset + extent.length) // step) * step))
            if start < end:
                yield start, end - start

    def _segments(self, offset: int, length: int, first_of_page: int, settled: set[int]) -> Iterator[Segment]:
        step, end = self._chunk_bytes, offset + length
        longest = max(step, _SEGMENT_BYTES // step * step)
        while offset < end:
            if offset // step - first_of_page in settled:
                offset += step
                continue
            stop = offset + step
            while stop < end and stop - offset < longest and stop // step - first_of_page not in settled:
                stop += step
            stop = min(stop, end)
            yield Segment(offset, stop - offset, -(-(stop - offset) // step))
            offset = stop

    # -- threads ----------------------------------------------------------------------------

    def _worker(self, segments: Channel[Segment], filled: Channel[StoredPack], buffers: Buffers) -> Callable[[], None]:
        def work() -> None:
            filler = PackFiller(self._source, self._header, self._request.hasher, self._index, buffers, filled.put)
            while (segment := segments.get()) is not None:
                filler.fill(segment)
            filler.end()

        return work

    def _writer(self, filled: Channel[StoredPack], buffers: Buffers) -> Callable[[], None]:
        def work() -> None:
            while (pack := filled.get()) is not None:
                self._store_pack(pack.name, pack.data)
                buffers.give_back(pack.buffer)
                self.manifest.settle(pack.name, pack.contents)

        return work

    def _store_pack(self, name: str, data: memoryview) -> None:
        self._store.put(name, data)
        self.packs[name] = len(data)
