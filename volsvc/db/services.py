"""Services: who is there, since when nothing was heard of them, and what their backends have promised."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc import models
from volsvc.db import records, schema
from volsvc.db.dialects import utc_now

_services = schema.services
_s = _services.c

READY = "ready"

_PROTECTED = frozenset({"id", "host", "binary", "created_at", "updated_at"})
_ADMIN_MAY_WRITE = frozenset({"is_disabled", "disabled_reason"})
_COMPUTED = frozenset({"is_up", "allocated_gb"})
_FIELDS = tuple(field.name for field in dataclasses.fields(models.Service) if field.name not in _COMPUTED)


def register(connection: sa.Connection, host: str, binary: str, fields: Mapping[str, Any], now: dt.datetime) -> int:
    """Insert or update the row of a service and stamp its heartbeat; returns its id."""
    values = records.checked_changes(fields, _services, protected=_PROTECTED) | {"updated_at": now}
    is_it = sa.and_(_s.host == host, _s.binary == binary)
    found = connection.execute(sa.select(_s.id).where(is_it).with_for_update()).scalar_one_or_none()
    if found is not None:
        connection.execute(sa.update(_services).where(_s.id == found).values({**values, "heartbeat_at": utc_now()}))
        return int(found)
    new = models.Service(id=0, host=host, binary=binary)
    defaults = {name: getattr(new, name) for name in _FIELDS if name != "id"}
    inserted = connection.execute(
        sa.insert(_services).values({**defaults, "created_at": now, **values, "heartbeat_at": utc_now()})
    )
    return int((inserted.inserted_primary_key or (0,))[0])


def report(connection: sa.Connection, service_id: int, fields: Mapping[str, Any], now: dt.datetime) -> None:
    """Write what a service says of itself.  Raises ``ServiceNotFound``."""
    _write(connection, service_id, records.checked_changes(fields, _services, protected=_PROTECTED), now)


def update(connection: sa.Connection, service_id: int, changes: Mapping[str, Any], now: dt.datetime) -> None:
    """Write what an admin decides of a service.  Raises ``ServiceNotFound``."""
    wrong = set(changes) - _ADMIN_MAY_WRITE
    if wrong:
        raise ValueError(f"not an admin's to write: {', '.join(sorted(wrong))}")
    _write(connection, service_id, dict(changes), now)


def _write(connection: sa.Connection, service_id: int, values: dict[str, Any], now: dt.datetime) -> None:
    result = connection.execute(sa.update(_services).where(_s.id == service_id).values({**values, "updated_at": now}))
    if result.rowcount != 1:
        raise exc.ServiceNotFound(id=service_id)


def beat(connection: sa.Connection, service_ids: Sequence[int]) -> None:
    """Stamp heartbeats with the database's clock; ids that are gone are passed over."""
    connection.execute(sa.update(_services).where(_s.id.in_(list(service_ids))).values(heartbeat_at=utc_now()))


def list_all(connection: sa.Connection, down_time_s: float, service_id: int | None = None) -> list[models.Service]:
    """Every service (or one), ordered by host and binary, with ``is_up`` and ``allocated_gb``."""
    volumes = schema.volumes
    allocated = (
        sa.select(volumes.c.backend, sa.func.sum(volumes.c.claimed_gb).label("gb"))
        .where(volumes.c.backend.is_not(None))
        .group_by(volumes.c.backend)
        .subquery()
    )
    statement = (
        sa.select(*(_s[name] for name in _FIELDS), utc_now().label("read_at"), allocated.c.gb.label("allocated_gb"))
        .select_from(_services.outerjoin(allocated, allocated.c.backend == _s.host))
        .order_by(_s.host, _s.binary)
    )
    if service_id is not None:
        statement = statement.where(_s.id == service_id)
    return [_build(row, down_time_s) for row in connection.execute(statement)]


def _build(row: Any, down_time_s: float) -> models.Service:
    # A heartbeat from the future is one from before the clock was set back: as little worth as
    # an old one.
    is_fresh = row.heartbeat_at is not None and abs((row.read_at - row.heartbeat_at).total_seconds()) < down_time_s
    return models.Service(
        **{name: getattr(row, name) for name in _FIELDS},
        is_up=is_fresh and row.state == READY,
        allocated_gb=int(row.allocated_gb or 0),
    )
