"""Resets in the database: the situation they are about, the correction, and who is stuck.

A correction is the one way around the table of ``states``: it writes the status that an admin named,
ends whatever else wanted to write one, and takes the claim of those handlers away by raising their
epoch.  All of it is one transaction, and none of it when the situation has changed meanwhile.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc import models, resets
from volsvc.db import gate, queries, records, schema
from volsvc.inspection import is_stuck, outline
from volsvc.ports import Correction, Intent, Situation
from volsvc.states import (
    AHEAD,
    ASIDE,
    ATTACHMENT_DERIVED,
    TRANSITIONS,
    Becomes,
    OperationState,
    Resource,
)

_ops = schema.operations
_o = _ops.c
_a = schema.attachments.c
_CANCELLED = str(OperationState.CANCELLED)
_DONE = str(OperationState.DONE)


# Built once; see ``gate``.
_FIND_OPEN = tuple(
    records.OPERATION.select().where(
        column == sa.bindparam("the_id"),
        _o.state.in_(schema.words(gate.OPEN)),
        _o.action.not_in(schema.words(AHEAD | ASIDE)),
    )
    for column in (_o.resource_id, _o.second_id)
)


# -- looking ----------------------------------------------------------------------------------


def look(connection: sa.Connection, resource: Resource, resource_id: str) -> Situation:
    """Raises the resource's ``NotFound``."""
    record = queries.get(connection, records.KIND_OF[resource], resource_id)
    attachments: tuple[models.Attachment, ...] = ()
    if resource is Resource.VOLUME:
        attachments = tuple(queries.attachments_of(connection, [resource_id]).get(resource_id, ()))
    operations = tuple(records.OPERATION.build(row) for row in _find_open(connection, resource_id))
    return Situation(record, attachments, operations)


def _find_open(connection: sa.Connection, resource_id: str) -> list[sa.Row[Any]]:
    """Open operations in line that are about the resource or use it, oldest first."""
    found: dict[str, sa.Row[Any]] = {}
    for query in _FIND_OPEN:
        found |= {row.id: row for row in connection.execute(query, {"the_id": resource_id})}
    return sorted(found.values(), key=lambda row: int(row.seq))


def list_stuck(connection: sa.Connection) -> list[Situation]:
    """Volumes, snapshots and backups that wait for an operation which isn't there; see ``inspection.is_stuck``."""
    volumes, snapshots = schema.volumes.c, schema.snapshots.c
    has_attachment = sa.exists().where(_a.volume_id == volumes.id)
    suspects = [
        (
            Resource.VOLUME,
            sa.select(volumes.id).where(
                sa.or_(
                    volumes.status.in_(sorted(resets.GOING_ON)),
                    volumes.status.in_(sorted(ATTACHMENT_DERIVED - {"available"})),
                    has_attachment,
                )
            ),
        ),
        (
            Resource.SNAPSHOT,
            sa.select(snapshots.id).where(snapshots.status.in_(sorted(resets.SNAPSHOT_GOING_ON))),
        ),
        (
            Resource.BACKUP,
            sa.select(schema.backups.c.id).where(schema.backups.c.status.in_(sorted(resets.BACKUP_GOING_ON))),
        ),
    ]
    found = []
    for resource, query in suspects:
        for resource_id in connection.scalars(query).all():
            situation = look(connection, resource, resource_id)
            if is_stuck(situation):
                found.append(situation)
    return found


# -- correcting ---------------------------------------------------------------------------------


def correct(
    connection: sa.Connection,
    intent: Intent,
    correction: Correction,
    result: Mapping[str, Any],
    operation_id: str,
    now: dt.datetime,
) -> tuple[models.Operation, list[str]]:
    """Apply a correction that needs no daemon and record it as done; see ``ports.RequestStore.correct``."""
    resource = TRANSITIONS[intent.action].first.resource
    row = gate.require_row(connection, resource, intent.resource_id)
    cancelled = apply(connection, resource, row, correction, operation_id, now)
    operation = models.Operation(
        id=operation_id,
        seq=0,
        action=intent.action,
        resource_type=str(resource),
        resource_id=intent.resource_id,
        state=_DONE,
        args=dict(intent.args),
        previous_status=row.status,
        result={**result, "cancelled": cancelled},
        request_id=intent.context.request_id or None,
        user_id=intent.context.user_id,
        project_id=intent.context.project_id,
        created_at=now,
        started_at=now,
        finished_at=now,
        updated_at=now,
    )
    values = records.values_of(operation, _ops)
    del values["seq"]
    inserted = connection.execute(sa.insert(_ops), {**values, "second_shared": False})
    return dataclasses.replace(operation, seq=(inserted.inserted_primary_key or (0,))[0]), cancelled


def apply(
    connection: sa.Connection,
    resource: Resource,
    row: sa.Row[Any],
    correction: Correction,
    operation_id: str,
    now: dt.datetime,
) -> list[str]:
    """Write a correction to the resource whose locked row is ``row``; returns the ids of what it cancelled.

    Raises ``Conflict`` when what the correction has seen is no longer so.
    """
    situation = look(connection, resource, row.id)
    if correction.seen is not None:
        _require_unchanged(situation, correction.seen)
    cancelled = [
        operation for operation in situation.open_operations if correction.cancels(operation, situation.resource.id)
    ]
    for operation in cancelled:
        _cancel(connection, operation, operation_id, now)
        _leave_others(connection, operation, row.id, now)
    statuses = _correct_attachments(connection, situation, correction, cancelled, now)
    values: dict[str, Any] = {**correction.columns, "updated_at": now}
    if resource is Resource.VOLUME:
        values |= _volume_columns(row, correction, statuses)
    elif correction.status is not None:
        values["status"] = correction.status
    table = schema.TABLE_OF[resource]
    connection.execute(sa.update(table).where(table.c.id == row.id).values(values))
    return [operation.id for operation in cancelled]


def _require_unchanged(now: Situation, seen: Situation) -> None:
    if outline(now) != outline(seen):
        raise exc.Conflict(
            reason=f"{seen.resource.id} was changed by another request while it was reset; "
            "the record was left as that request made it. Look at it, then reset it again"
        )


def _cancel(connection: sa.Connection, operation: models.Operation, by: str, now: dt.datetime) -> None:
    connection.execute(
        sa.update(_ops)
        .where(_o.id == operation.id)
        .values(
            state=_CANCELLED,
            claim_epoch=_o.claim_epoch + 1,
            error=f"cancelled by the reset {by}",
            error_class="OperationCancelled",
            is_cancel_requested=True,
            finished_at=now,
            updated_at=now,
        )
    )


def _leave_others(connection: sa.Connection, operation: models.Operation, but_id: str, now: dt.datetime) -> None:
    """Give the other resource of a cancelled operation the status that a failure of it has."""
    transition = TRANSITIONS[operation.action]
    sides = (
        (transition.first, operation.resource_id, operation.previous_status),
        (transition.second, operation.second_id, operation.second_previous_status),
    )
    for change, resource_id, previous in sides:
        if change is None or not change.owns_status or resource_id is None or resource_id == but_id:
            continue
        if change.resource is Resource.ATTACHMENT:
            continue  # see _correct_attachments
        row = gate.lock_row(connection, change.resource, resource_id)
        if row is not None and row.status == change.during:
            is_backup = change.resource is Resource.BACKUP
            columns = {"fail_reason": f"cancelled by a reset of {but_id}"} if is_backup else {}
            gate.write_status(connection, change, row, gate.end_status(change.failure, previous), columns, now)


def _correct_attachments(
    connection: sa.Connection,
    situation: Situation,
    correction: Correction,
    cancelled: list[models.Operation],
    now: dt.datetime,
) -> list[str]:
    """Write the attachments; returns the statuses of those that are left."""
    if correction.deletes_attachments:
        connection.execute(sa.delete(schema.attachments).where(_a.volume_id == situation.resource.id))
        return []
    ends = _ends_of(cancelled)
    statuses = []
    for attachment in situation.attachments:
        columns = dict(correction.attachments.get(attachment.id, {}))
        end = columns.get("status", ends.get(attachment.id, attachment.status))
        if end is Becomes.GONE:
            connection.execute(sa.delete(schema.attachments).where(_a.id == attachment.id))
            continue
        statuses.append(str(end))
        if columns or end != attachment.status:
            values = {**columns, "status": str(end), "updated_at": now}
            connection.execute(sa.update(schema.attachments).where(_a.id == attachment.id).values(values))
    return statuses


def _ends_of(cancelled: list[models.Operation]) -> dict[str, object]:
    """What the table makes of the resources of cancelled operations, each begun or not.

    One that was not begun leaves what those before it left, which its own previous status doesn't tell.
    """
    ends: dict[str, object] = {}
    for operation in sorted(cancelled, key=lambda operation: operation.seq):
        before = ends.get(operation.resource_id, gate.end_status(Becomes.PREVIOUS, operation.previous_status))
        is_begun = operation.claim_epoch > 0
        failure = TRANSITIONS[operation.action].first.failure
        ends[operation.resource_id] = before if not is_begun or failure is Becomes.PREVIOUS else failure
    return ends


def _volume_columns(row: sa.Row[Any], correction: Correction, attach_statuses: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if correction.status or correction.attach_status:
        values["status"], values["attach_status"] = resets.final_statuses(
            correction.status, correction.attach_status, row.status, attach_statuses
        )
    if correction.status is not None:
        # A claim for a bigger size ends with the operation that it was made for.
        values["claimed_gb"] = correction.columns.get("size_gb", row.size_gb)
    if correction.migration_status is not None:
        is_none = correction.migration_status == resets.NO_MIGRATION
        values["migration_status"] = None if is_none else correction.migration_status
    return values


def append_result(
    connection: sa.Connection, operation_id: str, key: str, entry: Mapping[str, Any], now: dt.datetime
) -> None:
    """Add ``entry`` to the list ``key`` of an operation's result, if the operation is still kept."""
    row = connection.execute(sa.select(_o.result).where(_o.id == operation_id).with_for_update()).one_or_none()
    if row is None:
        return
    result = {**row.result, key: [*row.result.get(key, []), dict(entry)]}
    connection.execute(sa.update(_ops).where(_o.id == operation_id).values(result=result, updated_at=now))
