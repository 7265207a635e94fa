"""The hash that names every chunk: BLAKE3, plain or keyed.

A keyed hash also says that whoever wrote the backup had the key; its id stands in every object,
so that a reader knows which key it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import blake3

from volsvc import exceptions as exc

DIGEST_BYTES = 32
KEY_BYTES = 32
KEY_ID_BYTES = 16
NO_KEY = bytes(KEY_ID_BYTES)


@dataclass(frozen=True, slots=True)
class Hasher:
    """``key``: 32 bytes, None for the plain hash; ``key_id``: 16 bytes that name it, zeros without."""

    key: bytes | None = field(default=None, repr=False)
    key_id: bytes = NO_KEY

    def __post_init__(self) -> None:
        is_keyed = self.key is not None
        if is_keyed == (self.key_id == NO_KEY) or len(self.key_id) != KEY_ID_BYTES:
            raise exc.InvalidInput(reason=f"a key and an id of {KEY_ID_BYTES} bytes that isn't zero go together")
        if self.key is not None and len(self.key) != KEY_BYTES:
            raise exc.InvalidInput(reason=f"the key of a backup has {KEY_BYTES} bytes")

    def digest(self, data: bytes | memoryview) -> bytes:
        """32 bytes.  Other threads run meanwhile."""
        if self.key is None:
            return blake3.blake3(data).digest()
        return blake3.blake3(data, key=self.key).digest()

    def require(self, key_id: bytes, what: str) -> None:
        """Raise ``BackupNotReadable`` unless ``what`` was written with this key (or without, as this)."""
        if key_id != self.key_id:
            needed = f"the key {key_id.hex()}" if key_id != NO_KEY else "no key"
            given = f"the key {self.key_id.hex()}" if self.key is not None else "none"
            raise exc.BackupNotReadable(what=what, reason=f"it needs {needed} and was given {given}")


PLAIN = Hasher()
