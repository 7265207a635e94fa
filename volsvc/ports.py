"""What the core needs from outside, as protocols: a store, a doorbell, a notifier.

Adapters (``db``, ``rpc``) implement these and are put in place by ``service``; managers and
``VolumeAPI`` are built with them and import no library that talks to a database or a network.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from volsvc import models
from volsvc.states import TRANSITIONS

T = TypeVar("T")

# -- what a request asks of the store ----------------------------------------------


@dataclass(frozen=True, slots=True)
class CapacityClaim:
    """Refuse the intent (``CapacityExceeded``) unless the backend has room for ``add_gb`` more.

    Checked against the sum of the claimed sizes in the same transaction as the record, so
    that two requests can't both take the last free gigabyte.  ``limit_gb`` is what the
    backend may promise in all; None means that it doesn't say.
    """

    host: str
    add_gb: int
    limit_gb: float | None


@dataclass(frozen=True, slots=True)
class Guards:
    """Conditions checked inside the transaction that records an intent.

    ``no_snapshots``/``no_attachments``: ids of volumes that must have none
    (``attachment_except`` doesn't count).  Snapshots that are already being deleted by an
    operation recorded before this one don't count.  ``never_stored``: a backup of which nothing has
    reached its store.
    """

    no_snapshots: str | None = None
    no_attachments: str | None = None
    single_attachment: str | None = None  # a volume that isn't multiattach: refuse a second attachment
    capacity: CapacityClaim | None = None
    never_stored: str | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """One operation to record, with everything that must be true and change in that transaction.

    ``insert`` is the new row of the first resource when the transition starts from ``NEW``
    (its status is set from the table); ``changes`` are further columns of the first resource.
    ``host`` is the ``host@backend`` that must run it, None for a record-only transition.
    ``cancel_open`` asks the resource's open operations to cancel, and those that own its status as their second.
    """

    action: str
    context: models.RequestContext
    resource_id: str
    second_id: str | None = None
    host: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    insert: models.Volume | models.Snapshot | models.Attachment | models.Backup | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    guards: Guards = field(default_factory=Guards)
    cancel_open: bool = False
    deadline_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation ended; the statuses follow from the table.

    ``first``/``second`` are further columns to write on the two resources.
    """

    state: str  # done, failed or cancelled
    first: Mapping[str, Any] = field(default_factory=dict)
    second: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    error_class: str | None = None
    correction: Correction | None = None  # of a reset that is done


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a reset is about, read at one instant.

    ``open_operations``: those in line of the resource itself, and for a volume of its attachments
    and those that read it, oldest first.
    """

    resource: models.Volume | models.Snapshot | models.Backup
    attachments: tuple[models.Attachment, ...] = ()
    open_operations: tuple[models.Operation, ...] = ()


@dataclass(frozen=True, slots=True)
class Correction:
    """What a reset writes, all of it or nothing.

    A None leaves that column alone; ``migration_status`` "none" clears it.  ``attachments``: further
    columns by attachment id (``status`` among them).  The resource's own open operations, those of its
    attachments, and those that own its status as their second are cancelled.  ``seen``: write only if
    nothing of this has changed since.
    """

    status: str | None = None
    attach_status: str | None = None
    migration_status: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    deletes_attachments: bool = False
    attachments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seen: Situation | None = None

    def cancels(self, operation: models.Operation, resource_id: str) -> bool:
        """Whether an open operation of the situation can't stand beside this; those that only read it can."""
        if operation.resource_id == resource_id:
            return self.status is not None
        second = TRANSITIONS[operation.action].second
        if second is not None and second.owns_status:
            return self.status is not None
        if operation.resource_type != "attachment":
            return False
        return self.status is not None or self.deletes_attachments or bool(self.attachments)


@dataclass(frozen=True, slots=True)
class Query:
    """A page of a list.

    ``filters``: column name → value, or a sequence of values (any of them), or, with a key
    ending in ``~``, a substring.  ``metadata`` entries must all match.  ``sort`` is
    ``((column, "asc"|"desc"), ...)``; ties are broken by id.  ``marker`` is the id of the last
    item of the page before (``NotFound`` of that kind if it is gone).  ``project_id`` None
    means every project.
    """

    project_id: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    sort: tuple[tuple[str, str], ...] = (("created_at", "desc"),)
    limit: int | None = None
    offset: int = 0
    marker: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: tuple[T, ...]
    has_more: bool
    total: int | None = None  # filled when asked for with ``with_count``


class RequestStore(Protocol):
    """The store as the API sees it.  Every method is one transaction.

    Any method may raise ``StoreUnavailable``; getters raise the resource's ``NotFound``.
    """

    def submit(self, *intents: Intent) -> list[models.Operation]:
        """Record intents, all or none.

        Record-only transitions are applied at once and their operations returned as ``done``.
        Raises ``StatusConflict`` when a resource is not in a status that the table allows,
        ``CapacityExceeded``, or the ``NotFound`` of a resource.
        """

    def get_volume(self, volume_id: str, *, project_id: str | None = None) -> models.Volume: ...
    def list_volumes(self, query: Query, *, with_count: bool = False) -> Page[models.Volume]: ...
    def update_volume(self, volume_id: str, changes: Mapping[str, Any]) -> models.Volume:
        """Write columns that are not a status (name, description, metadata, is_bootable).

        A ``metadata`` that is a function makes the new one of a copy of the old, in the same transaction;
        what it raises passes and nothing is written.  So for snapshots and backups.
        """

    def summarise_volumes(self, query: Query) -> tuple[int, int, dict[str, list[str]]]:
        """Count, GiB in all, and each metadata key with its distinct values."""

    def get_snapshot(self, snapshot_id: str, *, project_id: str | None = None) -> models.Snapshot: ...
    def list_snapshots(self, query: Query, *, with_count: bool = False) -> Page[models.Snapshot]: ...
    def update_snapshot(self, snapshot_id: str, changes: Mapping[str, Any]) -> models.Snapshot: ...

    def get_attachment(self, attachment_id: str, *, project_id: str | None = None) -> models.Attachment: ...
    def list_attachments(self, query: Query, *, with_count: bool = False) -> Page[models.Attachment]: ...
    def attachments_of(self, volume_ids: Sequence[str]) -> dict[str, list[models.Attachment]]:
        """All attachments of those volumes, by volume id; volumes without any are absent."""

    def get_backup(self, backup_id: str, *, project_id: str | None = None) -> models.Backup: ...
    def list_backups(self, query: Query, *, with_count: bool = False) -> Page[models.Backup]: ...
    def update_backup(self, backup_id: str, changes: Mapping[str, Any]) -> models.Backup:
        """Write columns that are not a status (name, description, metadata, temp_snapshot_id)."""

    def summarise_backups(self, query: Query) -> tuple[int, int]:
        """Count, and GiB in all of the volumes as they were."""

    def create_volume_type(self, volume_type: models.VolumeType) -> models.VolumeType: ...
    def get_volume_type(self, id_or_name: str) -> models.VolumeType: ...
    def list_volume_types(self, query: Query) -> Page[models.VolumeType]: ...
    def update_volume_type(self, type_id: str, changes: Mapping[str, Any]) -> models.VolumeType: ...
    def delete_volume_type(self, type_id: str) -> None: ...

    def list_services(self) -> list[models.Service]: ...
    def update_service(self, service_id: int, changes: Mapping[str, Any]) -> models.Service:
        """Write is_disabled and disabled_reason."""

    def look(self, resource_type: str, resource_id: str) -> Situation:
        """A volume, a snapshot or a backup with all that a reset has to know.  Raises its ``NotFound``."""

    def correct(
        self, intent: Intent, correction: Correction, result: Mapping[str, Any]
    ) -> tuple[models.Operation, list[str]]:
        """Write a reset that needs no daemon, and its operation as done; returns it and what it cancelled.

        Running operations that it cancels find themselves superseded.  Raises ``NotFound``, and ``Conflict``
        when ``seen`` doesn't hold any more.
        """

    def list_stuck(self) -> list[Situation]:
        """Volumes, snapshots and backups whose status says that something goes on, and nothing does."""

    def get_operation(self, operation_id: str) -> models.Operation: ...
    def list_operations(self, query: Query) -> Page[models.Operation]: ...
    def request_cancel(self, operation_id: str) -> models.Operation:
        """Ask for a cancel: a queued one ends at once, a running one when its handler stops."""

    def withdraw(self, operation_id: str) -> bool:
        """Take back a still-queued operation: cancelled, statuses as before; False if it runs or has ended."""


class WorkStore(Protocol):
    """The store as a manager and its runner see it."""

    def get_volume(self, volume_id: str) -> models.Volume: ...
    def get_snapshot(self, snapshot_id: str) -> models.Snapshot: ...
    def get_attachment(self, attachment_id: str) -> models.Attachment: ...
    def get_backup(self, backup_id: str) -> models.Backup: ...
    def attachments_of(self, volume_ids: Sequence[str]) -> dict[str, list[models.Attachment]]: ...
    def look(self, resource_type: str, resource_id: str) -> Situation: ...
    def append_result(self, operation_id: str, key: str, entry: Mapping[str, Any]) -> None:
        """Add to a list in the result of an operation that has ended: what came to light too late for it."""

    def volumes_on(self, host: str) -> list[models.Volume]:
        """Every volume whose backend is ``host@backend``."""

    def snapshots_on(self, host: str) -> list[models.Snapshot]: ...

    def backups_with_leftovers(self, host: str) -> list[models.Backup]:
        """Backups of a daemon that have a temporary snapshot still, and no open operation."""

    def update_backup(self, backup_id: str, changes: Mapping[str, Any]) -> models.Backup: ...

    def claimable(self, host: str | Sequence[str], limit: int) -> list[models.Operation]:
        """Queued operations of this host (or hosts), oldest first, that no earlier open one stands in the way of."""

    def claim(self, operation_id: str, instance: str) -> models.Operation | None:
        """Compare-and-set from queued to running: raises the epoch, counts the attempt; None if it was taken."""

    def report_progress(self, operation: models.Operation, done: int, total: int) -> bool:
        """Write progress under this epoch; True when a cancel is asked for. Raises ``OperationSuperseded``."""

    def note(self, operation: models.Operation, first: Mapping[str, Any]) -> None:
        """Write columns of an operation's first resource while it runs, under its epoch.

        For what must be known before the storage is touched.  Raises ``OperationSuperseded``.
        """

    def finish(self, operation: models.Operation, outcome: Outcome) -> models.Operation:
        """End it under this epoch with the statuses of the table. Raises ``OperationSuperseded``."""

    def release(self, operation: models.Operation, reason: str, *, count_attempt: bool = False) -> None:
        """Put a running operation back into the queue under this epoch."""

    def take_back(
        self, host: str, instance: str, max_attempts: int
    ) -> tuple[list[models.Operation], list[models.Operation]]:
        """Requeue what earlier instances left running: (queued again, failed for too many attempts)."""

    def expire_queued(self, host: str) -> list[models.Operation]:
        """End queued operations of this host whose deadline has passed."""

    def renew_deadlines(self, host: str, timeout_s: float) -> int:
        """Move the deadlines of this host's queue to ``timeout_s`` from now where they are nearer than half of that.

        By who is ready: a deadline is for work that nobody is there to do, not for a long queue.  Returns how many.
        """

    def register_service(self, host: str, binary: str, fields: Mapping[str, Any]) -> models.Service: ...
    def report_service(self, service_id: int, fields: Mapping[str, Any]) -> None: ...
    def beat(self, service_ids: Sequence[int]) -> None:
        """Stamp the heartbeat with the database's clock."""

    def list_services(self) -> list[models.Service]: ...
    def purge_operations(self, older_than_days: int) -> int: ...


class Store(RequestStore, WorkStore, Protocol):
    """What an adapter implements."""


class Doorbell(Protocol):
    """Tells a daemon that the database has work for it; losing a ring loses nothing."""

    def ring(self, host: str) -> None:
        """Best effort, never raises."""

    def wait_for(self, operation: models.Operation, timeout_s: float) -> None:
        """Ring and come back when the operation has ended, or sooner without knowing.

        Raises ``ServiceDown`` when nobody listens there.  The caller reads the row afterwards.
        """


class NobodyRings:
    """A doorbell without a bell: the daemon's next sweep finds the work."""

    def ring(self, host: str) -> None:
        return None

    def wait_for(self, operation: models.Operation, timeout_s: float) -> None:
        return None


class Notifier(Protocol):
    def info(self, event_type: str, payload: Mapping[str, Any]) -> None: ...
    def error(self, event_type: str, payload: Mapping[str, Any]) -> None: ...


Clock = Callable[[], float]  # monotonic seconds
