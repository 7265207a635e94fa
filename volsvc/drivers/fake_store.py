"""The storage of the fakes: volumes, snapshots and exports that outlive the objects using them.

Drivers and targets of one backend share a store, so a "restarted" driver finds its volumes.
It lives in memory, or in a JSON file when a real daemon is killed in the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc.targets.file_locks import locked

BLOCK_BYTES = 4096
_LOCK_TIMEOUT_S = 10.0
_MEMORY = "memory:"

OPTS = [
    cfg.StrOpt(
        "fake_state_path",
        help="File in which the fake driver and target keep what they hold; unset keeps it in the process.",
    ),
    cfg.StrOpt(
        "fake_script_path",
        help="JSON file, read at each call, that tells the fakes what to do wrong; unset does nothing wrong.",
    ),
]

_stores: dict[str, FakeStore] = {}
_stores_guard = threading.Lock()


class FakeStore:
    """A dictionary with ``identity``, ``files``, ``exports`` and ``readers``, changed in transactions.

    ``files``: name → {"size": bytes, "blocks": {number: hex}}; ``exports``: volume id →
    {"name": file, "attachments": {id: "rw" or "ro"}}; ``readers``: id → {"name": file, "mode": "rw" or "ro"}.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._guard = threading.RLock()
        self._state: dict[str, Any] = {"identity": None, "files": {}, "exports": {}, "readers": {}}

    @contextlib.contextmanager
    def transaction(self) -> Iterator[dict[str, Any]]:
        """The state, alone; with a file it is written back when the block ends without an error."""
        with self._guard:
            if self._path is None:
                yield self._state
                return
            with locked(f"{self._path}.lock", _LOCK_TIMEOUT_S, "the fake's store"):
                with contextlib.suppress(FileNotFoundError), open(self._path) as file:
                    self._state = json.load(file)
                yield self._state
                with open(f"{self._path}.new", "w") as file:
                    json.dump(self._state, file)
                os.replace(f"{self._path}.new", self._path)


def store_key(fake_state_path: str | None, runtime_path: str, host: str) -> str:
    """What tells one backend's store from others: its file, or where and whose it is."""
    return fake_state_path or f"{_MEMORY}{runtime_path}:{host}"


def open_store(key: str) -> FakeStore:
    """The store of that key, the same object for all who ask in this process."""
    with _stores_guard:
        if key not in _stores:
            _stores[key] = FakeStore(None if key.startswith(_MEMORY) else key)
        return _stores[key]


def read_file(file: dict[str, Any], offset: int, length: int) -> bytes:
    """Bytes of a fake file; what was never written reads as zeros."""
    pieces = []
    for number in range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)):
        block = file["blocks"].get(str(number))
        pieces.append(bytes.fromhex(block) if block else bytes(BLOCK_BYTES))
    start = offset % BLOCK_BYTES
    return b"".join(pieces)[start : start + length]


def write_file(file: dict[str, Any], offset: int, data: bytes) -> None:
    """Write into a fake file, which does not grow by it."""
    if offset + len(data) > file["size"]:
        raise exc.DriverError(reason="a write beyond the end of a fake volume")
    while data:
        number, start = divmod(offset, BLOCK_BYTES)
        piece = data[: BLOCK_BYTES - start]
        block = bytearray(read_file(file, number * BLOCK_BYTES, BLOCK_BYTES))
        block[start : start + len(piece)] = piece
        file["blocks"][str(number)] = block.hex()
        offset, data = offset + len(piece), data[len(piece) :]
