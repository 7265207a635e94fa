"""Lists: filters, order, pages by marker, and counts, the same for each kind of record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc import models
from volsvc.db import records, schema
from volsvc.db.dialects import json_has
from volsvc.db.records import Kind
from volsvc.ports import Page, Query
from volsvc.states import OPEN_STATES

T = TypeVar("T")

# Values in one IN (...): every database takes this many.
_CHUNK = 500

# Built once; see ``gate``.
_attachments = schema.attachments.c
_ATTACHMENTS_OF = (
    records.ATTACHMENT.select()
    .where(_attachments.volume_id.in_(sa.bindparam("the_volumes", expanding=True)))
    .order_by(_attachments.created_at, _attachments.id)
)

_Condition = sa.ColumnElement[bool]


def list_page(
    connection: sa.Connection, kind: Kind[T], query: Query, *, with_count: bool = False, tie: str = "id"
) -> Page[T]:
    """A page of ``kind``; ``tie`` is the unique column that ends each order.

    Raises the kind's ``NotFound`` for a marker that isn't there, ``InvalidInput`` for a column that
    doesn't exist.
    """
    conditions = _conditions(connection, kind, query)
    total = None
    if with_count:
        count = sa.select(sa.func.count()).select_from(kind.table).where(*conditions)
        total = connection.execute(count).scalar_one()
    order = _order(kind, query.sort, tie)
    if query.marker is not None:
        conditions.append(_after(_find_marker(connection, kind, query), order))
    statement = kind.select().where(*conditions)
    for column, is_descending in order:
        statement = statement.order_by(*_order_by(column, is_descending))
    if query.limit is not None:
        statement = statement.limit(query.limit + 1)
    if query.offset:
        statement = statement.offset(query.offset)
        if query.limit is None:
            # SQLite and MariaDB know no OFFSET without LIMIT; SQLAlchemy sees to SQLite only.
            statement = statement.limit(2**62)
    items = [kind.build(row) for row in connection.execute(statement)]
    if query.limit is None:
        return Page(tuple(items), has_more=False, total=total)
    return Page(tuple(items[: query.limit]), has_more=len(items) > query.limit, total=total)


def get(connection: sa.Connection, kind: Kind[T], record_id: str, *, project_id: str | None = None) -> T:
    """The record with that id; raises its ``NotFound``, also for another project's."""
    row = connection.execute(kind.by_id, {"the_id": record_id}).one_or_none()
    if row is None or (project_id is not None and row.project_id != project_id):
        raise kind.not_found(id=record_id)
    return kind.build(row)


def list_on_backend(connection: sa.Connection, kind: Kind[T], host: str) -> list[T]:
    """Everything of ``kind`` whose backend is ``host@backend``, oldest first."""
    table = kind.table
    statement = kind.select().where(table.c.backend == models.backend_of(host)).order_by(table.c.created_at, table.c.id)
    return [kind.build(row) for row in connection.execute(statement)]


def list_backups_with_leftovers(connection: sa.Connection, host: str) -> list[models.Backup]:
    """Backups that ``host`` made, that still have a temporary snapshot, and that nothing is open for."""
    table, operations = schema.backups, schema.operations
    is_busy = sa.exists().where(
        operations.c.resource_id == table.c.id, operations.c.state.in_(sorted(str(state) for state in OPEN_STATES))
    )
    statement = records.BACKUP.select().where(table.c.host == host, table.c.temp_snapshot_id.is_not(None), ~is_busy)
    return [records.BACKUP.build(row) for row in connection.execute(statement)]


def attachments_of(connection: sa.Connection, volume_ids: Sequence[str]) -> dict[str, list[models.Attachment]]:
    """The attachments of those volumes by volume id, oldest first; volumes without any are absent."""
    found: dict[str, list[models.Attachment]] = {}
    wanted = list(dict.fromkeys(volume_ids))
    for start in range(0, len(wanted), _CHUNK):
        for row in connection.execute(_ATTACHMENTS_OF, {"the_volumes": wanted[start : start + _CHUNK]}):
            attachment = records.ATTACHMENT.build(row)
            found.setdefault(attachment.volume_id, []).append(attachment)
    return found


def summarise_volumes(connection: sa.Connection, query: Query) -> tuple[int, int, dict[str, list[str]]]:
    """Of the volumes that match: how many, GiB in all, each metadata key with its distinct values, sorted."""
    count, size_gb = summarise(connection, records.VOLUME, query)
    conditions = _conditions(connection, records.VOLUME, query)
    values: dict[str, set[str]] = {}
    for metadata in connection.scalars(sa.select(schema.volumes.c.metadata).where(*conditions)):
        for key, value in metadata.items():
            values.setdefault(key, set()).add(value)
    return count, size_gb, {key: sorted(values[key]) for key in sorted(values)}


def summarise(connection: sa.Connection, kind: Kind[Any], query: Query) -> tuple[int, int]:
    """Of the records that match: how many, GiB in all."""
    size = sa.func.coalesce(sa.func.sum(kind.table.c.size_gb), 0)
    totals = sa.select(sa.func.count(), size).where(*_conditions(connection, kind, query)).select_from(kind.table)
    count, size_gb = connection.execute(totals).one()
    return int(count), int(size_gb)


def _column(kind: Kind[Any], name: str) -> sa.ColumnElement[Any]:
    if name not in kind.table.c:
        raise exc.InvalidInput(reason=f"{kind.table.name} can't be filtered or sorted by {name!r}")
    return kind.table.c[name]


def _conditions(connection: sa.Connection, kind: Kind[Any], query: Query) -> list[_Condition]:
    found: list[_Condition] = []
    if query.project_id is not None and "project_id" in kind.table.c:
        found.append(kind.table.c.project_id == query.project_id)
    for name, value in query.filters.items():
        found.append(_matches(kind, name, value))
    for key, value in query.metadata.items():
        found.append(json_has(connection, kind.table.c.metadata, key, value))
    return found


def _matches(kind: Kind[Any], name: str, value: Any) -> _Condition:
    if name.endswith("~"):
        part: _Condition = _column(kind, name[:-1]).contains(str(value), autoescape=True)
        return part
    column = _column(kind, name)
    if value is None:
        return column.is_(None)
    if isinstance(value, (list, tuple, set, frozenset)):
        present = [item for item in value if item is not None]
        is_any = column.in_(present)
        return sa.or_(is_any, column.is_(None)) if len(present) < len(value) else is_any
    if isinstance(value, Mapping):
        raise exc.InvalidInput(reason=f"{name!r} can't be filtered by a mapping")
    is_equal: _Condition = column == value
    return is_equal


# -- order -----------------------------------------------------------------------------------
# Databases disagree where NULL sorts: here it is the smallest value.

_Order = list[tuple[sa.ColumnElement[Any], bool]]


def _order(kind: Kind[Any], sort: Sequence[tuple[str, str]], tie: str) -> _Order:
    order: _Order = []
    for name, direction in sort:
        if direction not in ("asc", "desc"):
            raise exc.InvalidInput(reason=f"sort direction {direction!r} is neither asc nor desc")
        order.append((_column(kind, name), direction == "desc"))
        if name == tie:
            return order
    order.append((_column(kind, tie), order[-1][1] if order else False))
    return order


def _order_by(column: sa.ColumnElement[Any], is_descending: bool) -> list[sa.ColumnElement[Any]]:
    direction = column.desc() if is_descending else column.asc()
    if not getattr(column, "nullable", True):
        return [direction]
    is_null = sa.case((column.is_(None), 0), else_=1)
    return [is_null.desc() if is_descending else is_null.asc(), direction]


def _find_marker(connection: sa.Connection, kind: Kind[Any], query: Query) -> sa.Row[Any]:
    table = kind.table
    statement = sa.select(table).where(table.c.id == query.marker)
    if query.project_id is not None and "project_id" in table.c:
        statement = statement.where(table.c.project_id == query.project_id)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise kind.not_found(id=query.marker)
    return row


def _after(marker: sa.Row[Any], order: _Order) -> _Condition:
    """Everything that comes after the marker in ``order``."""
    alternatives: list[_Condition] = []
    ties: list[_Condition] = []
    for column, is_descending in order:
        value = getattr(marker, column.key or "")
        alternatives.append(sa.and_(*ties, _beyond(column, value, is_descending)))
        ties.append(column.is_(None) if value is None else column == value)
    return sa.or_(*alternatives)


def _beyond(column: sa.ColumnElement[Any], value: Any, is_descending: bool) -> _Condition:
    if value is None:
        return sa.false() if is_descending else column.is_not(None)
    if not is_descending:
        above: _Condition = column > value
        return above
    below = column < value
    return sa.or_(below, column.is_(None)) if getattr(column, "nullable", True) else below
