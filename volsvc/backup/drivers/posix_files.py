"""Files below one open directory: written whole, found, listed, deleted, never outside of it.

Names were checked by the caller; each part of one is opened relative to the directory before,
links not followed.  Files are written under ``.part``, locked, synced and only then named, so a
cut leaves at most an unlocked file there for ``sweep``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence

from volsvc.backup.drivers.base import Data

PART_DIRECTORY = ".part"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 4096
#: Below this, writing past the page cache gains nothing.
_DIRECT_BYTES = 1024**2
_READ_BYTES = 64 * 1024**2
_NO_DIRECT = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_TRIES = 5


def write(root: int, name: str, data: Data, *, replace: bool) -> bool:
    """Write an object durably; False, nothing changed, when ``replace`` is off and it exists.

    Raises OSError as the file system does; the temporary file is gone then.  Repeatable.
    """
    parts = _make_directory(root, [PART_DIRECTORY])
    try:
        temporary, fd = _create_locked(parts)
        try:
            _write_all(fd, memoryview(data).cast("B"))
            os.fsync(fd)
            for tries in range(_TRIES):
                try:
                    return _publish(parts, temporary, root, name.split("/"), replace=replace)
                except FileNotFoundError:
                    # A delete removed the directory when it was empty for a moment.
                    if tries == _TRIES - 1:
                        raise
            raise AssertionError("unreachable")
        except BaseException:
            _unlink(parts, temporary)
            raise
        finally:
            os.close(fd)
    finally:
        os.close(parts)


def open_object(root: int, name: str) -> int | None:
    """A descriptor of an object, None when there is none."""
    *directories, last = name.split("/")
    try:
        parent = _open_directory(root, directories)
    except FileNotFoundError:
        return None
    try:
        return os.open(last, os.O_RDONLY | os.O_NONBLOCK | _FILE, dir_fd=parent)
    except FileNotFoundError:
        return None
    finally:
        os.close(parent)


def read(fd: int, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes from ``offset``; fewer only at the end of the file."""
    pieces = []
    while length > 0:
        piece = os.pread(fd, min(length, _READ_BYTES), offset)
        if not piece:
            break
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def walk(root: int, directory: str) -> Iterator[tuple[str, int]]:
    """Names and sizes of the objects below ``directory``, which may be missing."""
    try:
        fd = _open_directory(root, directory.split("/") if directory else [])
    except FileNotFoundError:
        return
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{directory}/{entry.name}" if directory else entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield from walk(root, name)
                elif entry.is_file(follow_symlinks=False):
                    try:
                        yield name, entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue
    finally:
        os.close(fd)


def delete(root: int, names: Iterable[str]) -> None:
    """Delete objects durably, and directories that this left empty.  What is gone is no error."""
    by_directory: dict[str, list[str]] = {}
    for name in names:
        directory, _, last = name.rpartition("/")
        by_directory.setdefault(directory, []).append(last)
    for directory, lasts in by_directory.items():
        path = directory.split("/") if directory else []
        try:
            parent = _open_directory(root, path)
        except FileNotFoundError:
            continue
        try:
            for last in lasts:
                _unlink(parent, last)
            os.fsync(parent)
        finally:
            os.close(parent)
        _remove_empty(root, path)


def sweep(root: int) -> list[str]:
    """Delete temporary files that no process holds; returns their names."""
    gone = []
    with _closing(_make_directory(root, [PART_DIRECTORY])) as parts:
        for name in os.listdir(parts.fd):
            fd = os.open(name, os.O_RDWR | os.O_NONBLOCK | _FILE, dir_fd=parts.fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _unlink(parts.fd, name)
                gone.append(name)
            except BlockingIOError:
                continue
            finally:
                os.close(fd)
    return gone


def check_access(root: int) -> None:
    """Raise OSError when it is plain that nothing can be made here; changes nothing."""
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=root):
        is_read_only = os.fstatvfs(root).f_flag & os.ST_RDONLY
        code = errno.EROFS if is_read_only else errno.EACCES
        raise OSError(code, os.strerror(code))


def check_writable(root: int) -> None:
    """Raise OSError unless a file can be made and deleted here."""
    with _closing(_make_directory(root, [PART_DIRECTORY])) as parts:
        name, fd = _create_locked(parts.fd)
        try:
            os.write(fd, b"volsvc")
            os.fsync(fd)
        finally:
            os.close(fd)
            _unlink(parts.fd, name)


# -- directories ----------------------------------------------------------------------


class _closing:
    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> _closing:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self.fd)


def _open_directory(root: int, path: Sequence[str]) -> int:
    fd = os.dup(root)
    for part in path:
        try:
            below = os.open(part, _DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    # A duplicate shares its position with the original, so listing it twice would find nothing.
    if not path:
        fresh = os.open(".", _DIRECTORY, dir_fd=fd)
        os.close(fd)
        return fresh
    return fd


def _make_directory(root: int, path: Sequence[str]) -> int:
    fd = os.dup(root)
    for part in path:
        try:
            try:
                below = os.open(part, _DIRECTORY, dir_fd=fd)
            except FileNotFoundError:
                try:
                    os.mkdir(part, 0o700, dir_fd=fd)
                except FileExistsError:
                    pass
                os.fsync(fd)
                below = os.open(part, _DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _remove_empty(root: int, path: Sequence[str]) -> None:
    for depth in range(len(path), 0, -1):
        try:
            parent = _open_directory(root, path[: depth - 1])
        except FileNotFoundError:
            continue
        try:
            os.rmdir(path[depth - 1], dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                return
            raise
        finally:
            os.close(parent)


# -- one file ---------------------------------------------------------------------------


def _create_locked(parts: int) -> tuple[str, int]:
    while True:
        name = secrets.token_hex(8)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=parts)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A sweep may have taken the file for a leftover before it was locked.
            if os.fstat(fd).st_nlink:
                return name, fd
        except BlockingIOError:
            pass
        except BaseException:
            os.close(fd)
            _unlink(parts, name)
            raise
        os.close(fd)


def _write_all(fd: int, data: memoryview) -> None:
    """Write past the page cache what is large and aligned, the rest through it."""
    offset = 0
    is_direct = len(data) >= _DIRECT_BYTES and _set_direct(fd, True)
    while offset < len(data):
        end = len(data)
        if is_direct:
            end -= (end - offset) % _BLOCK
            if end == offset:
                is_direct = not _set_direct(fd, False)
                continue
        try:
            offset += os.pwrite(fd, data[offset:end], offset)
        except OSError as error:
            if not is_direct or error.errno not in _NO_DIRECT:
                raise
            is_direct = not _set_direct(fd, False)


def _set_direct(fd: int, wanted: bool) -> bool:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    flags = flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    except OSError as error:
        if wanted and error.errno in _NO_DIRECT:
            return False
        raise
    return True


def _publish(parts: int, temporary: str, root: int, path: Sequence[str], *, replace: bool) -> bool:
    parent = _make_directory(root, path[:-1])
    try:
        is_new = _name(parts, temporary, parent, path[-1], replace=replace)
        os.fsync(parent)
    finally:
        os.close(parent)
    return is_new


def _name(parts: int, temporary: str, parent: int, name: str, *, replace: bool) -> bool:
    if not replace:
        try:
            os.link(temporary, name, src_dir_fd=parts, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            _unlink(parts, temporary)
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if _exists(parent, name):
                _unlink(parts, temporary)
                return False
        else:
            _unlink(parts, temporary)
            return True
    os.rename(temporary, name, src_dir_fd=parts, dst_dir_fd=parent)
    return True


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _unlink(parent: int, name: str) -> None:
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
