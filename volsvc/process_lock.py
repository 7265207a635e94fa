"""One daemon for each host and backend: a lock on a file, given back by the kernel when we die.

The file says who holds it.  Nothing is left to clear up after kill -9: the lock, not the
file, is what counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
from typing import IO

from volsvc import exceptions as exc

BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


class ProcessLock:
    """Hold ``directory/NAME.lock`` for the life of the process."""

    def __init__(self, directory: str, name: str) -> None:
        self.name = name
        self.path = os.path.join(directory, f"{name.replace('/', '_')}.lock")
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Raises ``AlreadyRunning`` with the holder's pid."""
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        file = os.fdopen(descriptor, "r+")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _read_holder(file)
            file.close()
            raise exc.AlreadyRunning(what=self.name, pid=holder, path=self.path) from None
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "boot_id": _boot_id()}, file)
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _read_holder(file: IO[str]) -> str:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return str(json.load(file).get("pid", "unknown"))
    return "unknown"


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
