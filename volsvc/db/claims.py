"""Who works on an operation: what may be claimed, the claim, its progress, and giving it back.

Operations of one resource run in the order in which they were recorded, unless both only share
it, or one doesn't stand in line.  ``states`` says who shares and how each stands; the first resource
of an operation is never shared.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc import models
from volsvc.db import endings, gate, records, schema
from volsvc.states import AHEAD, ASIDE, TRANSITIONS, UNHELD, OperationState, Resource

_ops = schema.operations
_mine = _ops.c
_earlier = _ops.alias("earlier")
_QUEUED = str(OperationState.QUEUED)
_RUNNING = str(OperationState.RUNNING)


_OPEN = schema.words(gate.OPEN)
_AHEAD = schema.words(AHEAD)
_ASIDE = schema.words(ASIDE)


def _earlier_one(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists().where(
        *conditions, _earlier.c.state.in_(_OPEN), _earlier.c.seq < _mine.seq, _earlier.c.action.not_in(_ASIDE)
    )


def _one_ahead(resource_id: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """An open operation that stands ahead, recorded whenever."""
    return sa.exists().where(
        _earlier.c.resource_id == resource_id, _earlier.c.state.in_(_OPEN), _earlier.c.action.in_(_AHEAD)
    )


# A backup of a volume is in nobody's way.
_IS_HELD = _earlier.c.action.not_in(schema.words(UNHELD))

# One look at an index each, instead of one condition with OR that no index serves.
_IN_LINE_IS_BLOCKED = sa.or_(
    _one_ahead(_mine.resource_id),
    _one_ahead(_mine.second_id),
    _earlier_one(_earlier.c.resource_id == _mine.resource_id),
    _earlier_one(_earlier.c.second_id == _mine.resource_id, _IS_HELD),
    _earlier_one(_earlier.c.resource_id == _mine.second_id),
    _earlier_one(_earlier.c.second_id == _mine.second_id, _earlier.c.second_shared == sa.false()),
    sa.and_(
        _mine.second_shared == sa.false(),
        _earlier_one(_earlier.c.second_id == _mine.second_id, _earlier.c.second_shared == sa.true(), _IS_HELD),
    ),
)

_IS_BLOCKED = sa.case(
    (
        _mine.action.in_(_AHEAD),
        _earlier_one(_earlier.c.resource_id == _mine.resource_id, _earlier.c.action.in_(_AHEAD)),
    ),
    (_mine.action.in_(_ASIDE), sa.false()),
    else_=_IN_LINE_IS_BLOCKED,
)

_BLOCKED = sa.select(sa.literal(1)).select_from(_ops).where(_mine.id == sa.bindparam("the_id"), _IS_BLOCKED)

#: The statement of ``find_claimable``, with the parameters ``the_hosts`` and ``the_limit``.
CLAIMABLE = (
    records.OPERATION.select()
    .where(
        _mine.state == _QUEUED,
        _mine.host.in_(sa.bindparam("the_hosts", expanding=True)),
        # What a newer release has recorded waits until this daemon is upgraded too.
        _mine.action.in_(schema.words(TRANSITIONS)),
        ~_IS_BLOCKED,
    )
    .order_by(_mine.seq)
    .limit(sa.bindparam("the_limit", type_=sa.Integer()))
)


def find_claimable(connection: sa.Connection, host: str | Sequence[str], limit: int) -> list[models.Operation]:
    """Queued operations of ``host``, oldest first, that nothing stands in the way of."""
    wanted = {"the_hosts": [host] if isinstance(host, str) else list(host), "the_limit": limit}
    return [records.OPERATION.build(row) for row in connection.execute(CLAIMABLE, wanted)]


def claim(
    connection: sa.Connection, operation_id: str, instance: str, now: dt.datetime, *, seen_epoch: int | None = None
) -> tuple[models.Operation | None, int | None]:
    """Take a queued operation: (it as claimed or None, the epoch that the claim has or would have).

    ``seen_epoch`` is the epoch that an attempt before this one, whose commit may or may not have
    happened, would have written: finding exactly that is finding our own claim.
    """
    row = endings.lock(connection, operation_id, with_resources=False)
    if row is None:
        return None, None
    operation = endings.build(row)
    if row.state == _RUNNING and row.instance == instance and row.claim_epoch == seen_epoch:
        return operation, seen_epoch
    if row.state != _QUEUED or row.action not in TRANSITIONS:
        return None, None
    if connection.execute(_BLOCKED, {"the_id": operation_id}).one_or_none() is not None:
        return None, None
    values: dict[str, Any] = {
        "state": _RUNNING,
        "claim_epoch": operation.claim_epoch + 1,
        "attempts": operation.attempts + 1,
        "instance": instance,
        "started_at": now,
        "updated_at": now,
    }
    the_row = {"the_id": operation_id, "the_state": _QUEUED, "the_epoch": operation.claim_epoch}
    if connection.execute(endings.WRITE, {**values, **the_row}).rowcount != 1:
        return None, None
    return dataclasses.replace(operation, **values), operation.claim_epoch + 1


def report_progress(
    connection: sa.Connection, operation: models.Operation, done: int, total: int, now: dt.datetime
) -> bool:
    """Write progress under the claim; True when a cancel is asked for.  Raises ``OperationSuperseded``."""
    result = connection.execute(
        sa.update(_ops)
        .where(*endings.is_held(operation))
        .values(progress_done=done, progress_total=total, updated_at=now)
    )
    if result.rowcount != 1:
        raise exc.OperationSuperseded(id=operation.id)
    return bool(connection.execute(sa.select(_mine.is_cancel_requested).where(_mine.id == operation.id)).scalar_one())


def note(connection: sa.Connection, operation: models.Operation, first: Mapping[str, Any], now: dt.datetime) -> None:
    """Write columns of the first resource under the claim.  Raises ``OperationSuperseded``."""
    held = sa.select(_mine.id).where(*endings.is_held(operation)).with_for_update()
    if connection.execute(held).one_or_none() is None:
        raise exc.OperationSuperseded(id=operation.id)
    table = schema.TABLE_OF[Resource(operation.resource_type)]
    values = {**records.checked_changes(first, table), "updated_at": now}
    connection.execute(sa.update(table).where(table.c.id == operation.resource_id).values(values))


def release(
    connection: sa.Connection, operation: models.Operation, reason: str, now: dt.datetime, *, count_attempt: bool
) -> None:
    """Put a running operation back; ``reason`` is kept as its error while it waits.

    Raises ``OperationSuperseded``.
    """
    result = connection.execute(
        sa.update(_ops)
        .where(*endings.is_held(operation))
        .values(
            state=_QUEUED,
            instance=None,
            error=reason,
            attempts=_mine.attempts if count_attempt else _mine.attempts - 1,
            updated_at=now,
        )
    )
    if result.rowcount != 1:
        raise exc.OperationSuperseded(id=operation.id)


def take_back(
    connection: sa.Connection, host: str, instance: str, max_attempts: int, now: dt.datetime
) -> tuple[list[models.Operation], list[models.Operation]]:
    """What earlier instances of ``host`` left running: (queued again, failed after ``max_attempts``).

    ``max_attempts`` 0 or less: no limit.
    """
    query = (
        sa.select(_mine.id, _mine.action)
        .where(
            _mine.state == _RUNNING,
            _mine.host == host,
            sa.or_(_mine.instance.is_(None), _mine.instance != instance),
        )
        .order_by(_mine.seq)
    )
    again, given_up = [], []
    for operation_id, action in connection.execute(query).all():
        # An action of a newer release has no rows in this one's table: it can only wait.
        row = endings.lock(connection, operation_id, with_resources=action in TRANSITIONS)
        if row is None or row.state != _RUNNING or row.instance == instance:
            continue
        if 0 < max_attempts <= row.attempts and row.action in TRANSITIONS:
            error = exc.TooManyAttempts(id=row.id, attempts=row.attempts)
            given_up.append(
                endings.end(
                    connection, row, str(OperationState.FAILED), now, error=str(error), error_class="TooManyAttempts"
                )
            )
            continue
        connection.execute(
            sa.update(_ops)
            .where(_mine.id == row.id, _mine.state == _RUNNING, _mine.claim_epoch == row.claim_epoch)
            .values(state=_QUEUED, instance=None, updated_at=now)
        )
        again.append(dataclasses.replace(endings.build(row), state=_QUEUED, instance=None, updated_at=now))
    return again, given_up
