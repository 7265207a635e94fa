"""Making the engine: how connections are opened, and what SQLite needs to be told.

Nothing is read from the database here; the first transaction opens the first connection.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine

from volsvc import exceptions as exc
from volsvc.db import filesystem

READ_ONLY = "volsvc_read_only"


def create_engine(
    url: str,
    *,
    busy_timeout_s: float = 30.0,
    is_synchronous: bool = True,
    pool_size: int = 5,
    max_overflow: int = 50,
    pool_timeout_s: float = 30.0,
    pool_recycle_s: float = 3600.0,
) -> Engine:
    """An engine for ``url`` (SQLAlchemy's form) with this service's habits.

    ``busy_timeout_s``: how long SQLite waits for another writer.  ``is_synchronous``: whether a
    commit has reached the disk before it is answered, so that what was promised survives a loss of
    power (SQLite only; without it a crash of the daemon alone still loses nothing).
    ``pool_timeout_s``: how long to wait for one of ``pool_size + max_overflow`` connections.
    ``pool_recycle_s``: age after which a server's connection is replaced.

    Raises ``ConfigurationError`` for a URL that can't be used, a missing directory, or SQLite on a
    network file system.  A new SQLite file is created empty, readable by its owner only.
    May be repeated; dispose of each engine.
    """
    try:
        parsed = sa.make_url(url)
        dialect = parsed.get_backend_name()
    except sa.exc.ArgumentError:
        raise exc.ConfigurationError(
            reason="[database] connection can't be read; it looks like sqlite:////var/lib/volsvc/volsvc.sqlite "
            "or postgresql+psycopg://user:password@host/name"
        ) from None
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": max_overflow,
        "pool_timeout": pool_timeout_s,
        "json_serializer": functools.partial(
            json.dumps, ensure_ascii=False, separators=(",", ":"), default=_json_default
        ),
        # Errors carry a statement's text to logs; its values may be a connector's secrets.
        "hide_parameters": True,
    }
    if dialect == "sqlite":
        _prepare_file(parsed)
        options["connect_args"] = {"timeout": busy_timeout_s, "check_same_thread": False}
        # Connections to a file don't age, and each open costs more than the statements it is for.
        options["poolclass"] = sa.QueuePool
    else:
        # Compare-and-set reads what others have committed, not what was true when it began.
        options |= {"isolation_level": "READ COMMITTED", "pool_pre_ping": True, "pool_recycle": pool_recycle_s}
    try:
        engine = sa.create_engine(parsed, **options)
    except (sa.exc.NoSuchModuleError, ImportError) as error:
        raise exc.ConfigurationError(
            reason=f"[database] connection names {parsed.drivername!r}, which can't be loaded: {error}; "
            "install its driver or name another"
        ) from error
    if dialect == "sqlite":
        _teach_sqlite(engine, is_synchronous)
    return engine


def is_new_file(url: str) -> bool:
    """Whether this is an SQLite file that no program has written a schema to; False for any other database."""
    with contextlib.suppress(sa.exc.ArgumentError, OSError):
        parsed = sa.make_url(url)
        name = parsed.database or ""
        if parsed.get_backend_name() == "sqlite" and name and name != ":memory:" and not name.startswith("file:"):
            return not os.path.exists(name) or os.path.getsize(name) == 0
    return False


def _json_default(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} can't be kept as JSON")


def _prepare_file(url: URL) -> None:
    name = url.database
    if not name or name == ":memory:" or "mode=memory" in name:
        raise exc.ConfigurationError(
            reason="[database] connection is SQLite in memory, which forgets everything at the end; name a file"
        )
    if name.startswith("file:"):
        return
    path = Path(name)
    directory = path.parent
    if not directory.is_dir():
        raise exc.ConfigurationError(
            reason=f"[database] connection is in {directory}, which is not a directory; make it or name another"
        )
    kind = filesystem.find_type(directory)
    if kind in filesystem.NETWORK_TYPES:
        raise exc.ConfigurationError(
            reason=f"[database] connection is in {directory}, a network file system ({kind}) that SQLite can't be "
            "trusted to; name a local directory, or a PostgreSQL server"
        )
    try:
        _create_or_check(path)
    except OSError as error:
        raise exc.ConfigurationError(
            reason=f"[database] connection: {path} can't be opened for writing: {error.strerror}"
        ) from error


def _create_or_check(path: Path) -> None:
    """Make an empty file, or see that an existing one may be written, without opening that.

    Closing any descriptor of a database file drops all the locks that this process holds on it
    through SQLite (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not os.path.isfile(path):
            raise OSError(errno.EINVAL, "it is not a regular file") from None
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


def _teach_sqlite(engine: Engine, is_synchronous: bool) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        # The driver would begin transactions by itself, and always deferred ones.
        connection.isolation_level = None
        cursor = connection.cursor()
        try:
            # Asking first, because setting the mode takes a lock even when nothing changes.
            if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute(f"PRAGMA synchronous = {'FULL' if is_synchronous else 'NORMAL'}")
            cursor.execute("PRAGMA foreign_keys = ON")
        finally:
            cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        # A transaction that reads first and writes later can't wait for another writer, it fails;
        # so one that may write takes the write lock at once.
        is_read_only = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if is_read_only else "BEGIN IMMEDIATE")
