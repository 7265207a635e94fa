"""Volume types: found by id or name, never two of a name, kept while a volume uses them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc import models
from volsvc.db import records, schema

_types = schema.volume_types
_t = _types.c


def create(connection: sa.Connection, volume_type: models.VolumeType, now: dt.datetime) -> models.VolumeType:
    """Raises ``VolumeTypeExists``."""
    _require_free_name(connection, volume_type.name, volume_type.id)
    values = records.values_of(volume_type, _types) | {"created_at": now, "updated_at": None}
    connection.execute(sa.insert(_types).values(values))
    return find(connection, volume_type.id)


def find(connection: sa.Connection, id_or_name: str) -> models.VolumeType:
    """By id, else by name.  Raises ``VolumeTypeNotFound``."""
    statement = records.VOLUME_TYPE.select().where(sa.or_(_t.id == id_or_name, _t.name == id_or_name))
    found = [records.VOLUME_TYPE.build(row) for row in connection.execute(statement)]
    if not found:
        raise exc.VolumeTypeNotFound(id=id_or_name)
    # A type may be named as another one's id is.
    return next((one for one in found if one.id == id_or_name), found[0])


def update(connection: sa.Connection, type_id: str, changes: Mapping[str, Any], now: dt.datetime) -> models.VolumeType:
    """Raises ``VolumeTypeNotFound`` or ``VolumeTypeExists``."""
    values = records.checked_changes(changes, _types)
    if "name" in values:
        _require_free_name(connection, values["name"], type_id)
    result = connection.execute(sa.update(_types).where(_t.id == type_id).values({**values, "updated_at": now}))
    if result.rowcount != 1:
        raise exc.VolumeTypeNotFound(id=type_id)
    return find(connection, type_id)


def delete(connection: sa.Connection, type_id: str) -> None:
    """Raises ``VolumeTypeNotFound`` or ``VolumeTypeInUse``."""
    if connection.execute(sa.select(_t.id).where(_t.id == type_id).with_for_update()).one_or_none() is None:
        raise exc.VolumeTypeNotFound(id=type_id)
    volumes = schema.volumes
    user = sa.select(volumes.c.id).where(volumes.c.volume_type_id == type_id).limit(1)
    if connection.execute(user).one_or_none() is not None:
        raise exc.VolumeTypeInUse(id=type_id)
    connection.execute(sa.delete(_types).where(_t.id == type_id))


def _require_free_name(connection: sa.Connection, name: str, own_id: str) -> None:
    if connection.execute(sa.select(_t.id).where(_t.name == name, _t.id != own_id)).one_or_none() is not None:
        raise exc.VolumeTypeExists(name=name)
