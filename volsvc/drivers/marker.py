"""The marker that tells a backend's directory from every other directory.

An unmounted file system leaves an empty directory that looks usable.  The marker holds the
backend's UUID; it is read before storage is touched, so that nothing is created on, or
declared gone from, the wrong disk.
"""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import secrets
import uuid

from volsvc import exceptions as exc

MARKER_NAME = ".volsvc-backend.json"
TEMPORARY_PREFIX = ".part-marker-"
_MAX_BYTES = 4096
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def read_marker(dir_fd: int, directory: str) -> str | None:
    """The UUID in the marker of the open directory, None without a marker.

    ``directory`` is only for messages.  Raises OSError as the file system does, and
    ``BackendUnavailable`` for a marker that can't be understood: it is never overwritten.
    """
    try:
        fd = os.open(MARKER_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    try:
        text = os.read(fd, _MAX_BYTES)
    finally:
        os.close(fd)
    try:
        return str(uuid.UUID(json.loads(text)["uuid"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise exc.BackendUnavailable(
            reason=f"the marker {directory}/{MARKER_NAME} is damaged; restore it from a copy of the disk, or remove it "
            "if no record of a volume refers to this directory"
        ) from None


def write_marker(dir_fd: int, directory: str, identity: str, backend: str) -> None:
    """Write the marker durably: whole or not at all, also across a power cut.

    Repeating it with the same identity succeeds; raises ``BackendUnavailable`` when the
    directory already belongs to another, OSError as the file system does.
    """
    text = json.dumps(
        {"uuid": str(uuid.UUID(identity)), "backend": backend, "created_at": dt.datetime.now(dt.UTC).isoformat()},
        indent=1,
    ).encode()
    temporary = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    try:
        try:
            os.write(fd, text)
            os.fsync(fd)
        finally:
            os.close(fd)
        publish(dir_fd, temporary, MARKER_NAME)
    except OSError:
        discard(dir_fd, temporary)
        raise
    os.fsync(dir_fd)
    found = read_marker(dir_fd, directory)
    if found != identity:
        raise exc.BackendUnavailable(reason=f"{directory} was marked as backend {found} while it was being set up")


def publish(dir_fd: int, temporary: str, name: str) -> bool:
    """Give a finished temporary file its name, never replacing what has that name.

    Returns False, the temporary removed, when the name was taken.  A cut in the middle can
    leave the temporary name beside the final one; both are the same file then.
    """
    try:
        os.link(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
    except FileExistsError:
        os.unlink(temporary, dir_fd=dir_fd)
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if _exists(dir_fd, name):
            os.unlink(temporary, dir_fd=dir_fd)
            return False
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        return True
    os.unlink(temporary, dir_fd=dir_fd)
    return True


def discard(dir_fd: int, name: str) -> None:
    """Remove a temporary name if it is there and can be removed."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except OSError:
        # The error that led here is the one to report; what is left is swept at the next start.
        return


def _exists(dir_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
