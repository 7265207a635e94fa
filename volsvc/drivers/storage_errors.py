"""What an errno of a file system means to the service.

A full disk fails one operation, a lost disk takes the backend down, anything else fails the
operation with its own words.  That choice is made here once, for every driver that stores
volumes in files.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from volsvc import exceptions as exc

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
LOST = frozenset(
    {
        errno.EROFS,
        errno.EIO,
        errno.ENOTCONN,
        errno.ESTALE,
        errno.ENODEV,
        errno.ENXIO,
        errno.EUCLEAN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
    }
)


def translate(error: OSError, doing: str, directory: str) -> exc.DriverError:
    """The service's error for ``error``, met while ``doing`` (a phrase) in ``directory``."""
    words = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in FULL:
        return exc.StorageFull(reason=f"no room in {directory} to {doing} ({words})")
    if error.errno in (errno.EACCES, errno.EPERM):
        return exc.BackendUnavailable(
            reason=f"{directory} can't be used to {doing}: {words}; is the file system mounted, and may the user "
            f"of this service (uid {os.geteuid()}) write it?"
        )
    if error.errno in LOST:
        return exc.BackendUnavailable(
            reason=f"{directory} can't be used to {doing}: {words}; is the file system mounted, writable and healthy?"
        )
    if error.errno == errno.ENOENT and not os.path.isdir(directory):
        return exc.BackendUnavailable(
            reason=f"the directory {directory} is not there; is the file system mounted? It is never created here"
        )
    what = f" {error.filename}" if error.filename else ""
    return exc.DriverError(reason=f"can't {doing} in {directory}: {words}{what}")


@contextlib.contextmanager
def translated(doing: str, directory: str) -> Iterator[None]:
    """Turn an OSError of the block into a driver's error.

    Raises ``StorageFull``, ``BackendUnavailable`` or ``DriverError``; other exceptions pass.
    """
    try:
        yield
    except OSError as error:
        raise translate(error, doing, directory) from error
