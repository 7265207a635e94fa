"""Read a backup out of a store's directory, with nothing of volsvc: it follows the page "The format of backups".

python read_backup.py STORE_DIRECTORY BACKUP_ID IMAGE
"""

from __future__ import annotations

import json
import pathlib
import struct
import sys
import uuid

import blake3
import zstandard

NO_KEY = bytes(16)


def require(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"damaged: {what}")


def digest(data: bytes) -> bytes:
    return blake3.blake3(data).digest()


def expand(data: bytes, raw_bytes: int) -> bytes:
    if len(data) == raw_bytes:
        return data
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=raw_bytes)


class Columns:
    """Takes tables apart that stand one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def numbers(self, letter: str, count: int) -> tuple[int, ...]:
        found = struct.unpack_from(f"<{count}{letter}", self.data, self.at)
        self.at += count * struct.calcsize(letter)
        return found

    def digests(self, count: int) -> list[bytes]:
        self.at += 32 * count
        column = self.data[self.at - 32 * count : self.at]
        return [column[at : at + 32] for at in range(0, len(column), 32)]

    def words(self, count: int) -> list[str]:
        found = []
        for _ in range(count):
            end = self.at + 1 + self.data[self.at]
            found.append(self.data[self.at + 1 : end].decode("ascii"))
            self.at = end
        require(self.at == len(self.data), "a table is longer than it says")
        return found


def read_root(data: bytes) -> dict:
    magic, version, length, raw_bytes, key_id = struct.unpack_from("<8sHxxII16s", data)
    require(magic == b"VOLSVCRT" and version == 1, "this is no root of version 1")
    require(key_id == NO_KEY, "it needs a key")
    require(len(data) == 36 + length + 32, "the root has another length")
    require(digest(data[:-32]) == data[-32:], "the root's hash is wrong")
    root = json.loads(expand(data[36:-32], raw_bytes))
    require(root["needs"] == [], f"a reader must know {root['needs']}")
    return root


def read_pack(data: bytes, backup_id: str) -> dict[tuple[int, int], bytes]:
    """Check a pack by itself; its pieces as they expand, by (offset, length)."""
    magic, version, kind, compression, _, _, owner, key_id = struct.unpack_from("<8sHBBIQ16s16s8x", data)
    require(magic == b"VOLSVCPK" and (version, compression) == (1, 1) and kind in (1, 2), "this is no pack")
    require(owner == uuid.UUID(backup_id).bytes and key_id == NO_KEY, "this pack is not this backup's")
    header, footer = data[:64], data[-80:]
    magic, index_at, index_bytes, pieces_digest = struct.unpack_from("<8sII32s", footer)
    require(magic == b"VOLSVCPE" and index_at + index_bytes + 80 == len(data), "the pack was cut")
    index = data[index_at : index_at + index_bytes]
    require(digest(header + index + footer[:48]) == footer[48:], "the hash of the pack's index is wrong")
    require(digest(data[64:index_at]) == pieces_digest, "the hash of the pack's pieces is wrong")

    columns = Columns(index)
    stored, references, packs, runs = columns.numbers("I", 4)
    columns.numbers("Q", stored)
    lengths, raw_sizes, digests = columns.numbers("I", stored), columns.numbers("I", stored), columns.digests(stored)
    for letter in "QHII":
        columns.numbers(letter, references)
    columns.digests(references)
    columns.numbers("Q", runs), columns.numbers("I", runs)
    columns.words(packs)

    pieces, at = {}, 64
    for length, raw_bytes, wanted in zip(lengths, raw_sizes, digests, strict=True):
        raw = expand(data[at : at + length], raw_bytes)
        require(len(raw) == raw_bytes and digest(raw) == wanted, f"the hash of the piece at {at} is wrong")
        pieces[at, length] = raw
        at += length
    require(at == index_at, "the pieces don't fill the pack")
    return pieces


def read_page(data: bytes) -> list[tuple[int, str, int, int, bytes]]:
    """(position, pack, offset, length, digest) of each chunk that is not zeros."""
    columns = Columns(data)
    magic, count, packs = columns.numbers("I", 3)
    require(magic == 0x31475056, "this is no page")
    positions, pack_numbers = columns.numbers("H", count), columns.numbers("H", count)
    offsets, lengths, digests = columns.numbers("I", count), columns.numbers("I", count), columns.digests(count)
    names = columns.words(packs)
    return list(zip(positions, [names[n] for n in pack_numbers], offsets, lengths, digests, strict=True))


def read_backup(store: pathlib.Path, backup_id: str, image: pathlib.Path) -> None:
    """Slow and simple: every pack is read whole each time it is needed by a page."""
    root = read_root((store / "roots" / backup_id).read_bytes())
    names = [name for name, _ in root["packs"]]
    chunk_bytes, volume_bytes = root["chunk_bytes"], root["volume_bytes"]
    with image.open("wb") as file:
        file.truncate(volume_bytes)
        for page, page_digest, pack, offset, length, raw_bytes in root["pages"]:
            raw = expand((store / names[pack]).read_bytes()[offset : offset + length], raw_bytes)
            require(digest(raw) == bytes.fromhex(page_digest), f"the hash of page {page} is wrong")
            entries = read_page(raw)
            packs = {name: read_pack((store / name).read_bytes(), backup_id) for name in {e[1] for e in entries}}
            for position, name, piece_at, piece_bytes, wanted in entries:
                piece = packs[name][piece_at, piece_bytes]
                require(digest(piece) == wanted, f"chunk {position} of page {page} is another one")
                file.seek((page * root["page_chunks"] + position) * chunk_bytes)
                file.write(piece)
    require(image.stat().st_size == volume_bytes, "a chunk lies behind the volume's end")


if __name__ == "__main__":
    read_backup(pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]))
