"""The conditions of an intent, checked in the transaction that records it.

The rows they are about are locked before, so that nothing they count can change until the end of
the transaction.
"""

from __future__ import annotations

import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc import models
from volsvc.db import schema
from volsvc.db.gate import OPEN
from volsvc.ports import CapacityClaim, Intent
from volsvc.states import TRANSITIONS, Becomes, Resource

# Snapshots with such an operation open are on their way out.
_SNAPSHOT_DELETES = tuple(
    action
    for action, row in TRANSITIONS.items()
    if row.first.resource is Resource.SNAPSHOT and row.first.success is Becomes.GONE
)


def lock_service(connection: sa.Connection, claim: CapacityClaim) -> None:
    """Queue up behind other claims on the same backend; must come before any other lock."""
    services = schema.services
    host = models.backend_of(claim.host)
    connection.execute(sa.select(services.c.id).where(services.c.host == host).with_for_update()).all()


def check(connection: sa.Connection, intent: Intent) -> None:
    """Raises ``InvalidVolume``, ``InvalidBackup`` or ``CapacityExceeded`` for the first guard that doesn't hold."""
    guards = intent.guards
    if guards.no_snapshots:
        _require_no_snapshots(connection, guards.no_snapshots)
    if guards.no_attachments:
        _require_no_attachments(connection, guards.no_attachments)
    if guards.single_attachment:
        _require_single_attachment(connection, guards.single_attachment, intent.resource_id)
    if guards.never_stored:
        _require_never_stored(connection, guards.never_stored)
    if guards.capacity:
        _require_capacity(connection, guards.capacity)


def count_snapshots(connection: sa.Connection, volume_id: str, *, but_leaving: bool = False) -> int:
    """How many snapshots a volume has; ``but_leaving`` leaves out those whose deletion is recorded."""
    snapshots, operations = schema.snapshots, schema.operations
    query = sa.select(sa.func.count()).select_from(snapshots).where(snapshots.c.volume_id == volume_id)
    if but_leaving:
        leaving = sa.exists().where(
            operations.c.resource_id == snapshots.c.id,
            operations.c.state.in_(OPEN),
            operations.c.action.in_(_SNAPSHOT_DELETES),
        )
        query = query.where(~leaving)
    return connection.execute(query).scalar_one()


def _require_no_snapshots(connection: sa.Connection, volume_id: str) -> None:
    count = count_snapshots(connection, volume_id, but_leaving=True)
    if count:
        raise exc.InvalidVolume(
            reason=f"Volume {volume_id} still has {count} dependent snapshot{'s' if count > 1 else ''}; "
            "delete them first, or delete the volume with cascade."
        )


def _attachment_ids(connection: sa.Connection, volume_id: str) -> list[str]:
    attachments = schema.attachments
    return list(connection.scalars(sa.select(attachments.c.id).where(attachments.c.volume_id == volume_id)))


def _require_no_attachments(connection: sa.Connection, volume_id: str) -> None:
    found = _attachment_ids(connection, volume_id)
    if found:
        raise exc.InvalidVolume(
            reason=f"Volume {volume_id} still has {len(found)} attachment{'s' if len(found) > 1 else ''} "
            f"({', '.join(sorted(found)[:3])}); detach it first."
        )


def _require_single_attachment(connection: sa.Connection, volume_id: str, own_id: str) -> None:
    volumes = schema.volumes
    row = connection.execute(sa.select(volumes.c.is_multiattach).where(volumes.c.id == volume_id)).one_or_none()
    if row is None or row.is_multiattach:
        return
    others = [found for found in _attachment_ids(connection, volume_id) if found != own_id]
    if others:
        raise exc.InvalidVolume(
            reason=f"Volume {volume_id} is not multiattach and already has the attachment {others[0]}; "
            "delete that one first, or use a volume that is multiattach."
        )


def _require_never_stored(connection: sa.Connection, backup_id: str) -> None:
    backups = schema.backups
    if connection.execute(sa.select(backups.c.is_stored).where(backups.c.id == backup_id)).scalar_one_or_none():
        raise exc.InvalidBackup(
            reason=f"its store may hold something of backup {backup_id}, so its daemon has to delete it; "
            "delete it again when that one is up"
        )


def _require_capacity(connection: sa.Connection, claim: CapacityClaim) -> None:
    if claim.limit_gb is None:
        return
    backend = models.backend_of(claim.host)
    claimed = claimed_gb(connection, backend)
    if claimed + claim.add_gb > claim.limit_gb:
        raise exc.CapacityExceeded(
            reason=f"The backend {backend} may promise {claim.limit_gb:.0f} GiB and has promised {claimed} GiB; "
            f"{claim.add_gb} GiB more don't fit. Ask for less, or delete volumes that aren't needed."
        )


def claimed_gb(connection: sa.Connection, backend: str) -> int:
    """The sum of what the volumes of ``host@backend`` claim, GiB."""
    volumes = schema.volumes
    total = sa.select(sa.func.coalesce(sa.func.sum(volumes.c.claimed_gb), 0)).where(volumes.c.backend == backend)
    return int(connection.execute(total).scalar_one())
