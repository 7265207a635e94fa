"""The tables.  What changes here needs a migration (``migrations/``); a test compares the two.

Columns are named as the fields of the records in ``models``.  Metadata and other mappings are
JSON columns: they are read and written whole with their row, and are gone with it; a table of
keys and values would cost a join in each list for the rare filter on metadata.
The indexes lead with ``state`` instead of being partial: MariaDB has no partial indexes, SQLite
uses one only for literal values, and open operations are found as fast this way.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from volsvc.db.dialects import UtcDateTime
from volsvc.states import Resource

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = sa.MetaData(naming_convention=_NAMING)

# SQLite gives increasing row numbers only to a column that is declared INTEGER.
_BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _uuid(name: str, *, nullable: bool = True) -> sa.Column[str]:
    return sa.Column(name, sa.String(36), nullable=nullable)


def _word(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(64), nullable=nullable)


def _text(name: str, *, nullable: bool = True) -> sa.Column[str]:
    return sa.Column(name, sa.String(255), nullable=nullable)


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _bytes(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _time(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, UtcDateTime(), nullable=nullable)


volume_types = sa.Table(
    "volume_types",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    _text("description"),
    _flag("is_public"),
    _json("extra_specs"),
    _time("created_at", nullable=False),
    _time("updated_at"),
)

volumes = sa.Table(
    "volumes",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    _number("size_gb"),
    _word("status"),
    _text("project_id", nullable=False),
    _text("user_id", nullable=False),
    _text("host"),
    _text("backend"),  # ``host`` without its pool, so that a backend's volumes are found by an index
    _text("name"),
    _text("description"),
    sa.Column("volume_type_id", sa.ForeignKey("volume_types.id"), nullable=True, index=True),
    _text("availability_zone", nullable=False),
    _uuid("snapshot_id"),
    _uuid("source_volid"),
    _flag("is_bootable"),
    _flag("is_multiattach"),
    _word("attach_status"),
    _word("migration_status", nullable=True),
    _number("claimed_gb"),
    _json("provider"),
    _json("metadata"),
    _time("created_at", nullable=False),
    _time("updated_at"),
    _time("launched_at"),
    # Holds the size too, so that a backend's claims are summed from the index alone.
    sa.Index(None, "backend", "claimed_gb"),
    sa.Index(None, "project_id", "created_at", "id"),
    sa.Index(None, "created_at", "id"),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("volume_id", sa.ForeignKey("volumes.id"), nullable=False, index=True),
    _number("size_gb"),
    _word("status"),
    _text("project_id", nullable=False),
    _text("user_id", nullable=False),
    _text("host"),
    sa.Column("backend", sa.String(255), nullable=True, index=True),
    _text("name"),
    _text("description"),
    _uuid("volume_type_id"),
    _word("progress"),
    _json("provider"),
    _json("metadata"),
    _time("created_at", nullable=False),
    _time("updated_at"),
    sa.Index(None, "project_id", "created_at", "id"),
    sa.Index(None, "created_at", "id"),
)

attachments = sa.Table(
    "attachments",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("volume_id", sa.ForeignKey("volumes.id"), nullable=False, index=True),
    _word("status"),
    _text("project_id", nullable=False),
    _text("instance_id"),
    _word("attach_mode"),
    _text("mountpoint"),
    _text("attached_host"),
    _json("connector"),
    _json("connection_info"),
    _time("attached_at"),
    _time("detached_at"),
    _time("created_at", nullable=False),
    _time("updated_at"),
    sa.Index(None, "project_id", "created_at", "id"),
)

backups = sa.Table(
    "backups",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    # No foreign key: a backup outlives its volume.
    sa.Column("volume_id", sa.String(36), nullable=False, index=True),
    _number("size_gb"),
    _word("status"),
    _text("project_id", nullable=False),
    _text("user_id", nullable=False),
    _uuid("snapshot_id"),
    sa.Column("host", sa.String(255), nullable=True, index=True),
    _text("name"),
    _text("description"),
    _text("container"),
    _text("availability_zone", nullable=False),
    _text("service"),
    _uuid("store_uuid"),
    _flag("is_stored"),
    _number("object_count"),
    _bytes("stored_bytes"),
    sa.Column("fail_reason", sa.Text(), nullable=True),
    _uuid("temp_snapshot_id"),
    _uuid("parent_id"),
    _uuid("restore_volume_id"),
    _text("volume_name"),
    _time("data_timestamp"),
    _json("provider"),
    _json("metadata"),
    _time("created_at", nullable=False),
    _time("updated_at"),
    sa.Index(None, "project_id", "created_at", "id"),
    sa.Index(None, "created_at", "id"),
)

services = sa.Table(
    "services",
    metadata,
    sa.Column("id", sa.Integer(), primary_key=True),
    _text("host", nullable=False),
    _text("binary", nullable=False),
    _word("state"),
    _text("step"),
    sa.Column("reason", sa.Text(), nullable=True),
    _number("attempts"),
    _number("max_attempts"),
    _number("losses"),
    _time("hanging_since"),
    _time("next_attempt_at"),
    _json("last_attempt"),
    _time("heartbeat_at"),
    _flag("is_disabled"),
    _text("disabled_reason"),
    _text("instance"),
    sa.Column("pid", sa.Integer(), nullable=True),
    _text("version"),
    _text("availability_zone", nullable=False),
    _uuid("backend_uuid"),
    _json("capabilities"),
    _text("config_digest"),
    _time("config_loaded_at"),
    sa.Column("config_error", sa.Text(), nullable=True),
    _time("created_at", nullable=False),
    _time("updated_at"),
    sa.UniqueConstraint("host", "binary"),
)

operations = sa.Table(
    "operations",
    metadata,
    sa.Column("seq", _BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(36), nullable=False, unique=True),
    _word("action"),
    _word("resource_type"),
    _text("resource_id", nullable=False),
    _word("state"),
    _text("host"),
    _json("args"),
    _number("args_version"),
    _word("second_type", nullable=True),
    _text("second_id"),
    # Copied from the table of states, so that the order of operations is decided in SQL.
    _flag("second_shared"),
    _word("previous_status", nullable=True),
    _word("second_previous_status", nullable=True),
    _number("claim_epoch"),
    _text("instance"),
    _number("attempts"),
    _bytes("progress_done"),
    _bytes("progress_total"),
    _flag("is_cancel_requested"),
    sa.Column("error", sa.Text(), nullable=True),
    _text("error_class"),
    _json("result"),
    _text("request_id"),
    _text("user_id"),
    _text("project_id"),
    _time("deadline_at"),
    _time("created_at", nullable=False),
    _time("started_at"),
    _time("finished_at"),
    _time("updated_at"),
    sa.Index(None, "state", "host", "seq"),
    sa.Index(None, "resource_id", "state", "seq"),
    sa.Index(None, "second_id", "second_shared", "state", "seq"),
    sa.Index(None, "finished_at"),
    # Numbers are never used twice, also after the newest rows are purged.
    sqlite_autoincrement=True,
)


def words(values: Iterable[str]) -> list[sa.ColumnElement[str]]:
    """Words of this program for ``in_``, as part of the statement's text.

    Parameters would be written out anew each time that the statement is run, which costs as much as running it.
    """
    return [sa.literal_column(f"'{word}'", sa.Text()) for word in sorted(values)]


TABLE_OF: dict[Resource, sa.Table] = {
    Resource.VOLUME: volumes,
    Resource.SNAPSHOT: snapshots,
    Resource.ATTACHMENT: attachments,
    Resource.BACKUP: backups,
}
