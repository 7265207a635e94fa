"""Rows to records and back: the only place that knows how the two differ.

A record's fields are the table's columns by name; the columns that a record doesn't have are
derived when it is written (``backend`` from ``host``).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from volsvc import exceptions, models
from volsvc.db import schema
from volsvc.states import Resource

T = TypeVar("T")

# Written by the gate and the store themselves, never on a caller's word.
PROTECTED = frozenset({"id", "status", "attach_status", "backend", "created_at", "updated_at", "volume_id"})


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One sort of record: its class, its table, and the error that says it isn't there."""

    model: type[T]
    table: sa.Table
    not_found: type[exceptions.NotFound]
    columns: tuple[sa.Column[Any], ...]
    by_id: sa.Select[Any]  # takes the parameter "the_id"; built once, because each request runs it

    def build(self, row: sa.Row[Any]) -> T:
        """The record of a row that was selected with ``columns``."""
        make: Callable[..., T] = self.model
        return make(*row)

    def select(self) -> sa.Select[Any]:
        return sa.select(*self.columns)


def _kind(model: type[T], table: sa.Table, not_found: type[exceptions.NotFound]) -> Kind[T]:
    names = [f.name for f in dataclasses.fields(model)]  # type: ignore[arg-type]
    columns = tuple(table.c[name] for name in names if name in table.c)
    by_id = sa.select(*columns).where(table.c.id == sa.bindparam("the_id"))
    return Kind(model, table, not_found, columns, by_id)


VOLUME = _kind(models.Volume, schema.volumes, exceptions.VolumeNotFound)
SNAPSHOT = _kind(models.Snapshot, schema.snapshots, exceptions.SnapshotNotFound)
ATTACHMENT = _kind(models.Attachment, schema.attachments, exceptions.AttachmentNotFound)
BACKUP = _kind(models.Backup, schema.backups, exceptions.BackupNotFound)
VOLUME_TYPE = _kind(models.VolumeType, schema.volume_types, exceptions.VolumeTypeNotFound)
OPERATION = _kind(models.Operation, schema.operations, exceptions.OperationNotFound)

KIND_OF: dict[Resource, Kind[Any]] = {
    Resource.VOLUME: VOLUME,
    Resource.SNAPSHOT: SNAPSHOT,
    Resource.ATTACHMENT: ATTACHMENT,
    Resource.BACKUP: BACKUP,
}


def utcnow() -> dt.datetime:
    """This host's time as records keep it: naive UTC."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


def values_of(record: Any, table: sa.Table) -> dict[str, Any]:
    """The columns of a record, with those derived from it."""
    return with_derived({f.name: getattr(record, f.name) for f in dataclasses.fields(record)}, table)


def with_derived(values: Mapping[str, Any], table: sa.Table) -> dict[str, Any]:
    """A copy of ``values`` with the columns that follow from them."""
    columns = dict(values)
    if "host" in columns and "backend" in table.c:
        columns["backend"] = None if columns["host"] is None else models.backend_of(columns["host"])
    return columns


def checked_changes(
    changes: Mapping[str, Any], table: sa.Table, *, protected: frozenset[str] = PROTECTED
) -> dict[str, Any]:
    """``changes`` as columns to write.

    Raises ``ValueError`` for a column that doesn't exist or that only the store may write:
    that is a mistake in this program, not in a request.
    """
    wrong = [name for name in changes if name not in table.c or name in protected]
    if wrong:
        raise ValueError(f"{table.name} has no column that may be written called: {', '.join(sorted(wrong))}")
    return with_derived(changes, table)
