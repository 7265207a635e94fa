"""The way through a backup that restoring takes: page by page, but pack by pack within a window.

A window of pages is sorted by where its chunks are stored, so that each stretch of a pack is
read once and in one request, however the chunks are scattered over the volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from volsvc.backup.format.page import Entry

#: Neighbours in a pack are read together when no more than this lies between them.
_GAP_BYTES = 128 * 1024
_MAX_READ_BYTES = 8 * 1024**2


class Piece(NamedTuple):
    """A chunk of the volume and where in its pack it is."""

    offset: int
    length: int
    chunk: int
    digest: bytes


class PackRead(NamedTuple):
    """One request to the store, and the chunks that are in its answer, by offset."""

    pack: str
    offset: int
    length: int
    pieces: list[Piece]


def plan_reads(entries: Mapping[int, Entry]) -> Iterator[PackRead]:
    """Reads that fetch all ``entries`` (by chunk number), pack by pack."""
    by_pack: dict[str, list[Piece]] = {}
    for chunk, entry in entries.items():
        pack, offset, length = entry.location
        by_pack.setdefault(pack, []).append(Piece(offset, length, chunk, entry.digest))
    for pack, pieces in by_pack.items():
        pieces.sort()
        yield from _coalesce(pack, pieces)


def _coalesce(pack: str, pieces: list[Piece]) -> Iterator[PackRead]:
    group: list[Piece] = []
    start = end = pieces[0].offset
    for piece in pieces:
        piece_end = piece.offset + piece.length
        if group and (piece.offset - end > _GAP_BYTES or piece_end - start > _MAX_READ_BYTES):
            yield PackRead(pack, start, end - start, group)
            start, end, group = piece.offset, piece.offset, []
        group.append(piece)
        end = max(end, piece_end)
    yield PackRead(pack, start, end - start, group)


def absent_ranges(present: Mapping[int, Entry], first: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs (first chunk, chunks) of ``first`` to ``end`` without an entry."""
    begin = first
    for chunk in sorted(present):
        if chunk > begin:
            yield begin, chunk - begin
        begin = chunk + 1
    if begin < end:
        yield begin, end - begin
