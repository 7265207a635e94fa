"""Copying files that are mostly holes: by shared extents where possible, else data only.

Knows file descriptors and nothing about volumes.  ``FICLONE`` shares every extent in one
step (ioctl_ficlone(2)); the copy finds the data by ``SEEK_DATA``/``SEEK_HOLE`` (lseek(2)) and
moves it with ``copy_file_range`` or, where the kernel refuses that, by reading and writing.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable

FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
PIECE_BYTES = 16 * 1024**2  # between two reports of progress; well under a second on a slow disk
_BLOCK_BYTES = 64 * 1024

_NO_REFLINK = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EISDIR, errno.ETXTBSY, errno.EPERM}
)
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.ETXTBSY})

Progress = Callable[[int, int], None]


def try_reflink(source_fd: int, destination_fd: int) -> bool:
    """Make ``destination_fd`` (empty) share all of the source's extents; False when it can't be.

    One step for the file system, so a point in time also beside a writer.  Raises OSError for
    anything that is not a missing ability (``ENOSPC``, ``EIO``).  May be repeated.
    """
    try:
        fcntl.ioctl(destination_fd, FICLONE, source_fd)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    return True


def allocated_bytes(fd: int) -> int:
    """Bytes that the file takes on the disk, holes not counted."""
    return os.fstat(fd).st_blocks * 512


def copy_data(source_fd: int, destination_fd: int, length: int, progress: Progress) -> None:
    """Copy the data in the first ``length`` bytes; holes stay holes.

    The destination must be new (all hole) and nobody may write to the source meanwhile.
    ``progress`` is called with the bytes done and the total after each piece and may raise to
    stop.  The destination ends ``length`` long; syncing it is the caller's.
    """
    os.ftruncate(destination_fd, length)
    copy_piece = _copy_range
    offset = 0
    progress(0, length)
    while offset < length:
        start, end = _next_data(source_fd, offset, length)
        offset = start
        while offset < end:
            size = min(PIECE_BYTES, end - offset)
            try:
                copy_piece(source_fd, destination_fd, offset, size)
            except OSError as error:
                if copy_piece is _copy_by_hand or error.errno not in _NO_COPY_RANGE:
                    raise
                copy_piece = _copy_by_hand
                continue
            offset += size
            progress(offset, length)
    progress(length, length)


def _next_data(fd: int, offset: int, length: int) -> tuple[int, int]:
    """The next run of data at or after ``offset``; an empty run at ``length`` when there is none."""
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return length, length
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return offset, length
        raise
    if start >= length:
        return length, length
    return start, min(os.lseek(fd, start, os.SEEK_HOLE), length)


def _copy_range(source_fd: int, destination_fd: int, offset: int, size: int) -> None:
    done = 0
    while done < size:
        moved = os.copy_file_range(source_fd, destination_fd, size - done, offset + done, offset + done)
        if moved == 0:
            # Some kernels answer 0 in the middle of files that they can't copy this way.
            _copy_by_hand(source_fd, destination_fd, offset + done, size - done)
            return
        done += moved


def _copy_by_hand(source_fd: int, destination_fd: int, offset: int, size: int) -> None:
    end = offset + size
    while offset < end:
        block = os.pread(source_fd, min(_BLOCK_BYTES, end - offset), offset)
        if not block:
            raise OSError(errno.EIO, "the source became shorter while it was copied")
        if block.count(0) != len(block):
            written = 0
            while written < len(block):
                written += os.pwrite(destination_fd, block[written:], offset + written)
        offset += len(block)
