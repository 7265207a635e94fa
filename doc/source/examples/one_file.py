"""A backup driver that keeps all objects in one SQLite file: small, whole, and without a library of its own."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import BackupDriver, BackupDriverContext, Data, ObjectInfo, check_name, check_prefix

_PAGE = 500
_BUSY_S = 30.0
_AFTER_SLASH = chr(ord("/") + 1)


class OneFileBackupDriver(BackupDriver):
    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        return [cfg.StrOpt("backup_one_file_path", required=True, help="The file. Its directory must exist.")]

    def __init__(self, context: BackupDriverContext) -> None:
        super().__init__(context)
        self._path = str(self.options.backup_one_file_path)

    def __str__(self) -> str:
        return f"the backup store {self._path}"

    # -- initialisation -------------------------------------------------------------------

    def do_setup(self) -> None:
        if not os.path.isabs(self._path):
            raise exc.DriverConfigurationError(reason=f"backup_one_file_path {self._path!r} is not absolute")
        # A file that has gone is not made again by any later call.
        with self._opened("set it up", mode="rwc") as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE IF NOT EXISTS objects (name TEXT PRIMARY KEY, data BLOB NOT NULL)")

    def check(self) -> None:
        with self._opened("check it") as connection:
            # Asks for the right to write, and gives it back.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT name FROM objects LIMIT 1")

    # -- objects --------------------------------------------------------------------------

    def put(self, name: str, data: Data) -> None:
        check_name(name)
        with self._opened(f"store {name}") as connection:
            connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?)", (name, data))

    def put_if_absent(self, name: str, data: Data) -> None:
        check_name(name)
        with self._opened(f"store {name}") as connection:
            try:
                connection.execute("INSERT INTO objects VALUES (?, ?)", (name, data))
            except sqlite3.IntegrityError as error:
                raise exc.BackupObjectExists(store=str(self), id=name) from error

    def get(self, name: str) -> bytes:
        return self._read(name, "SELECT data FROM objects WHERE name = ?")

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._read(name, "SELECT substr(data, ?2 + 1, ?3) FROM objects WHERE name = ?1", offset, length)

    def list(self, prefix: str) -> Iterator[Sequence[ObjectInfo]]:
        check_prefix(prefix)
        first, end = prefix, prefix[:-1] + _AFTER_SLASH if prefix else "\x7f"
        statement = (
            "SELECT name, length(data) FROM objects WHERE name > ? AND name < ? ORDER BY name LIMIT ?"  # a page a call
        )
        while True:
            with self._opened(f"list {prefix or 'it'}") as connection:
                page = [ObjectInfo(*row) for row in connection.execute(statement, (first, end, _PAGE))]
            if not page:
                return
            yield page
            first = page[-1].name

    def delete(self, name: str) -> None:
        self.delete_many([name])

    def delete_many(self, names: Sequence[str]) -> None:
        rows = [(check_name(name),) for name in names]
        with self._opened(f"delete {len(rows)} objects") as connection:
            connection.executemany("DELETE FROM objects WHERE name = ?", rows)

    def free_bytes(self) -> int:
        found = os.statvfs(os.path.dirname(self._path))
        return found.f_bavail * found.f_frsize

    # -- the file -------------------------------------------------------------------------

    def _read(self, name: str, statement: str, *more: int) -> bytes:
        check_name(name)
        with self._opened(f"read {name}") as connection:
            row = connection.execute(statement, (name, *more)).fetchone()
        if row is None:
            raise exc.BackupObjectMissing(store=str(self), id=name)
        return bytes(row[0])

    @contextlib.contextmanager
    def _opened(self, doing: str, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        """One connection for one call, because any thread may call; committed at the block's end, and durable then."""
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self._path}?mode={mode}", _BUSY_S, uri=True)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                with connection:
                    yield connection
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise exc.StorageFull(reason=f"no room in {self} to {doing}") from error
            raise exc.BackendUnavailable(reason=f"{self} can't be used to {doing}: {error}") from error
