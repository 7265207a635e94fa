#!/usr/bin/env python3
"""Make a disk image like a virtual machine's: seeded, sparse, the same at every run.

    python bench/vm_image.py PATH [--size-mib 3072] [--seed 1]

35 % is empty (25 % holes, 10 % written zeros), 35 % compresses well (text, code, structured
records), 20 % is random, 10 % repeats earlier regions at 4 KiB alignment.  Needs numpy
(``pip install .[bench]``).  Prints size, allocated bytes and shares as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

KIB, MIB = 1024, 1024**2
SHARES = {"hole": 0.25, "zero": 0.10, "text": 0.27, "records": 0.08, "random": 0.20, "repeat": 0.10}
_PHRASES = 60_000


class Text:
    """Endless text of phrases that are drawn as words are in a language; zstd makes a third of it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", "u1")
        weights = 1 / np.arange(1, 27) ** 0.7
        weights /= weights.sum()
        words = [bytes(rng.choice(letters, rng.integers(2, 11), p=weights)) for _ in range(6000)]
        ends = [b" ", b" ", b" ", b" ", b", ", b".", b"(", b") ", b"\n    ", b" = ", b"_", b"\n", b"[", b"] ", b": "]
        ranks = 1 / np.arange(1, 6001)
        ranks /= ranks.sum()
        drawn = rng.choice(6000, _PHRASES * 4, p=ranks)
        after = rng.integers(0, len(ends), _PHRASES * 4)
        self._phrases = [
            b"".join(words[drawn[i * 4 + j]] + ends[after[i * 4 + j]] for j in range(1 + i % 4))
            for i in range(_PHRASES)
        ]
        self._buffer = b""

    def take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            at = np.minimum((_PHRASES ** self._rng.random(400_000)).astype(np.int64) - 1, _PHRASES - 1)
            self._buffer += b"".join([self._phrases[i] for i in at.tolist()])
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken


def records(rng: np.random.Generator, length: int) -> bytes:
    """Rows of 32 bytes as in tables and inodes: partly constant, partly noisy."""
    rows = length // 32 + 1
    table = np.zeros((rows, 4), "<u8")
    table[:, 0] = np.arange(rows) + rng.integers(1 << 40)
    table[:, 1] = 1_700_000_000 + np.cumsum(rng.integers(0, 9, rows))
    table[:, 2] = rng.integers(0, 1 << 20, rows)
    table[:, 3] = rng.integers(0, 5, rows) << 32
    return table.tobytes()[:length]


def extent_sizes(rng: np.random.Generator, total: int) -> Iterator[int]:
    """Sizes in steps of 4 KiB, spread evenly over the magnitudes from 16 KiB to 8 MiB, that sum to ``total``."""
    while total:
        size = min(total, int(2 ** rng.uniform(14, 23)) // 4096 * 4096 or 4096)
        yield size
        total -= size


def repeat(rng: np.random.Generator, file: BinaryIO, earlier: list[tuple[int, int]], length: int) -> bytes:
    """Pieces of regions that were written before."""
    file.flush()
    pieces = b""
    while len(pieces) < length:
        offset, size = earlier[rng.integers(len(earlier))]
        skip = int(rng.integers(0, max(1, size // 8192))) * 4096
        pieces += os.pread(file.fileno(), min(size - skip, length - len(pieces)), offset + skip)
    return pieces


def make_image(path: str | os.PathLike[str], size_mib: int = 3072, seed: int = 1) -> dict[str, Any]:
    """Write the image; returns what was made."""
    rng = np.random.default_rng(seed)
    text, total, position = Text(rng), size_mib * MIB, 0
    made = dict.fromkeys(SHARES, 0)
    earlier: list[tuple[int, int]] = []
    with open(path, "wb+") as file:
        file.truncate(total)
        for size in extent_sizes(rng, total):
            # The kind that is furthest behind its share, with noise so that the order isn't a cycle.
            behind = {k: s - made[k] / (position + size) + rng.normal(0, 0.05) for k, s in SHARES.items()}
            kind = max(behind, key=lambda k: behind[k])
            if kind == "repeat" and not earlier:
                kind = "text"
            if kind != "hole":
                file.seek(position)
                if kind == "zero":
                    file.write(bytes(size))
                elif kind == "repeat":
                    file.write(repeat(rng, file, earlier, size))
                    file.seek(position + size)
                else:
                    earlier.append((position, size))
                    file.write(
                        text.take(size)
                        if kind == "text"
                        else records(rng, size)
                        if kind == "records"
                        else rng.bytes(size)
                    )
            made[kind] += size
            position += size
    allocated = os.stat(path).st_blocks * 512
    return {"bytes": total, "allocated": allocated, "shares": {k: round(v / total, 3) for k, v in made.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("--size-mib", type=int, default=3072)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps(make_image(arguments.path, arguments.size_mib, arguments.seed), indent=1))


if __name__ == "__main__":
    main()
