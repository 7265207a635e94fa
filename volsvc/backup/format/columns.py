"""Tables as columns of little-endian numbers, and the reader that trusts no length.

Columns compress better than rows and are packed and unpacked in one call each.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from volsvc import exceptions as exc
from volsvc.backup.format.hashing import DIGEST_BYTES


def numbers(kind: str, values: Sequence[int]) -> bytes:
    """``values`` as a column; ``kind`` is struct's letter (B, H, I, Q)."""
    return struct.pack(f"<{len(values)}{kind}", *values)


def words(values: Sequence[str]) -> bytes:
    """Short ASCII words, each after its length."""
    return b"".join(bytes([len(word)]) + word.encode("ascii") for word in values)


class ColumnReader:
    """Takes columns from ``data`` in order.  Raises ``BackupDamaged`` naming ``what``."""

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._what = what

    def take(self, length: int) -> memoryview:
        piece = self._data[self._at : self._at + length]
        if len(piece) != length:
            raise exc.BackupDamaged(what=self._what, reason="its table is too short")
        self._at += length
        return piece

    def fields(self, kinds: str) -> tuple[int, ...]:
        return struct.unpack(f"<{kinds}", self.take(struct.calcsize(f"<{kinds}")))

    def numbers(self, kind: str, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}{kind}", self.take(count * struct.calcsize(kind)))

    def digests(self, count: int) -> list[bytes]:
        column = bytes(self.take(count * DIGEST_BYTES))
        return [column[at : at + DIGEST_BYTES] for at in range(0, len(column), DIGEST_BYTES)]

    def words(self, count: int) -> list[str]:
        found = []
        for _ in range(count):
            length = self.take(1)[0]
            try:
                found.append(bytes(self.take(length)).decode("ascii"))
            except UnicodeDecodeError:
                raise exc.BackupDamaged(what=self._what, reason="its table has names that can't be") from None
        return found

    def end(self) -> None:
        if self._at != len(self._data):
            raise exc.BackupDamaged(what=self._what, reason="its table is too long")
