"""A volume as a file or block device of this host.

Read and written past the page cache where the file system takes that: a backup or restore
would otherwise push out what the volumes' users have in it, and copy every byte once more.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Self

from volsvc import exceptions as exc
from volsvc.backup.blocks import PAGE_EXTENTS, Extent, ExtentPage
from volsvc.drivers.storage_errors import FULL, translate

_BLOCK = 4096
_NO_DIRECT = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
_NO_HOLES = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EPERM})
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h
_ZEROS_BYTES = 1024**2


class _OpenFile:
    """One file, open twice: through the page cache, and past it if that works."""

    def __init__(self, path: str, flags: int, doing: str) -> None:
        self._path = path
        self._doing = doing
        self._direct_fd = -1
        with self._translated():
            self._fd = os.open(path, flags | os.O_CLOEXEC)
            self.size_bytes = os.lseek(self._fd, 0, os.SEEK_END)
            try:
                self._direct_fd = os.open(path, flags | os.O_CLOEXEC | os.O_DIRECT)
            except OSError as error:
                if error.errno not in _NO_DIRECT:
                    os.close(self._fd)
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __str__(self) -> str:
        return self._path

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the open file, which tell it from any other of this host."""
        with self._translated():
            found = os.fstat(self._fd)
        return found.st_dev, found.st_ino

    def close(self) -> None:
        """Repeatable."""
        for fd in (self._fd, self._direct_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._direct_fd = -1

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                raise translate(error, f"{self._doing} it", self._path) from error
            words = os.strerror(error.errno) if error.errno else str(error)
            raise exc.VolumeAccessError(reason=f"can't {self._doing} {self._path}: {words}") from error

    def _fd_for(self, offset: int, length: int) -> int:
        is_aligned = not (offset % _BLOCK or length % _BLOCK)
        return self._direct_fd if is_aligned and self._direct_fd >= 0 else self._fd


class FileSource(_OpenFile):
    """Reads a file that nobody writes to."""

    def __init__(self, path: str) -> None:
        super().__init__(path, os.O_RDONLY, "read")

    def list_data(self, offset: int) -> ExtentPage:
        extents: list[Extent] = []
        with self._translated():
            while offset < self.size_bytes:
                if len(extents) == PAGE_EXTENTS:
                    return ExtentPage(extents, offset)
                start, offset = self._next_data(offset)
                if start < self.size_bytes:
                    extents.append(Extent(start, offset - start))
        return ExtentPage(extents, None)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._translated():
            fd = self._fd_for(offset, len(buffer))
            while buffer:
                try:
                    count = os.preadv(fd, [buffer], offset)
                except OSError as error:
                    if error.errno != errno.EINVAL or fd == self._fd:
                        raise
                    fd = self._fd
                    continue
                if not count:
                    raise OSError(errno.EIO, "it became shorter while it was read")
                offset, buffer = offset + count, buffer[count:]

    def _next_data(self, offset: int) -> tuple[int, int]:
        try:
            start = os.lseek(self._fd, offset, os.SEEK_DATA)
            return start, min(os.lseek(self._fd, start, os.SEEK_HOLE), self.size_bytes)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return self.size_bytes, self.size_bytes
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return offset, self.size_bytes
            raise


class FileSink(_OpenFile):
    """Writes a file or device that is there already and has its size."""

    def __init__(self, path: str) -> None:
        super().__init__(path, os.O_RDWR, "write")
        self._can_punch = True

    def write(self, offset: int, data: memoryview) -> None:
        with self._translated():
            fd = self._fd_for(offset, len(data))
            while data:
                try:
                    count = os.pwrite(fd, data, offset)
                except OSError as error:
                    if error.errno != errno.EINVAL or fd == self._fd:
                        raise
                    fd = self._fd
                    continue
                offset, data = offset + count, data[count:]

    def write_zeroes(self, offset: int, length: int) -> None:
        with self._translated():
            if self._can_punch:
                self._can_punch = _punch_hole(self._fd, offset, length)
            if not self._can_punch:
                zeros = memoryview(bytes(min(length, _ZEROS_BYTES)))
                for at in range(offset, offset + length, _ZEROS_BYTES):
                    self.write(at, zeros[: min(_ZEROS_BYTES, offset + length - at)])

    def sync(self) -> None:
        with self._translated():
            os.fsync(self._fd)


def _punch_hole(fd: int, offset: int, length: int) -> bool:
    """Make a hole; False when this file can't have one."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length) == 0:
        return True
    error = ctypes.get_errno()
    if error in _NO_HOLES:
        return False
    raise OSError(error, os.strerror(error))
