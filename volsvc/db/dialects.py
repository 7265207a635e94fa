"""The few expressions that databases spell differently, each written once.

Everything else in the store is plain SQLAlchemy Core, so that SQLite, PostgreSQL and
MariaDB run the same statements.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class UtcDateTime(sa.DateTime):
    """Naive UTC with microseconds; MariaDB keeps whole seconds unless it is told otherwise."""

    cache_ok = True


@compiles(UtcDateTime, "mysql", "mariadb")
def _mysql_datetime(element: UtcDateTime, compiler: Any, **kw: Any) -> str:
    return "DATETIME(6)"


class utc_now(FunctionElement[dt.datetime]):
    """The database's clock, naive UTC.

    Heartbeats of several hosts are compared, so they are stamped by the one clock that all
    of them share.  With SQLite that is the host's own.
    """

    type = UtcDateTime()
    inherit_cache = True


@compiles(utc_now)
def _default_now(element: utc_now, compiler: Any, **kw: Any) -> str:
    return "(CURRENT_TIMESTAMP AT TIME ZONE 'UTC')"


@compiles(utc_now, "postgresql")
def _postgresql_now(element: utc_now, compiler: Any, **kw: Any) -> str:
    # CURRENT_TIMESTAMP stands still in a transaction, which may have waited for a lock; this one
    # is the same for all rows of a statement.
    return "(statement_timestamp() AT TIME ZONE 'UTC')"


@compiles(utc_now, "mysql", "mariadb")
def _mysql_now(element: utc_now, compiler: Any, **kw: Any) -> str:
    return "UTC_TIMESTAMP(6)"


@compiles(utc_now, "sqlite")
def _sqlite_now(element: utc_now, compiler: Any, **kw: Any) -> str:
    # The width that SQLAlchemy writes, because SQLite compares times as text.
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


def json_has(connection: sa.Connection, column: sa.ColumnElement[Any], key: str, value: str) -> sa.ColumnElement[bool]:
    """A condition: the JSON object in ``column`` maps ``key`` to the string ``value``.

    JSON paths are avoided on purpose: a key with a quote or a dot in it can't be written in
    one portably, and keys are chosen by users.
    """
    dialect = connection.dialect.name
    if dialect in ("mysql", "mariadb"):
        return sa.func.json_contains(column, sa.func.json_object(key, value)) == 1
    each = sa.func.json_each_text(column) if dialect == "postgresql" else sa.func.json_each(column)
    pairs = each.table_valued(sa.column("key", sa.String), sa.column("value", sa.String))
    return sa.exists(sa.select(sa.literal(1)).select_from(pairs).where(pairs.c.key == key, pairs.c.value == value))
