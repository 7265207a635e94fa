"""How an operation ends: finished by its handler, out of time, taken back, cancelled; and history.

An operation that nobody has begun leaves its resource as it was.  One that was begun once and is
queued again may have changed the storage, so that only the table's failure status is true.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc import models
from volsvc.db import gate, guards, records, resets, schema
from volsvc.ports import Correction, Outcome
from volsvc.states import TRANSITIONS, Becomes, From, OperationState, Resource, Standing

_ops = schema.operations
_o = _ops.c
_QUEUED = str(OperationState.QUEUED)
_RUNNING = str(OperationState.RUNNING)
_CANCELLED = str(OperationState.CANCELLED)
_FAILED = str(OperationState.FAILED)
_DONE = str(OperationState.DONE)

PURGE_BATCH = 1000

# Built once; see ``gate``.
_READ = sa.select(_ops).where(_o.id == sa.bindparam("the_id"))
_LOCK = _READ.with_for_update()
WRITE = sa.update(_ops).where(
    _o.id == sa.bindparam("the_id"),
    _o.state == sa.bindparam("the_state"),
    _o.claim_epoch == sa.bindparam("the_epoch"),
)


def build(row: sa.Row[Any]) -> models.Operation:
    """The record of a whole row of ``operations``."""
    return models.Operation(**{column.name: getattr(row, column.name) for column in records.OPERATION.columns})


def is_held(operation: models.Operation) -> tuple[sa.ColumnElement[bool], ...]:
    """The condition that a handler's claim is still the current one."""
    return _o.id == operation.id, _o.state == _RUNNING, _o.claim_epoch == operation.claim_epoch


def lock(connection: sa.Connection, operation_id: str, *, with_resources: bool = True) -> sa.Row[Any] | None:
    """The row of an operation, locked after its resources; None if there is none."""
    the_operation = {"the_id": operation_id}
    if with_resources:
        row = connection.execute(_READ, the_operation).one_or_none()
        if row is None:
            return None
        gate.lock_resources(connection, row)
    return connection.execute(_LOCK, the_operation).one_or_none()


def end(
    connection: sa.Connection,
    row: sa.Row[Any],
    state: str,
    now: dt.datetime,
    *,
    error: str | None = None,
    error_class: str | None = None,
    result: Mapping[str, Any] | None = None,
    first: Mapping[str, Any] | None = None,
    second: Mapping[str, Any] | None = None,
    take_back: bool = False,
    correction: Correction | None = None,
) -> models.Operation:
    """Write the end of a locked operation and the statuses that follow; see ``gate.settle``.

    ``correction``: what a reset that is done writes instead.
    """
    is_in_line = TRANSITIONS[row.action].standing is Standing.IN_LINE
    if not is_in_line and correction is not None:
        resource = Resource(row.resource_type)
        first_row = gate.require_row(connection, resource, row.resource_id)
        result = {**(result or {}), "cancelled": resets.apply(connection, resource, first_row, correction, row.id, now)}
    values: dict[str, Any] = {
        "state": state,
        "error": error,
        "error_class": error_class,
        "result": dict(result or {}),
        "finished_at": now,
        "updated_at": now,
    }
    if state == _DONE:
        # The last report of a handler may be from a moment before.
        values["progress_done"] = row.progress_total
    the_row = {"the_id": row.id, "the_state": row.state, "the_epoch": row.claim_epoch}
    changed = connection.execute(WRITE, {**values, **the_row})
    if changed.rowcount != 1:
        raise exc.OperationSuperseded(id=row.id)
    if is_in_line:
        if error and not take_back and TRANSITIONS[row.action].first.resource is Resource.BACKUP:
            # Also when no handler was there to say it: given up, out of time, cancelled in the queue.
            first = {"fail_reason": error, **(first or {})}
        gate.settle(connection, row, state, now, first=first, second=second, take_back=take_back)
    ended: dict[str, Any] = {column.name: getattr(row, column.name) for column in records.OPERATION.columns}
    return models.Operation(**(ended | values))


def finish(
    connection: sa.Connection,
    operation: models.Operation,
    outcome: Outcome,
    now: dt.datetime,
    *,
    is_repeated: bool = False,
) -> models.Operation:
    """End an operation under its claim.

    ``is_repeated``: an attempt before this one may have been committed; finding its end is success.
    Raises ``OperationSuperseded`` when the claim is no longer the current one.
    """
    if outcome.state not in (_DONE, _FAILED, _CANCELLED):
        raise ValueError(f"an operation doesn't end as {outcome.state!r}")
    row = lock(connection, operation.id)
    if row is None or row.claim_epoch != operation.claim_epoch:
        raise exc.OperationSuperseded(id=operation.id)
    if row.state != _RUNNING:
        if is_repeated and row.state == outcome.state:
            return build(row)
        raise exc.OperationSuperseded(id=operation.id)
    state, error, error_class = outcome.state, outcome.error, outcome.error_class
    if state == _DONE and _still_has_snapshots(connection, row):
        # The record of the volume is what its snapshots hang on; deleting it again is harmless.
        state, error_class = _FAILED, "InvalidVolume"
        error = f"volume {row.resource_id} still has snapshots; delete them, then delete the volume again"
    return end(
        connection,
        row,
        state,
        now,
        error=error,
        error_class=error_class,
        result=outcome.result,
        first=outcome.first,
        second=outcome.second,
        correction=outcome.correction,
    )


def _still_has_snapshots(connection: sa.Connection, row: sa.Row[Any]) -> bool:
    first = TRANSITIONS[row.action].first
    if first.resource is not Resource.VOLUME or first.success is not Becomes.GONE:
        return False
    return guards.count_snapshots(connection, row.resource_id) > 0


def renew_deadlines(connection: sa.Connection, host: str, timeout: dt.timedelta, now: dt.datetime) -> int:
    """Give what waits in the queue of ``host`` as long again; see ``ports.WorkStore``."""
    is_due = sa.and_(_o.state == _QUEUED, _o.host == host, _o.deadline_at < now + timeout / 2)
    return connection.execute(sa.update(_ops).where(is_due).values(deadline_at=now + timeout)).rowcount


def expire_queued(connection: sa.Connection, host: str, now: dt.datetime) -> list[models.Operation]:
    """Fail what has waited for ``host`` beyond its deadline, in its queue or beside it."""
    query = (
        sa.select(_o.id)
        .where(
            _o.state == _QUEUED,
            _o.host.in_([host, models.express_host(host)]),
            _o.deadline_at <= now,
            _o.action.in_(sorted(TRANSITIONS)),
        )
        .order_by(_o.seq)
    )
    ended = []
    for operation_id in connection.scalars(query).all():
        row = lock(connection, operation_id)
        if row is None or row.state != _QUEUED:
            continue
        last_words = f" (it was last put back because: {row.error})" if row.error else ""
        error = exc.OperationTimeout(
            id=row.id, reason=f"it waited in the queue of {host} until its deadline{last_words}; ask again"
        )
        ended.append(
            end(
                connection,
                row,
                _FAILED,
                now,
                error=str(error),
                error_class="OperationTimeout",
                take_back=_is_untouched(row) and not _is_new(row),
            )
        )
    return ended


def withdraw(connection: sa.Connection, operation_id: str, now: dt.datetime) -> bool:
    """Take back a queued operation; False if it runs or has ended.  Raises ``OperationNotFound``."""
    row = lock(connection, operation_id)
    if row is None:
        raise exc.OperationNotFound(id=operation_id)
    if row.state != _QUEUED:
        return False
    end(
        connection,
        row,
        _CANCELLED,
        now,
        error="taken back by the request that had recorded it",
        error_class="OperationCancelled",
        take_back=_is_untouched(row),
    )
    return True


def request_cancel(connection: sa.Connection, operation_id: str, now: dt.datetime) -> models.Operation:
    """Ask for a cancel: a queued one ends here; one that has ended is returned as it is.

    A new resource whose creation is cancelled stays, with the table's failure status, so that its
    owner sees what became of it.  Raises ``OperationNotFound``.
    """
    row = lock(connection, operation_id)
    if row is None:
        raise exc.OperationNotFound(id=operation_id)
    if row.state not in gate.OPEN:
        return build(row)
    connection.execute(sa.update(_ops).where(_o.id == row.id).values(is_cancel_requested=True, updated_at=now))
    if row.state == _QUEUED:
        error = str(exc.OperationCancelled(id=row.id))
        take_back = _is_untouched(row) and not _is_new(row)
        end(connection, row, _CANCELLED, now, error=error, error_class="OperationCancelled", take_back=take_back)
    return build(connection.execute(sa.select(_ops).where(_o.id == row.id)).one())


def purge(connection: sa.Connection, before: dt.datetime) -> int:
    """Delete a batch of the operations that ended before then; returns how many."""
    ids = sa.select(_o.seq).where(_o.finished_at < before).order_by(_o.finished_at).limit(PURGE_BATCH)
    # MariaDB can't limit a subquery of the table that is deleted from, so the numbers come over.
    found = connection.scalars(ids).all()
    if not found:
        return 0
    return connection.execute(sa.delete(_ops).where(_o.seq.in_(found))).rowcount


def _is_untouched(row: sa.Row[Any]) -> bool:
    return bool(row.claim_epoch == 0)


def _is_new(row: sa.Row[Any]) -> bool:
    return TRANSITIONS[row.action].first.sources is From.NEW
