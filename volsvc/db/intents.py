"""Recording intents: the statuses change and the operations appear in one transaction, or nothing does."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc import models
from volsvc.db import endings, gate, guards, records, schema
from volsvc.ports import Intent
from volsvc.states import (
    AHEAD,
    ASIDE,
    TRANSITIONS,
    Becomes,
    Change,
    From,
    OperationState,
    Resource,
    Standing,
    Transition,
)

_ops = schema.operations
_SECOND_OWNERS = tuple(
    sorted(action for action, row in TRANSITIONS.items() if row.second is not None and row.second.owns_status)
)


def new_ids(intents: Sequence[Intent]) -> list[str]:
    """Ids for the operations, made before the transaction so that a repeated one knows its own work."""
    return [str(uuid.uuid4()) for _ in intents]


def find_recorded(connection: sa.Connection, ids: Sequence[str]) -> list[models.Operation]:
    """Those operations, if a transaction that seemed lost has recorded them after all."""
    rows = connection.execute(records.OPERATION.select().where(_ops.c.id.in_(ids)).order_by(_ops.c.seq))
    return [records.OPERATION.build(row) for row in rows]


def record_all(
    connection: sa.Connection, intents: Sequence[Intent], ids: Sequence[str], now: dt.datetime
) -> list[models.Operation]:
    """Record ``intents`` in order; raises for the first that can't be, and then none may be kept."""
    for claim in sorted((i.guards.capacity for i in intents if i.guards.capacity), key=lambda c: c.host):
        guards.lock_service(connection, claim)
    return [_record(connection, intent, new_id, now) for intent, new_id in zip(intents, ids, strict=True)]


def _record(connection: sa.Connection, intent: Intent, operation_id: str, now: dt.datetime) -> models.Operation:
    transition = TRANSITIONS[intent.action]
    if not transition.record_only and not intent.host:
        raise exc.InvalidInput(
            reason=f"{transition.first.resource} {intent.resource_id} is on no backend that could do {intent.action}"
        )
    if intent.cancel_open:
        _cancel_owners(connection, intent.resource_id, now)
        _lock_owned(connection, intent.resource_id)
    second_id = _find_second_id(connection, intent, transition)
    second_row = None
    if transition.second is not None:
        second_row = gate.require_row(connection, transition.second.resource, second_id or "")
    first_row = None
    is_of_service = transition.first.resource is Resource.SERVICE
    if transition.first.sources is not From.NEW and not is_of_service:
        first_row = gate.require_row(connection, transition.first.resource, intent.resource_id)
        gate.require_start(transition.first, intent.action, intent.resource_id, first_row.status)
        if transition.record_only:
            _require_idle(connection, intent, first_row)
    if transition.second is not None and second_row is not None:
        gate.require_start(transition.second, intent.action, second_row.id, second_row.status)
    guards.check(connection, intent)
    previous = None if first_row is None else first_row.status
    if intent.cancel_open:
        previous = _cancel_open(connection, intent, previous, now)

    # A record-only operation is over as soon as it is recorded.
    phase = "success" if transition.record_only else "during"
    is_in_line = transition.standing is Standing.IN_LINE
    if not is_of_service and is_in_line:
        _write_first(connection, intent, transition.first, first_row, getattr(transition.first, phase), now)
    if transition.second is not None:
        gate.write_second(connection, transition.second, second_row, getattr(transition.second, phase), {}, now)

    operation = models.Operation(
        id=operation_id,
        seq=0,
        action=intent.action,
        resource_type=str(transition.first.resource),
        resource_id=intent.resource_id,
        state=str(OperationState.DONE if transition.record_only else OperationState.QUEUED),
        host=_queue_of(intent, transition),
        args=dict(intent.args),
        second_type=None if transition.second is None else str(transition.second.resource),
        second_id=second_id,
        previous_status=previous,
        second_previous_status=None if second_row is None else second_row.status,
        request_id=intent.context.request_id or None,
        user_id=intent.context.user_id,
        project_id=intent.context.project_id,
        deadline_at=intent.deadline_at if transition.expires and not transition.record_only else None,
        created_at=now,
        started_at=now if transition.record_only else None,
        finished_at=now if transition.record_only else None,
        updated_at=now,
    )
    values = records.values_of(operation, _ops)
    del values["seq"]
    values["second_shared"] = transition.second is not None and transition.second.shared
    result = connection.execute(sa.insert(_ops), values)
    return dataclasses.replace(operation, seq=(result.inserted_primary_key or (0,))[0])


def _queue_of(intent: Intent, transition: Transition) -> str | None:
    """The name under which daemons look for the operation; None when there is nothing to do for them."""
    if transition.record_only:
        return None
    if transition.standing is Standing.IN_LINE:
        return models.backend_of(intent.host or "")
    return models.express_host(intent.host or "")


def _require_idle(connection: sa.Connection, intent: Intent, row: sa.Row[Any]) -> None:
    """Refuse what takes effect at once while an operation that owns the status is on its way.

    It would overtake that one: an attachment would be called attached whose connection then fails.
    """
    query = (
        sa.select(_ops.c.id, _ops.c.action)
        .where(
            _ops.c.resource_id == intent.resource_id, _ops.c.state.in_(gate.OPEN), _ops.c.action.not_in(sorted(ASIDE))
        )
        .order_by(_ops.c.seq)
        .limit(1)
    )
    found = connection.execute(query).one_or_none()
    if found is not None:
        kind = str(TRANSITIONS[intent.action].first.resource).capitalize()
        raise exc.StatusConflict(
            f"{kind} {intent.resource_id} is {row.status!r} and {found.action} (operation {found.id}) has not ended "
            f"yet; {intent.action} has to wait for that, ask again then.",
            status=row.status,
        )


def _find_second_id(connection: sa.Connection, intent: Intent, transition: Transition) -> str | None:
    """The second resource's id: given, or the volume that the first one belongs to."""
    if transition.second is None:
        return None
    if intent.second_id:
        return intent.second_id
    if transition.second.resource is Resource.VOLUME and transition.first.resource is not Resource.VOLUME:
        if intent.insert is not None:
            return str(getattr(intent.insert, "volume_id"))  # noqa: B009 - a volume has none
        table = schema.TABLE_OF[transition.first.resource]
        row = connection.execute(sa.select(table.c.volume_id).where(table.c.id == intent.resource_id)).one_or_none()
        if row is None:
            raise records.KIND_OF[transition.first.resource].not_found(id=intent.resource_id)
        return str(row.volume_id)
    raise ValueError(f"{intent.action} needs second_id, the {transition.second.resource} that it reads")


def _write_first(
    connection: sa.Connection,
    intent: Intent,
    change: Change,
    row: sa.Row[Any] | None,
    status: str | Becomes,
    now: dt.datetime,
) -> None:
    table = schema.TABLE_OF[change.resource]
    columns = records.checked_changes(intent.changes, table)
    if row is not None:
        gate.write_status(connection, change, row, status, columns, now)
        return
    if intent.insert is None or intent.insert.id != intent.resource_id:
        raise ValueError(f"{intent.action} makes a new {change.resource}: insert must be its record, with its id")
    values = records.values_of(intent.insert, table)
    values |= {**columns, "status": str(status), "created_at": now, "updated_at": None}
    if change.resource is Resource.VOLUME:
        values["claimed_gb"] = max(values["claimed_gb"], values["size_gb"])
        _require_type(connection, values["volume_type_id"])
    connection.execute(sa.insert(table), values)


def _require_type(connection: sa.Connection, type_id: str | None) -> None:
    types = schema.volume_types
    if type_id is None:
        return
    query = sa.select(types.c.id).where(types.c.id == type_id).with_for_update(read=True)
    if connection.execute(query).one_or_none() is None:
        raise exc.VolumeTypeNotFound(id=type_id)


def _cancel_owners(connection: sa.Connection, resource_id: str, now: dt.datetime) -> None:
    """Cancel what owns the resource's status as its second: a backup of a volume, a restore to one."""
    query = (
        sa.select(_ops.c.id)
        .where(_ops.c.second_id == resource_id, _ops.c.state.in_(gate.OPEN), _ops.c.action.in_(_SECOND_OWNERS))
        .order_by(_ops.c.seq)
    )
    for operation_id in connection.scalars(query).all():
        endings.request_cancel(connection, operation_id, now)


def _lock_owned(connection: sa.Connection, resource_id: str) -> None:
    """Lock what the resource's own open operations hold beside it, before the resource: see ``gate`` for the order."""
    query = (
        sa.select(_ops.c.second_type, _ops.c.second_id)
        .where(_ops.c.resource_id == resource_id, _ops.c.state.in_(gate.OPEN), _ops.c.action.in_(_SECOND_OWNERS))
        .order_by(_ops.c.seq)
    )
    for second_type, second_id in connection.execute(query).all():
        gate.lock_row(connection, Resource(second_type), second_id)


def _cancel_open(connection: sa.Connection, intent: Intent, previous: str | None, now: dt.datetime) -> str | None:
    """Cancel what is open on the resource; returns the status that it has without the queued ones.

    The new operation's status is written after this, so the cancelled ones write none to this resource; what
    they would have left is where the new one goes back to if it is taken back.
    """
    query = (
        sa.select(_ops)
        .where(
            _ops.c.resource_id == intent.resource_id,
            _ops.c.state.in_(gate.OPEN),
            _ops.c.action.not_in(sorted(AHEAD | ASIDE)),
        )
        .order_by(_ops.c.seq)
        .with_for_update()
    )
    inherited: str | None = None
    has_inherited = False
    for row in connection.execute(query).all():
        if row.state == OperationState.RUNNING:
            connection.execute(
                sa.update(_ops).where(_ops.c.id == row.id).values(is_cancel_requested=True, updated_at=now)
            )
            continue
        if row.action in _SECOND_OWNERS:
            second_row = gate.lock_row(connection, Resource(row.second_type), row.second_id)
            gate.settle_second(connection, row, second_row, now, is_done=False, take_back=row.claim_epoch == 0)
        before = inherited if has_inherited else row.previous_status
        change = TRANSITIONS[row.action].first
        was_untouched = row.claim_epoch == 0 and change.sources is not From.NEW
        target = gate.end_status(Becomes.PREVIOUS if was_untouched else change.failure, before)
        inherited, has_inherited = (None if target is Becomes.GONE else str(target)), True
        connection.execute(
            sa.update(_ops)
            .where(_ops.c.id == row.id)
            .values(
                state=str(OperationState.CANCELLED),
                error=f"cancelled by {intent.action}, recorded after it",
                error_class="OperationCancelled",
                is_cancel_requested=True,
                finished_at=now,
                updated_at=now,
            )
        )
    return inherited if has_inherited else previous
