"""Compressing and expanding pieces: zstd, or left alone where that saves nothing.

A piece that is stored with its own length was not compressed; there is no other sign.
"""

from __future__ import annotations

import zstandard

from volsvc import exceptions as exc

LEVEL = 1


class Codec:
    """One thread's compressor and decompressor."""

    def __init__(self, level: int = LEVEL) -> None:
        self._compressor = zstandard.ZstdCompressor(
            level=level, write_content_size=False, write_checksum=False, write_dict_id=False
        )
        self._decompressor = zstandard.ZstdDecompressor()

    def compress(self, data: bytes | memoryview) -> bytes | memoryview:
        """``data`` in fewer bytes, or ``data`` itself."""
        packed = self._compressor.compress(data)
        return packed if len(packed) < len(data) else data

    def expand(self, data: bytes | memoryview, raw_bytes: int, what: str) -> bytes | memoryview:
        """What ``compress`` was given, ``raw_bytes`` long.  Raises ``BackupDamaged`` naming ``what``."""
        if len(data) == raw_bytes:
            return data
        try:
            raw = self._decompressor.decompress(data, max_output_size=raw_bytes)
        except zstandard.ZstdError as error:
            raise exc.BackupDamaged(what=what, reason=f"it can't be expanded ({error})") from error
        if len(raw) != raw_bytes:
            raise exc.BackupDamaged(what=what, reason=f"it has {len(raw)} bytes instead of {raw_bytes}")
        return raw
