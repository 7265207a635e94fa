"""Packs: many compressed pieces in one object, which says itself what they are.

    header | pieces, one after the other | index | footer

The index names each piece (a chunk of the volume, or a page of the manifest) with its hash, the
chunks that were found stored elsewhere already, and the runs of chunks that this pack settles:
those in neither list are zeros.  So the data packs of an unfinished backup are its journal.

Each piece has the hash of what it expands to, and the footer that of all pieces as they are
stored (some bits of a compressed piece can change without changing what it expands to); the
footer ends with the hash of header, index and footer, so that these can be trusted alone.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from volsvc import exceptions as exc
from volsvc.backup.format.codec import Codec
from volsvc.backup.format.columns import ColumnReader, numbers, words
from volsvc.backup.format.hashing import DIGEST_BYTES, Hasher

VERSION = 1
DATA, PAGES = 1, 2
_MAGIC = b"VOLSVCPK"
_END_MAGIC = b"VOLSVCPE"
_HEADER = struct.Struct("<8sHBBIQ16s16s8x")
_FOOTER = struct.Struct("<8sII32s")
_COUNTS = "IIII"
HEADER_BYTES = _HEADER.size
FOOTER_BYTES = _FOOTER.size + DIGEST_BYTES
#: More would make indexes of megabytes where the data is very repetitive.
MAX_ENTRIES = 8192
_ZSTD = 1


class Location(NamedTuple):
    """Where a piece is stored."""

    pack: str
    offset: int
    length: int


class Stored(NamedTuple):
    """A piece in this pack; ``number`` is a chunk's or a page's."""

    number: int
    digest: bytes
    offset: int
    length: int
    raw_bytes: int


class Reference(NamedTuple):
    """A chunk with the same bytes as one stored before."""

    number: int
    digest: bytes
    location: Location


class Run(NamedTuple):
    first: int
    chunks: int


@dataclass(frozen=True, slots=True)
class PackHeader:
    kind: int
    backup_id: str
    chunk_bytes: int
    volume_bytes: int
    key_id: bytes

    def encode(self) -> bytes:
        owner = uuid.UUID(self.backup_id).bytes
        return _HEADER.pack(_MAGIC, VERSION, self.kind, _ZSTD, self.chunk_bytes, self.volume_bytes, owner, self.key_id)

    @classmethod
    def decode(cls, data: bytes | memoryview, what: str) -> PackHeader:
        """Raises ``BackupDamaged``, or ``BackupNotReadable`` for a version this program doesn't know."""
        if len(data) != HEADER_BYTES:
            raise exc.BackupDamaged(what=what, reason="it is too short")
        magic, version, kind, compression, chunk_bytes, volume_bytes, owner, key_id = _HEADER.unpack(data)
        if magic != _MAGIC:
            raise exc.BackupDamaged(what=what, reason="it does not begin as a pack")
        if version != VERSION or compression != _ZSTD or kind not in (DATA, PAGES):
            raise exc.BackupNotReadable(what=what, reason=f"it is a pack of version {version}, kind {kind}")
        return cls(kind, str(uuid.UUID(bytes=owner)), chunk_bytes, volume_bytes, key_id)


@dataclass(slots=True)
class PackIndex:
    """What a pack says of itself."""

    stored: list[Stored] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def encode(self) -> bytes:
        packs: dict[str, int] = {}
        for reference in self.references:
            packs.setdefault(reference.location.pack, len(packs))
        stored, references = self.stored, self.references
        return b"".join(
            (
                numbers("I", (len(stored), len(references), len(packs), len(self.runs))),
                numbers("Q", [s.number for s in stored]),
                numbers("I", [s.length for s in stored]),
                numbers("I", [s.raw_bytes for s in stored]),
                b"".join([s.digest for s in stored]),
                numbers("Q", [r.number for r in references]),
                numbers("H", [packs[r.location.pack] for r in references]),
                numbers("I", [r.location.offset for r in references]),
                numbers("I", [r.location.length for r in references]),
                b"".join([r.digest for r in references]),
                numbers("Q", [run.first for run in self.runs]),
                numbers("I", [run.chunks for run in self.runs]),
                words(list(packs)),
            )
        )

    @classmethod
    def decode(cls, data: bytes | memoryview, what: str) -> PackIndex:
        """Raises ``BackupDamaged``.  Offsets follow from the lengths: pieces stand one after the other."""
        reader = ColumnReader(data, what)
        n_stored, n_references, n_packs, n_runs = reader.fields(_COUNTS)
        stored = list(_with_offsets(reader, n_stored))
        found = zip(
            reader.numbers("Q", n_references),
            reader.numbers("H", n_references),
            reader.numbers("I", n_references),
            reader.numbers("I", n_references),
            reader.digests(n_references),
            strict=True,
        )
        runs = [Run(*run) for run in zip(reader.numbers("Q", n_runs), reader.numbers("I", n_runs), strict=True)]
        packs = reader.words(n_packs)
        reader.end()
        try:
            references = [
                Reference(n, digest, Location(packs[p], offset, size)) for n, p, offset, size, digest in found
            ]
        except IndexError:
            raise exc.BackupDamaged(what=what, reason="its index names a pack that it doesn't list") from None
        return cls(stored, references, runs)


def _with_offsets(reader: ColumnReader, count: int) -> Iterator[Stored]:
    offset = HEADER_BYTES
    columns = (reader.numbers("Q", count), reader.numbers("I", count), reader.numbers("I", count))
    for number, length, raw_bytes, digest in zip(*columns, reader.digests(count), strict=True):
        yield Stored(number, digest, offset, length, raw_bytes)
        offset += length


class PackBuilder:
    """Fills a buffer with a pack; ``buffer`` bounds its size."""

    def __init__(self, name: str, header: PackHeader, buffer: memoryview, hasher: Hasher) -> None:
        self.name = name
        self.index = PackIndex()
        self._header = header.encode()
        self._buffer = buffer
        self._hasher = hasher
        self._at = HEADER_BYTES
        buffer[:HEADER_BYTES] = self._header

    def has_room(self, raw_bytes: int) -> bool:
        """Whether one more piece of up to ``raw_bytes``, stored or referred to, fits in any case."""
        index = self.index
        # Upper bounds of what an entry of each kind takes in the index, its pack's name included.
        index_bytes = 64 * (len(index.stored) + 1) + 320 * (len(index.references) + 1) + 12 * (len(index.runs) + 2)
        is_small = len(index.stored) + len(index.references) < MAX_ENTRIES and len(index.runs) < MAX_ENTRIES
        return is_small and self._at + raw_bytes + index_bytes + FOOTER_BYTES <= len(self._buffer)

    def add(self, number: int, digest: bytes, data: bytes | memoryview, raw_bytes: int) -> Location:
        """Append a piece; ``data`` is what ``Codec.compress`` made of ``raw_bytes``."""
        offset, length = self._at, len(data)
        self._buffer[offset : offset + length] = data
        self._at += length
        self.index.stored.append(Stored(number, digest, offset, length, raw_bytes))
        return Location(self.name, offset, length)

    def refer(self, number: int, digest: bytes, location: Location) -> None:
        """Note that a chunk is stored already."""
        self.index.references.append(Reference(number, digest, location))

    def settle(self, number: int) -> None:
        """Note that this pack settles the chunk: it was added, referred to, or is zeros."""
        runs = self.index.runs
        if runs and runs[-1].first + runs[-1].chunks == number:
            runs[-1] = Run(runs[-1].first, runs[-1].chunks + 1)
        else:
            runs.append(Run(number, 1))

    def seal(self) -> memoryview:
        """Write index and footer; the whole pack, ready to be stored."""
        index = self.index.encode()
        pieces = self._hasher.digest(self._buffer[HEADER_BYTES : self._at])
        footer = _FOOTER.pack(_END_MAGIC, self._at, len(index), pieces)
        end = index + footer + self._hasher.digest(self._header + index + footer)
        whole = self._buffer[: self._at + len(end)]
        whole[self._at :] = end
        return whole


def decode_footer(footer: bytes | memoryview, pack_bytes: int, what: str) -> tuple[int, int]:
    """Offset and length of the index of a pack of that size.  Raises ``BackupDamaged``."""
    if len(footer) != FOOTER_BYTES:
        raise exc.BackupDamaged(what=what, reason="it is too short")
    magic, offset, length, _ = _FOOTER.unpack_from(footer)
    if magic != _END_MAGIC or offset < HEADER_BYTES or offset + length + FOOTER_BYTES != pack_bytes:
        raise exc.BackupDamaged(what=what, reason="it does not end as a pack; it was truncated or changed")
    return offset, length


def decode_index(
    header: bytes | memoryview, index: bytes | memoryview, footer: bytes | memoryview, hasher: Hasher, what: str
) -> tuple[PackHeader, PackIndex]:
    """Check the three parts against the footer's hash and read them.

    Raises ``BackupDamaged`` and ``BackupNotReadable``.
    """
    known = PackHeader.decode(header, what)
    hasher.require(known.key_id, what)
    body = bytes(header) + bytes(index) + bytes(footer[: _FOOTER.size])
    if hasher.digest(body) != bytes(footer[_FOOTER.size :]):
        raise exc.BackupDamaged(what=what, reason="the hash of its index is wrong")
    return known, PackIndex.decode(index, what)


def check_pack(data: bytes | memoryview, hasher: Hasher, codec: Codec, what: str) -> tuple[PackHeader, PackIndex]:
    """Check every byte of a whole pack.  Raises ``BackupDamaged`` and ``BackupNotReadable``."""
    view = memoryview(data)
    footer = view[-FOOTER_BYTES:]
    at, length = decode_footer(footer, len(view), what)
    header, index = decode_index(view[:HEADER_BYTES], view[at : at + length], footer, hasher, what)
    end = HEADER_BYTES
    for piece in index.stored:
        end = piece.offset + piece.length
        if end > at:
            break
        raw = codec.expand(view[piece.offset : end], piece.raw_bytes, f"piece {piece.number} in {what}")
        if hasher.digest(raw) != piece.digest:
            raise exc.BackupDamaged(what=f"piece {piece.number} in {what}", reason="its hash is wrong")
    if end != at:
        raise exc.BackupDamaged(what=what, reason="its pieces don't fill it")
    if hasher.digest(view[HEADER_BYTES:at]) != _FOOTER.unpack_from(footer)[3]:
        raise exc.BackupDamaged(what=what, reason="the hash of its pieces is wrong, though each expands rightly")
    return header, index
