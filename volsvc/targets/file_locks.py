"""Locks on files: between threads, driver generations and processes alike.

flock(2) belongs to an open file description, so two threads that open the file each are kept
apart as two processes are, and a killed process lets go by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from volsvc import exceptions as exc

_POLL_S = 0.01
_POLL_MAX_S = 0.2


def try_lock(path: str) -> int | None:
    """A descriptor that holds the lock until it is closed, None when another holds it.

    The file is made when missing.  Raises OSError (``FileNotFoundError`` without its directory).
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        if os.fstat(fd).st_nlink:
            return fd
        # It was deleted between the two calls: the lock is on a file that nobody will open again.
        os.close(fd)


@contextlib.contextmanager
def locked(path: str, timeout_s: float, what: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock during the block.

    ``waiting`` is called now and then while another holds it, and may raise to give up.
    Raises ``DriverError`` naming ``what`` after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    pause = _POLL_S
    while (fd := try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise exc.DriverError(reason=f"{what} is busy for {timeout_s:g} s (lock {path}); ask again later")
        if waiting is not None:
            waiting()
        time.sleep(pause)
        pause = min(pause * 2, _POLL_MAX_S)
    try:
        yield
    finally:
        os.close(fd)
