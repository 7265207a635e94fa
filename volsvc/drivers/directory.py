"""A directory of whole files: temporary names, publishing, deleting, sweeping.

A file in it either has its final name and is whole and synced, or has a ``.part-`` name and
belongs to whoever holds a lock on it.  All work of one call happens below one open directory
whose marker was just checked, so a file system that is unmounted or swapped meanwhile can't
be mistaken for another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import uuid
from collections.abc import Iterator

from volsvc import exceptions as exc
from volsvc.drivers import marker
from volsvc.drivers.storage_errors import translated

PART_PREFIX = ".part-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC


def file_name(kind: str, identifier: str) -> str:
    """``volume-UUID`` or ``snapshot-UUID``; raises ``InvalidInput`` for what is not a UUID."""
    try:
        return f"{kind}-{uuid.UUID(identifier)}"
    except (ValueError, AttributeError, TypeError):
        raise exc.InvalidInput(reason=f"{identifier!r} is not a UUID, so it can't name a {kind}") from None


class Part:
    """A file in the making, locked by this process until it is published or dropped."""

    def __init__(self, store: OpenStore, name: str, fd: int) -> None:
        self._store = store
        self.name = name
        self.fd = fd
        self.path = os.path.join(store.path, name)

    def grow(self, size_bytes: int, *, allocate: bool = False) -> None:
        """Make it at least that long, with its blocks reserved if ``allocate``."""
        if os.fstat(self.fd).st_size < size_bytes:
            os.ftruncate(self.fd, size_bytes)
        if allocate and size_bytes:
            os.posix_fallocate(self.fd, 0, size_bytes)

    def publish(self, name: str) -> None:
        """Sync it and give it its final name; an existing file of that name is kept instead."""
        os.fsync(self.fd)
        marker.publish(self._store.fd, self.name, name)
        self._store.sync()


class OpenStore:
    """The directory during one call, its marker checked."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def sync(self) -> None:
        """Make names that were created or deleted durable."""
        os.fsync(self.fd)

    def has(self, name: str, size_bytes: int) -> bool:
        """True for a whole file of at least that size; its name is durable then.

        Raises ``DriverError`` when something else has the name.
        """
        try:
            found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode):
            raise exc.DriverError(reason=f"{self.path}/{name} is not a regular file; look at it and move it away")
        if found.st_size < size_bytes:
            raise exc.DriverError(
                reason=f"{self.path}/{name} exists with {found.st_size} bytes instead of {size_bytes}; "
                "it was not made by this request and is not overwritten"
            )
        self.sync()
        return True

    def size_of(self, name: str) -> int | None:
        """The size of a regular file in bytes, None when there is none of that name."""
        try:
            found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    @contextlib.contextmanager
    def opened(self, name: str, flags: int = os.O_RDONLY) -> Iterator[int]:
        """A descriptor of an existing regular file, links not followed."""
        fd = os.open(name, flags | _FILE, dir_fd=self.fd)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise exc.DriverError(reason=f"{self.path}/{name} is not a regular file; look at it and move it away")
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[Part]:
        """A new temporary file for what will be ``name``, removed unless it was published.

        When the block ends with ``OperationSuperseded`` the file is left as it is: it belongs
        to whoever holds the claim now, and is swept when no one does.
        """
        temporary, fd = self._create_locked(name)
        try:
            try:
                yield Part(self, temporary, fd)
            except exc.OperationSuperseded:
                raise
            except BaseException:
                marker.discard(self.fd, temporary)
                raise
        finally:
            os.close(fd)

    def _create_locked(self, name: str) -> tuple[str, int]:
        while True:
            temporary = f"{PART_PREFIX}{name}-{secrets.token_hex(4)}"
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=self.fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A sweep may have taken the file for a leftover before it was locked.
                if os.fstat(fd).st_nlink:
                    return temporary, fd
            except BlockingIOError:
                pass
            except BaseException:
                os.close(fd)
                marker.discard(self.fd, temporary)
                raise
            os.close(fd)

    def delete(self, name: str) -> None:
        """Delete durably; deleting what is gone succeeds."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass
        self.sync()

    def names(self, *prefixes: str) -> list[str]:
        return sorted(name for name in os.listdir(self.fd) if name.startswith(prefixes))

    def sweep(self) -> list[str]:
        """Delete temporary files that nobody holds; returns their names."""
        gone = []
        for name in self.names(PART_PREFIX):
            try:
                fd = os.open(name, os.O_RDWR | os.O_NONBLOCK | _FILE, dir_fd=self.fd)
            except OSError:
                # Somebody else's directory, link or device with such a name: not made here.
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=self.fd)
                gone.append(name)
            except (BlockingIOError, FileNotFoundError):
                continue
            finally:
                os.close(fd)
        self.sync()
        return gone

    def require_room(self, size_bytes: int, doing: str) -> None:
        """Raise ``StorageFull`` when a copy of that much data can't fit.

        Stopping before the disk is full spares the attached volumes that live on it.
        """
        free = self.free_bytes()
        if size_bytes > free:
            raise exc.StorageFull(
                reason=f"to {doing}, {size_bytes} bytes are needed in {self.path} and {free} are free"
            )

    def free_bytes(self) -> int:
        found = os.fstatvfs(self.fd)
        return found.f_bavail * found.f_frsize


class StoreDirectory:
    """One directory, and the identity that its marker must have."""

    def __init__(self, path: str, backend: str) -> None:
        self.path = path
        self._backend = backend
        self._identity: str | None = None

    def read_identity(self) -> str | None:
        """The marker's UUID, which from now on must not change; None without a marker."""
        with self.opened("read the marker", any_identity=True) as store:
            self._identity = marker.read_marker(store.fd, self.path)
        return self._identity

    def write_identity(self, identity: str) -> None:
        with self.opened("write the marker", any_identity=True) as store:
            marker.write_marker(store.fd, self.path, identity, self._backend)
        self._identity = identity

    @contextlib.contextmanager
    def opened(self, doing: str, *, any_identity: bool = False) -> Iterator[OpenStore]:
        """The open directory, after its marker was found to be the expected one.

        ``doing`` completes the sentence "can't ...".  Raises ``BackendUnavailable`` when the
        directory or its marker isn't there or is another's; errors of the block are translated.
        """
        with translated(doing, self.path):
            fd = os.open(self.path, _DIRECTORY)
            try:
                if not any_identity:
                    self._check(fd, doing)
                yield OpenStore(self.path, fd)
            finally:
                os.close(fd)

    def _check(self, fd: int, doing: str) -> None:
        found = marker.read_marker(fd, self.path)
        if found is None or found != self._identity:
            what = f"the marker of backend {found}" if found else "no marker"
            raise exc.BackendUnavailable(
                reason=f"{self.path} has {what}, expected {self._identity}; nothing was touched. "
                f"Is the right file system mounted there? It is needed to {doing}"
            )
