"""Recording an intent, ringing, and waiting for an operation's end."""

from __future__ import annotations

import datetime as dt
import logging
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

from volsvc import exceptions as exc
from volsvc import models, placement
from volsvc.ports import Clock, Doorbell, Intent, Query, Store
from volsvc.volume_api.waiting_room import WaitingRoom

LOG = logging.getLogger(__name__)

RING_ATTEMPTS = 3
RING_PAUSE_S = 0.1
MAX_SIZE_GB = 1024 * 1024  # a PiB: beyond it a typing error is likelier than a volume


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """``response_timeout_s``: how long a request waits for an operation's result.
    ``queue_timeout_s``: how long recorded work waits for a backend that isn't ready, 0 = for ever.
    ``max_waiting``: resets and inspections that wait for one backend at a time; ``max_attaching``: attaches
    and detaches; ``max_waiting_in_all``: all of these, for any backend."""

    response_timeout_s: float = 60.0
    max_waiting: int = 8
    max_attaching: int = 20
    max_waiting_in_all: int = 28
    queue_timeout_s: float = 3600.0
    availability_zone: str = "nova"


class RequestBase:
    """What all requests share."""

    def __init__(
        self, store: Store, doorbell: Doorbell, settings: ApiSettings, *, clock: Clock = time.monotonic
    ) -> None:
        self._store = store
        self._doorbell = doorbell
        self._settings = settings
        self._clock = clock
        self._waiting_room = WaitingRoom(settings.max_waiting_in_all)

    # -- recording -------------------------------------------------------------------

    def _submit(self, *intents: Intent, rings: bool = True) -> list[models.Operation]:
        """Record in one transaction, then ring each host that has work; whoever waits for the end rings then."""
        deadline_at = self._deadline()
        operations = self._store.submit(*(replace(i, deadline_at=i.deadline_at or deadline_at) for i in intents))
        if rings:
            for host in {operation.host for operation in operations if operation.host and operation.is_open}:
                self._doorbell.ring(host)
        return operations

    def _deadline(self) -> dt.datetime | None:
        if not self._settings.queue_timeout_s:
            return None
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        return now + dt.timedelta(seconds=self._settings.queue_timeout_s)

    # -- waiting -----------------------------------------------------------------------

    def _await(self, operation: models.Operation, *, take_back: bool) -> models.Operation:
        """Wait for an operation's end and return its row; raise what it ended with.

        ``take_back``: an operation that is still queued when the wait is over is withdrawn, so
        that it does not happen behind the caller's back later.
        """
        timeout_s = self._settings.response_timeout_s
        deadline = self._clock() + timeout_s
        down = self._ring_and_wait(operation, deadline)
        pause_s = 0.01
        while True:
            current = self._store.get_operation(operation.id)
            if not current.is_open:
                return self._checked(current)
            # One that was begun is queued again by the daemon that is back, and goes on there.
            if down is not None and current.state == "queued" and not current.claim_epoch:
                break
            if self._clock() >= deadline:
                break
            time.sleep(min(pause_s, max(0.0, deadline - self._clock())))
            pause_s = min(pause_s * 2, 0.5)
        if take_back and self._store.withdraw(operation.id):
            if down is not None:
                raise down
            raise exc.ServiceDown(
                host=operation.host or "",
                reason=f"it did not begin within {timeout_s:.0f} s; the request was taken back",
            )
        current = self._store.get_operation(operation.id)
        if not current.is_open:
            return self._checked(current)
        raise exc.OperationTimeout(
            id=operation.id,
            reason=f"it is {current.state} and goes on; look at it with 'volsvc operation show {operation.id}'",
        )

    def _ring_and_wait(self, operation: models.Operation, deadline: float) -> exc.ServiceDown | None:
        """Wait through the doorbell; what it said if nobody listens there.

        Asked again, because a daemon that reloads its transport is away for a moment.
        """
        down: exc.ServiceDown | None = None
        for _ in range(RING_ATTEMPTS):
            try:
                self._doorbell.wait_for(operation, max(0.1, deadline - self._clock()))
                return None
            except exc.ServiceDown as error:
                down = error
            if not self._store.get_operation(operation.id).is_open:
                return None
            time.sleep(RING_PAUSE_S)
        return down

    @staticmethod
    def _checked(operation: models.Operation) -> models.Operation:
        if operation.state == "done":
            return operation
        error_class = exc.find_error_class(operation.error_class or "") or exc.OperationFailed
        raise error_class(operation.error or f"operation {operation.id} ended as {operation.state}")

    # -- looking up ------------------------------------------------------------------------

    def _get_volume(self, context: models.RequestContext, volume_id: str) -> models.Volume:
        return self._store.get_volume(volume_id, project_id=scope_of(context))

    def _get_snapshot(self, context: models.RequestContext, snapshot_id: str) -> models.Snapshot:
        return self._store.get_snapshot(snapshot_id, project_id=scope_of(context))

    def _get_backup(self, context: models.RequestContext, backup_id: str) -> models.Backup:
        return self._store.get_backup(backup_id, project_id=scope_of(context))

    def _require_enabled(self, host: str | None) -> None:
        """Refuse what nobody would ever do: the backend was taken out of enabled_backends."""
        service = placement.find_service(self._store.list_services(), host or "")
        if service is not None and service.state == "stopped" and service.reason:
            raise exc.ServiceDown(host=service.host, reason=service.reason)

    def _require_up(self, host: str | None) -> models.Service:
        """The service that owns a volume, refused at once when it can't do anything now."""
        service = placement.find_service(self._store.list_services(), host or "")
        if service is None:
            raise exc.ServiceDown(host=host, reason="no service with this name has reported; is its backend enabled?")
        if not service.is_up:
            raise exc.ServiceDown(host=service.host, reason=placement.explain_down(service))
        return service


def scope_of(context: models.RequestContext) -> str | None:
    """The project whose things a request may see; None for an admin, who sees all."""
    return None if context.is_admin else context.project_id


def scoped(context: models.RequestContext, query: Query) -> Query:
    """A non-admin's list never leaves the project, whatever was asked."""
    return query if context.is_admin else replace(query, project_id=context.project_id)


def new_id() -> str:
    return str(uuid.uuid4())


def check_size(size_gb: Any) -> int:
    if isinstance(size_gb, bool) or not isinstance(size_gb, int) or size_gb <= 0:
        raise exc.InvalidInput(reason=f"Volume size {size_gb!r} must be an integer and greater than 0 (GiB).")
    if size_gb > MAX_SIZE_GB:
        raise exc.CapacityExceeded(reason=f"Volume size {size_gb} GiB is more than the {MAX_SIZE_GB} GiB allowed.")
    return size_gb
