"""One worker's part of a backup: from segments of the volume to full packs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from volsvc.backup.blocks import BlockSource
from volsvc.backup.engine.dedup import ChunkIndex
from volsvc.backup.engine.threads import Buffers, new_buffer
from volsvc.backup.format import names
from volsvc.backup.format.codec import Codec
from volsvc.backup.format.hashing import Hasher
from volsvc.backup.format.pack import PackBuilder, PackHeader, PackIndex


class Segment(NamedTuple):
    """Neighbouring chunks to read at once; only the volume's last chunk may be shorter."""

    offset: int
    length: int
    chunks: int


class StoredPack(NamedTuple):
    """A sealed pack on its way to the store, and the buffer it is in."""

    name: str
    data: memoryview
    buffer: memoryview
    contents: PackIndex


class PackFiller:
    """``send`` hands a sealed pack on."""

    def __init__(
        self,
        source: BlockSource,
        header: PackHeader,
        hasher: Hasher,
        index: ChunkIndex,
        buffers: Buffers,
        send: Callable[[StoredPack], object],
    ) -> None:
        self._source = source
        self._header = header
        self._hasher = hasher
        self._index = index
        self._buffers = buffers
        self._send = send
        self._codec = Codec()
        self._zeros = bytes(header.chunk_bytes)
        self._read_buffer = new_buffer(header.chunk_bytes)
        self._pack_buffer: memoryview | None = None
        self._pack: PackBuilder | None = None

    def fill(self, segment: Segment) -> None:
        """Read a segment and put its chunks into packs."""
        if len(self._read_buffer) < segment.length:
            self._read_buffer = new_buffer(segment.length)
        view = self._read_buffer[: segment.length]
        self._source.read_into(segment.offset, view)
        step = self._header.chunk_bytes
        chunk = segment.offset // step
        is_zero = self._zeros.startswith
        for at in range(0, segment.length, step):
            piece = view[at : at + step]
            pack = self._pack_for(chunk, len(piece))
            if not is_zero(piece):
                self._add(pack, chunk, piece)
            pack.settle(chunk)
            chunk += 1

    def end(self) -> None:
        """Send the pack that isn't full."""
        if self._pack is not None and self._pack_buffer is not None:
            pack, buffer = self._pack, self._pack_buffer
            self._pack = self._pack_buffer = None
            self._send(StoredPack(pack.name, pack.seal(), buffer, pack.index))

    def _add(self, pack: PackBuilder, chunk: int, piece: memoryview) -> None:
        digest = self._hasher.digest(piece)
        known = self._index.find(digest)
        if known is not None:
            pack.refer(chunk, digest, known)
        else:
            self._index.add(digest, pack.add(chunk, digest, self._codec.compress(piece), len(piece)))

    def _pack_for(self, chunk: int, raw_bytes: int) -> PackBuilder:
        if self._pack is not None and not self._pack.has_room(raw_bytes):
            self.end()
        if self._pack is None:
            self._pack_buffer = self._buffers.take()
            name = names.new_data_pack(self._header.backup_id, chunk)
            self._pack = PackBuilder(name, self._header, self._pack_buffer, self._hasher)
        return self._pack
