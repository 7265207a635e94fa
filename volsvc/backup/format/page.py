"""A page of the manifest: where each of 1,024 neighbouring chunks is stored.

Its content depends on nothing else, not even on its own number, so a page of an unchanged part
of a volume is the same in the next backup.  A chunk without an entry is zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from volsvc import exceptions as exc
from volsvc.backup.format.columns import ColumnReader, numbers, words
from volsvc.backup.format.pack import Location

PAGE_CHUNKS = 1024
_MAGIC = 0x31475056  # "VPG1"


class Entry(NamedTuple):
    """One chunk: its hash and where it is."""

    digest: bytes
    location: Location


def encode_page(entries: Mapping[int, Entry]) -> bytes:
    """``entries`` by position in the page (0 to 1,023)."""
    positions = sorted(entries)
    found = [entries[position] for position in positions]
    packs: dict[str, int] = {}
    for entry in found:
        packs.setdefault(entry.location.pack, len(packs))
    return b"".join(
        (
            numbers("I", (_MAGIC, len(found), len(packs))),
            numbers("H", positions),
            numbers("H", [packs[entry.location.pack] for entry in found]),
            numbers("I", [entry.location.offset for entry in found]),
            numbers("I", [entry.location.length for entry in found]),
            b"".join([entry.digest for entry in found]),
            words(list(packs)),
        )
    )


def decode_page(data: bytes | memoryview, what: str) -> dict[int, Entry]:
    """What ``encode_page`` was given.  Raises ``BackupDamaged``."""
    reader = ColumnReader(data, what)
    magic, count, n_packs = reader.fields("III")
    if magic != _MAGIC or count > PAGE_CHUNKS:
        raise exc.BackupDamaged(what=what, reason="it is no page of a manifest")
    columns = (reader.numbers("H", count), reader.numbers("H", count), reader.numbers("I", count))
    lengths, digests = reader.numbers("I", count), reader.digests(count)
    packs = reader.words(n_packs)
    reader.end()
    entries = {}
    for position, pack, offset, length, digest in zip(*columns, lengths, digests, strict=True):
        if position >= PAGE_CHUNKS or pack >= n_packs:
            raise exc.BackupDamaged(what=what, reason="its table contradicts itself")
        entries[position] = Entry(digest, Location(packs[pack], offset, length))
    return entries
