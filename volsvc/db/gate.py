"""The gate: the only code that writes a status, and it writes what the table in ``states`` says.

Three rules make every interleaving of operations end in a true status.

The newest open operation in line for a resource owns its status.  When an older one ends meanwhile, what
it would have written becomes the newer one's ``previous_status``: the row goes there if the newer
one is taken back, and is not disturbed before.

A status that attachments decide (``states.ATTACHMENT_DERIVED``) is always computed from the
attachments when it is written, also when a row goes back to one, because they may have changed
since.  Any other status of a volume is never overwritten by what happens to an attachment.

``previous_status`` is None when the row did not exist, so that going back means deleting it.

Rows are locked volumes first, then their snapshots, attachments and backups, then operations; SQLite has
one writer and ignores the locks, other databases need the order.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc.db import records, schema
from volsvc.states import (
    AHEAD,
    ASIDE,
    ATTACHMENT_DERIVED,
    OPEN_STATES,
    TRANSITIONS,
    Becomes,
    Change,
    From,
    Resource,
    Status,
    compute_attach_status,
    compute_volume_status,
)

OPEN = tuple(sorted(str(state) for state in OPEN_STATES))

_ops = schema.operations.c

# Built once, because building a statement costs as much as running it.  Names of parameters that
# begin with "the_" can't be a column's.
_LOCK_ROW = {
    resource: sa.select(table).where(table.c.id == sa.bindparam("the_id")).with_for_update()
    for resource, table in schema.TABLE_OF.items()
}
_WRITE_ROW = {
    resource: sa.update(table).where(table.c.id == sa.bindparam("the_id"), table.c.status == sa.bindparam("the_status"))
    for resource, table in schema.TABLE_OF.items()
}
_ATTACH_STATUSES = sa.select(schema.attachments.c.status).where(
    schema.attachments.c.volume_id == sa.bindparam("the_id")
)
_HEIR = (
    sa.select(_ops.id)
    .where(
        _ops.resource_id == sa.bindparam("the_id"),
        _ops.state.in_(schema.words(OPEN)),
        _ops.action.not_in(schema.words(AHEAD | ASIDE)),
        _ops.seq > sa.bindparam("the_seq"),
    )
    .order_by(_ops.seq)
    .limit(1)
)


def lock_row(connection: sa.Connection, resource: Resource, resource_id: str) -> sa.Row[Any] | None:
    """The row of a resource, locked to the end of the transaction; None if it isn't there."""
    if resource is Resource.SERVICE:
        return None  # an operation on a service changes no status, so nothing has to be locked
    return connection.execute(_LOCK_ROW[resource], {"the_id": resource_id}).one_or_none()


def require_row(connection: sa.Connection, resource: Resource, resource_id: str) -> sa.Row[Any]:
    """Like ``lock_row``; raises the resource's ``NotFound``."""
    row = lock_row(connection, resource, resource_id)
    if row is None:
        raise records.KIND_OF[resource].not_found(id=resource_id)
    return row


def require_start(change: Change, action: str, resource_id: str, status: str) -> None:
    """Raises ``StatusConflict`` unless the table lets ``action`` start from ``status``."""
    if change.may_start_from(status):
        return
    allowed = change.sources if not isinstance(change.sources, From) else ()
    raise exc.StatusConflict(
        resource=str(change.resource).capitalize(),
        id=resource_id,
        status=status,
        action=action,
        allowed=", ".join(sorted(allowed)),
    )


def write_status(
    connection: sa.Connection,
    change: Change,
    row: sa.Row[Any],
    status: Status,
    columns: Mapping[str, Any],
    now: dt.datetime,
) -> None:
    """Set a row that was read as ``row`` to ``status`` with further ``columns``; GONE deletes it.

    Compare-and-set: raises ``StatusConflict`` when the status is no longer the one that was read.
    """
    table = schema.TABLE_OF[change.resource]
    if status is Becomes.GONE:
        if change.resource is Resource.VOLUME:
            _attachments = schema.attachments
            connection.execute(sa.delete(_attachments).where(_attachments.c.volume_id == row.id))
        result = connection.execute(sa.delete(table).where(table.c.id == row.id, table.c.status == row.status))
    else:
        values = {**columns, "updated_at": now}
        if not isinstance(status, Becomes):
            values["status"] = str(status)
        the_row = {"the_id": row.id, "the_status": row.status}
        result = connection.execute(_WRITE_ROW[change.resource], {**values, **the_row})
    if result.rowcount != 1:
        raise exc.StatusConflict(
            f"{str(change.resource).capitalize()} {row.id} was changed by another request meanwhile; try again."
        )
    if change.resource is Resource.VOLUME and status in ATTACHMENT_DERIVED:
        recompute_volume(connection, row.id, now)


def recompute_volume(connection: sa.Connection, volume_id: str, now: dt.datetime) -> None:
    """Write what the attachments make of a volume; its status only if attachments decide it now."""
    volumes = schema.volumes
    row = lock_row(connection, Resource.VOLUME, volume_id)
    if row is None:
        return
    statuses = connection.scalars(_ATTACH_STATUSES, {"the_id": volume_id}).all()
    values = {"attach_status": str(compute_attach_status(statuses)), "status": row.status}
    if row.status in ATTACHMENT_DERIVED:
        values["status"] = str(compute_volume_status(statuses))
    if (row.attach_status, row.status) != (values["attach_status"], values["status"]):
        connection.execute(sa.update(volumes).where(volumes.c.id == volume_id).values(**values, updated_at=now))


def write_second(
    connection: sa.Connection,
    change: Change,
    row: sa.Row[Any] | None,
    status: Status,
    columns: Mapping[str, Any],
    now: dt.datetime,
) -> None:
    """Write what an operation does to its second resource, after its first one has changed."""
    if row is None:
        return
    if status is Becomes.COMPUTED:
        if columns:
            write_status(connection, change, row, Becomes.UNCHANGED, columns, now)
        recompute_volume(connection, row.id, now)
    elif status is not Becomes.UNCHANGED or columns:
        write_status(connection, change, row, status, columns, now)


def lock_resources(connection: sa.Connection, operation: sa.Row[Any]) -> tuple[sa.Row[Any] | None, sa.Row[Any] | None]:
    """The rows of an operation's first and second resource, locked in the order that all keep."""
    second = None
    if operation.second_id is not None:
        second = lock_row(connection, Resource(operation.second_type), operation.second_id)
    return lock_row(connection, Resource(operation.resource_type), operation.resource_id), second


def settle(
    connection: sa.Connection,
    operation: sa.Row[Any],
    state: str,
    now: dt.datetime,
    *,
    first: Mapping[str, Any] | None = None,
    second: Mapping[str, Any] | None = None,
    take_back: bool = False,
) -> None:
    """Write the statuses that follow from an operation's end.  Its resources are locked already.

    ``state``: done gives the table's success, anything else its failure; with ``take_back`` the
    resource goes back to what it was.  ``first``, ``second``: further columns to write.
    The columns are written also when the status isn't this operation's to write: they say what
    the storage is now (a size, the driver's notes), whoever decides what becomes of it.
    """
    transition = TRANSITIONS[operation.action]
    is_done = state == "done"
    change = transition.first
    target: Status = Becomes.PREVIOUS if take_back else (change.success if is_done else change.failure)
    first_row, second_row = lock_resources(connection, operation)
    if first_row is not None:
        columns = records.checked_changes(first or {}, schema.TABLE_OF[change.resource])
        if change.resource is Resource.VOLUME:
            # A claim for a bigger size ends with the operation that it was made for.
            columns["claimed_gb"] = columns.get("size_gb", first_row.size_gb)
        target = end_status(target, operation.previous_status)
        _settle_first(connection, operation, change, first_row, target, columns, now, is_done=is_done)
    if transition.second is not None:
        columns = records.checked_changes(second or {}, schema.TABLE_OF[transition.second.resource])
        settle_second(connection, operation, second_row, now, is_done=is_done, take_back=take_back, columns=columns)


def settle_second(
    connection: sa.Connection,
    operation: sa.Row[Any],
    row: sa.Row[Any] | None,
    now: dt.datetime,
    *,
    is_done: bool,
    take_back: bool,
    columns: Mapping[str, Any] | None = None,
) -> None:
    """What ``settle`` does to the second resource, whose locked row is ``row``."""
    change = TRANSITIONS[operation.action].second
    if change is None:
        return
    target = end_status(change.success if is_done else change.failure, operation.second_previous_status)
    # A resource that was made for this operation has nothing to go back to.
    if take_back and target is not Becomes.COMPUTED and operation.second_previous_status != change.during:
        target = end_status(Becomes.PREVIOUS, operation.second_previous_status)
    is_owner = change.during is Becomes.COMPUTED or (row is not None and row.status == change.during)
    if not is_owner:
        target = Becomes.UNCHANGED
    write_second(connection, change, row, target, columns or {}, now)


def end_status(target: Status, previous: str | None) -> Status:
    """``target`` with PREVIOUS replaced by what the row goes back to."""
    if target is Becomes.PREVIOUS:
        return Becomes.GONE if previous is None else previous
    return target


def _settle_first(
    connection: sa.Connection,
    operation: sa.Row[Any],
    change: Change,
    row: sa.Row[Any],
    target: Status,
    columns: Mapping[str, Any],
    now: dt.datetime,
    *,
    is_done: bool,
) -> None:
    heir = connection.execute(_HEIR, {"the_id": operation.resource_id, "the_seq": operation.seq}).scalar_one_or_none()
    is_gone_for_good = is_done and target is Becomes.GONE
    if heir is not None and not is_gone_for_good:
        hand_over(connection, heir, target, now)
        target = Becomes.UNCHANGED
    elif heir is None and row.status != change.during:
        target = Becomes.UNCHANGED  # somebody has reset it: their word stands
    if target is not Becomes.UNCHANGED or columns:
        write_status(connection, change, row, target, columns, now)


def hand_over(connection: sa.Connection, heir_id: str, target: Status, now: dt.datetime) -> None:
    """Make ``target`` the status that the row goes back to if the newer operation is taken back."""
    if target is Becomes.UNCHANGED:
        return
    previous = None if target is Becomes.GONE else str(target)
    connection.execute(
        sa.update(schema.operations).where(_ops.id == heir_id).values(previous_status=previous, updated_at=now)
    )
