"""A backup store in a directory: one file an object, on a local or a mounted file system.

A file appears under its name when it is whole and synced.  Each call opens the directory, looks
at the marker in it, and works below that open directory without following links, so that an
unmounted or exchanged file system is noticed and nothing outside is ever touched.  A call takes
as long as the file system lets it: mount network file systems so that they give up.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc.backup.drivers import posix_files
from volsvc.backup.drivers.base import (
    MARKER_NAME,
    BackupDriver,
    BackupDriverContext,
    Data,
    ObjectInfo,
    check_name,
    check_prefix,
    parse_marker,
    require_identity,
)
from volsvc.drivers.storage_errors import translate

_MARKER_BYTES = 4096
_PAGE = 1000

OPTS = [
    cfg.StrOpt(
        "backup_posix_path",
        sample_default="$state_path/backup",
        help="Directory of the backup store. The default is created when it is missing; another one must exist, "
        "because a missing directory looks like a disk that isn't mounted. A reload applies it.",
    ),
]


class PosixBackupDriver(BackupDriver):
    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        return OPTS

    def __init__(self, context: BackupDriverContext) -> None:
        super().__init__(context)
        configured = self.options.backup_posix_path
        self._is_default = not configured
        self.path: str = (configured or "$state_path/backup").replace("$state_path", context.state_path)

    def __str__(self) -> str:
        return f"the backup store {self.path}"

    # -- initialisation -------------------------------------------------------------------

    def do_setup(self) -> None:
        if not os.path.isabs(self.path):
            raise exc.DriverConfigurationError(reason=f"backup_posix_path {self.path!r} is not absolute")
        if self._is_default:
            try:
                os.makedirs(self.path, mode=0o700, exist_ok=True)
            except OSError as error:
                raise translate(error, "create the backup store", self.path) from error

    def check(self) -> None:
        is_known = self._identity is not None
        with self._opened("keep backups", is_marker=not is_known) as root:
            posix_files.check_access(root)
            # As long as nobody knows whose directory this is, nothing is left in it.
            if is_known:
                posix_files.check_writable(root)

    # -- objects -----------------------------------------------------------------------------

    def put(self, name: str, data: Data) -> None:
        check_name(name)
        with self._opened(f"store {name}", name) as root:
            posix_files.write(root, name, data, replace=True)

    def put_if_absent(self, name: str, data: Data) -> None:
        check_name(name)
        with self._opened(f"store {name}", name) as root:
            if not posix_files.write(root, name, data, replace=False):
                raise exc.BackupObjectExists(store=str(self), id=name)

    def get(self, name: str) -> bytes:
        check_name(name)
        with self._object(name) as fd:
            return posix_files.read(fd, 0, os.fstat(fd).st_size)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        check_name(name)
        with self._object(name) as fd:
            return posix_files.read(fd, offset, length)

    def list(self, prefix: str) -> Iterator[Sequence[ObjectInfo]]:
        check_prefix(prefix)
        page: list[ObjectInfo] = []
        with self._opened(f"list {prefix or 'it'}") as root:
            for name, size in posix_files.walk(root, prefix.rstrip("/")):
                page.append(ObjectInfo(name, size))
                if len(page) == _PAGE:
                    yield page
                    page = []
        if page:
            yield page

    def delete(self, name: str) -> None:
        self.delete_many([name])

    def delete_many(self, names: Sequence[str]) -> None:
        for name in names:
            check_name(name)
        with self._opened(f"delete {names[0] if len(names) == 1 else f'{len(names)} objects'}") as root:
            posix_files.delete(root, names)

    def free_bytes(self) -> int | None:
        with self._opened("see how much room it has") as root:
            found = os.fstatvfs(root)
        return found.f_bavail * found.f_frsize

    def remove_leftovers(self) -> Sequence[str]:
        with self._opened("sweep it") as root:
            return posix_files.sweep(root)

    # -- the directory ------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self, doing: str, name: str = "", *, is_marker: bool = False) -> Iterator[int]:
        """The open directory, after its marker was found to be the expected one.

        Errors of the block are put in the service's words; ``doing`` completes "can't be used to".
        """
        try:
            root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if not is_marker and name != MARKER_NAME:
                    require_identity(self._read_marker(root), self._identity, str(self))
                yield root
            finally:
                os.close(root)
        except OSError as error:
            raise translate(error, doing, self.path) from error

    def _read_marker(self, root: int) -> str | None:
        try:
            fd = os.open(MARKER_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
        except FileNotFoundError:
            return None
        try:
            return parse_marker(os.read(fd, _MARKER_BYTES), str(self))
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _object(self, name: str) -> Iterator[int]:
        with self._opened(f"read {name}", name) as root:
            fd = posix_files.open_object(root, name)
            if fd is None:
                raise exc.BackupObjectMissing(store=str(self), id=name)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise exc.DriverError(reason=f"{self.path}/{name} is not a regular file; look at it, move it away")
                yield fd
            finally:
                os.close(fd)
