"""One place where transactions are run, repeated when that can help, and their errors translated.

Nothing above this module sees an exception of SQLAlchemy or of a database's driver.
"""

from __future__ import annotations

import collections
import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import sqlalchemy as sa
import tenacity
from sqlalchemy.engine import Engine

from volsvc import exceptions as exc
from volsvc.db.engine import READ_ONLY

LOG = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 6
LONGEST_S = 5.0
_LONGEST_PAUSE_S = 1.0

# SQLSTATE (PostgreSQL's appendix A): serialization_failure, deadlock_detected.
_REPEATABLE_SQLSTATES = frozenset({"40001", "40P01"})
# MariaDB's error list: lock wait timeout, deadlock.
_REPEATABLE_MYSQL = frozenset({1205, 1213})
# The low byte of an extended result code is its kind (sqlite.org/rescode.html).
_REPEATABLE_SQLITE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError)


class _Turns:
    """A lock that serves its waiters in the order in which they came.

    SQLite's writers poll for its lock with growing pauses, so that of several busy threads one can
    starve for seconds; those of one process line up here instead.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._is_taken = False
        self._waiting: collections.deque[threading.Lock] = collections.deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()

    def __exit__(self, *exc_info: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False


class Transactions:
    """Runs functions of a connection, each in one transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._turns: AbstractContextManager[None] = _Turns() if engine.dialect.name == "sqlite" else nullcontext()
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(can_repeat),
            # Who waited long for SQLite's lock has waited enough.
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(LONGEST_S),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=_LONGEST_PAUSE_S),
            before_sleep=_log_repeat,
            reraise=True,
        )

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` on one consistent view of the database; it must not write.

        Raises what ``work`` raises, and ``StoreUnavailable``.
        """
        return self._run(self._read_once, work)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` in one transaction; an exception out of it undoes everything.

        ``work`` runs again from its start after a deadlock or a lost connection.  A connection
        lost during the commit leaves open whether it happened, so ``work`` recognises its own
        effects where doing it twice would differ.
        Raises what ``work`` raises, ``StoreUnavailable``, and ``Conflict`` for a broken constraint.
        """
        return self._run(self._write_once, work)

    def _run(self, once: Callable[[Callable[[sa.Connection], T]], T], work: Callable[[sa.Connection], T]) -> T:
        try:
            result: T = self._retrying(once, work)
        except sa.exc.SQLAlchemyError as error:
            translated = translate(error)
            if translated is None:
                raise
            raise translated from error
        return result

    def _read_once(self, work: Callable[[sa.Connection], T]) -> T:
        with self.engine.connect().execution_options(**{READ_ONLY: True}) as connection, connection.begin():
            return work(connection)

    def _write_once(self, work: Callable[[sa.Connection], T]) -> T:
        with self._turns, self.engine.begin() as connection:
            return work(connection)


def can_repeat(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is run again at once."""
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return (getattr(cause, "sqlite_errorcode", 0) or 0) & 0xFF in _REPEATABLE_SQLITE
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if sqlstate in _REPEATABLE_SQLSTATES:
        return True
    arguments: tuple[object, ...] = getattr(cause, "args", ())
    return bool(arguments) and arguments[0] in _REPEATABLE_MYSQL


def translate(error: sa.exc.SQLAlchemyError) -> exc.VolsvcError | None:
    """The error of ours that says the same, or None for a mistake in this program."""
    if isinstance(error, sa.exc.TimeoutError):
        return exc.StoreUnavailable(
            reason="all connections are in use; raise [database] max_pool_size or max_overflow if this goes on"
        )
    if not isinstance(error, sa.exc.DBAPIError):
        return None
    words = " ".join(str(error.orig).split()) or type(error.orig).__name__
    if isinstance(error, sa.exc.IntegrityError):
        return exc.Conflict(reason=f"the record contradicts another one ({words}); look at it again, then retry")
    if _is_missing_table(error, words):
        return exc.StoreUnavailable(reason=f"its schema is missing ({words}); run 'volsvc-manage db sync'")
    if error.connection_invalidated or isinstance(error, _AWAY) or type(error) is sa.exc.DatabaseError:
        return exc.StoreUnavailable(reason=words)
    return None


def _is_missing_table(error: sa.exc.DBAPIError, words: str) -> bool:
    sqlstate = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return sqlstate == "42P01" or "no such table" in words


def _log_repeat(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    LOG.info(
        "database transaction is run again (attempt %d failed: %s)", state.attempt_number, getattr(error, "orig", error)
    )
