"""``SqlStore``: the store that ``ports`` asks for, each method one transaction.

What a transaction does is in the modules beside this one; here is only which one each method is.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from volsvc import models
from volsvc.db import claims, endings, intents, queries, records, resets, services, volume_types
from volsvc.db.records import Kind
from volsvc.db.transactions import Transactions
from volsvc.ports import Correction, Intent, Outcome, Page, Query, Situation
from volsvc.states import Resource

T = TypeVar("T")

_VOLUME_MAY_CHANGE = frozenset({"name", "description", "metadata", "is_bootable"})
_SNAPSHOT_MAY_CHANGE = frozenset({"name", "description", "metadata"})
_BACKUP_MAY_CHANGE = _SNAPSHOT_MAY_CHANGE | {"temp_snapshot_id"}


class SqlStore:
    """Implements ``ports.Store`` on a database that has this release's schema.

    ``service_down_time_s``: age of a heartbeat from which its service is down.  ``clock``: naive UTC,
    for the times that records carry; heartbeats use the database's.  Safe to share between threads.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        service_down_time_s: float = 60.0,
        clock: Callable[[], dt.datetime] = records.utcnow,
    ) -> None:
        self._transactions = Transactions(engine)
        self._service_down_time_s = service_down_time_s
        self._now = clock

    def swap_engine(self, engine: Engine) -> None:
        """Begin new transactions on ``engine``; those under way end on the one before."""
        self._transactions = Transactions(engine)

    def set_service_down_time(self, seconds: float) -> None:
        self._service_down_time_s = seconds

    # -- intents and their ends ------------------------------------------------------------

    def submit(self, *wanted: Intent) -> list[models.Operation]:
        ids = intents.new_ids(wanted)
        attempts = 0

        def record(connection: sa.Connection) -> list[models.Operation]:
            nonlocal attempts
            attempts += 1
            recorded = intents.find_recorded(connection, ids) if attempts > 1 else []
            return recorded or intents.record_all(connection, wanted, ids, self._now())

        return self._write(record)

    def claimable(self, host: str | Sequence[str], limit: int) -> list[models.Operation]:
        return self._read(lambda c: claims.find_claimable(c, host, limit))

    def claim(self, operation_id: str, instance: str) -> models.Operation | None:
        seen_epoch: int | None = None

        def take(connection: sa.Connection) -> models.Operation | None:
            nonlocal seen_epoch
            claimed, epoch = claims.claim(connection, operation_id, instance, self._now(), seen_epoch=seen_epoch)
            seen_epoch = epoch or seen_epoch
            return claimed

        return self._write(take)

    def report_progress(self, operation: models.Operation, done: int, total: int) -> bool:
        return self._write(lambda c: claims.report_progress(c, operation, done, total, self._now()))

    def note(self, operation: models.Operation, first: Mapping[str, Any]) -> None:
        self._write(lambda c: claims.note(c, operation, first, self._now()))

    def finish(self, operation: models.Operation, outcome: Outcome) -> models.Operation:
        attempts = 0

        def end(connection: sa.Connection) -> models.Operation:
            nonlocal attempts
            attempts += 1
            return endings.finish(connection, operation, outcome, self._now(), is_repeated=attempts > 1)

        return self._write(end)

    def release(self, operation: models.Operation, reason: str, *, count_attempt: bool = False) -> None:
        self._write(lambda c: claims.release(c, operation, reason, self._now(), count_attempt=count_attempt))

    def take_back(
        self, host: str, instance: str, max_attempts: int
    ) -> tuple[list[models.Operation], list[models.Operation]]:
        return self._write(lambda c: claims.take_back(c, host, instance, max_attempts, self._now()))

    def expire_queued(self, host: str) -> list[models.Operation]:
        return self._write(lambda c: endings.expire_queued(c, host, self._now()))

    def renew_deadlines(self, host: str, timeout_s: float) -> int:
        return self._write(lambda c: endings.renew_deadlines(c, host, dt.timedelta(seconds=timeout_s), self._now()))

    def withdraw(self, operation_id: str) -> bool:
        return self._write(lambda c: endings.withdraw(c, operation_id, self._now()))

    def request_cancel(self, operation_id: str) -> models.Operation:
        return self._write(lambda c: endings.request_cancel(c, operation_id, self._now()))

    # -- resets ----------------------------------------------------------------------------

    def look(self, resource_type: str, resource_id: str) -> Situation:
        return self._read(lambda c: resets.look(c, Resource(resource_type), resource_id))

    def list_stuck(self) -> list[Situation]:
        return self._read(resets.list_stuck)

    def correct(
        self, intent: Intent, correction: Correction, result: Mapping[str, Any]
    ) -> tuple[models.Operation, list[str]]:
        ids = intents.new_ids([intent])
        attempts = 0

        def write(connection: sa.Connection) -> tuple[models.Operation, list[str]]:
            nonlocal attempts
            attempts += 1
            recorded = intents.find_recorded(connection, ids) if attempts > 1 else []
            if recorded:
                return recorded[0], list(recorded[0].result["cancelled"])
            return resets.correct(connection, intent, correction, result, ids[0], self._now())

        return self._write(write)

    def append_result(self, operation_id: str, key: str, entry: Mapping[str, Any]) -> None:
        self._write(lambda c: resets.append_result(c, operation_id, key, entry, self._now()))

    def get_operation(self, operation_id: str) -> models.Operation:
        return self._read(lambda c: queries.get(c, records.OPERATION, operation_id))

    def list_operations(self, query: Query) -> Page[models.Operation]:
        return self._read(lambda c: queries.list_page(c, records.OPERATION, query, tie="seq"))

    def purge_operations(self, older_than_days: int) -> int:
        """Delete what ended longer ago than that, in batches so that nobody waits for long; returns how many."""
        before = self._now() - dt.timedelta(days=older_than_days)
        total = 0
        while True:
            count = self._write(lambda c: endings.purge(c, before))
            total += count
            if count < endings.PURGE_BATCH:
                return total

    # -- volumes, snapshots, attachments -----------------------------------------------------

    def get_volume(self, volume_id: str, *, project_id: str | None = None) -> models.Volume:
        return self._read(lambda c: queries.get(c, records.VOLUME, volume_id, project_id=project_id))

    def list_volumes(self, query: Query, *, with_count: bool = False) -> Page[models.Volume]:
        return self._read(lambda c: queries.list_page(c, records.VOLUME, query, with_count=with_count))

    def update_volume(self, volume_id: str, changes: Mapping[str, Any]) -> models.Volume:
        return self._update(records.VOLUME, volume_id, changes, _VOLUME_MAY_CHANGE)

    def summarise_volumes(self, query: Query) -> tuple[int, int, dict[str, list[str]]]:
        return self._read(lambda c: queries.summarise_volumes(c, query))

    def volumes_on(self, host: str) -> list[models.Volume]:
        return self._read(lambda c: queries.list_on_backend(c, records.VOLUME, host))

    def get_snapshot(self, snapshot_id: str, *, project_id: str | None = None) -> models.Snapshot:
        return self._read(lambda c: queries.get(c, records.SNAPSHOT, snapshot_id, project_id=project_id))

    def list_snapshots(self, query: Query, *, with_count: bool = False) -> Page[models.Snapshot]:
        return self._read(lambda c: queries.list_page(c, records.SNAPSHOT, query, with_count=with_count))

    def update_snapshot(self, snapshot_id: str, changes: Mapping[str, Any]) -> models.Snapshot:
        return self._update(records.SNAPSHOT, snapshot_id, changes, _SNAPSHOT_MAY_CHANGE)

    def snapshots_on(self, host: str) -> list[models.Snapshot]:
        return self._read(lambda c: queries.list_on_backend(c, records.SNAPSHOT, host))

    def get_attachment(self, attachment_id: str, *, project_id: str | None = None) -> models.Attachment:
        return self._read(lambda c: queries.get(c, records.ATTACHMENT, attachment_id, project_id=project_id))

    def list_attachments(self, query: Query, *, with_count: bool = False) -> Page[models.Attachment]:
        return self._read(lambda c: queries.list_page(c, records.ATTACHMENT, query, with_count=with_count))

    def attachments_of(self, volume_ids: Sequence[str]) -> dict[str, list[models.Attachment]]:
        return self._read(lambda c: queries.attachments_of(c, volume_ids))

    def get_backup(self, backup_id: str, *, project_id: str | None = None) -> models.Backup:
        return self._read(lambda c: queries.get(c, records.BACKUP, backup_id, project_id=project_id))

    def list_backups(self, query: Query, *, with_count: bool = False) -> Page[models.Backup]:
        return self._read(lambda c: queries.list_page(c, records.BACKUP, query, with_count=with_count))

    def update_backup(self, backup_id: str, changes: Mapping[str, Any]) -> models.Backup:
        return self._update(records.BACKUP, backup_id, changes, _BACKUP_MAY_CHANGE)

    def summarise_backups(self, query: Query) -> tuple[int, int]:
        return self._read(lambda c: queries.summarise(c, records.BACKUP, query))

    def backups_with_leftovers(self, host: str) -> list[models.Backup]:
        return self._read(lambda c: queries.list_backups_with_leftovers(c, host))

    # -- volume types ---------------------------------------------------------------------------

    def create_volume_type(self, volume_type: models.VolumeType) -> models.VolumeType:
        return self._write(lambda c: volume_types.create(c, volume_type, self._now()))

    def get_volume_type(self, id_or_name: str) -> models.VolumeType:
        return self._read(lambda c: volume_types.find(c, id_or_name))

    def list_volume_types(self, query: Query) -> Page[models.VolumeType]:
        return self._read(lambda c: queries.list_page(c, records.VOLUME_TYPE, query))

    def update_volume_type(self, type_id: str, changes: Mapping[str, Any]) -> models.VolumeType:
        return self._write(lambda c: volume_types.update(c, type_id, changes, self._now()))

    def delete_volume_type(self, type_id: str) -> None:
        self._write(lambda c: volume_types.delete(c, type_id))

    # -- services ---------------------------------------------------------------------------------

    def register_service(self, host: str, binary: str, fields: Mapping[str, Any]) -> models.Service:
        def register(connection: sa.Connection) -> models.Service:
            service_id = services.register(connection, host, binary, fields, self._now())
            return services.list_all(connection, self._service_down_time_s, service_id)[0]

        return self._write(register)

    def report_service(self, service_id: int, fields: Mapping[str, Any]) -> None:
        self._write(lambda c: services.report(c, service_id, fields, self._now()))

    def update_service(self, service_id: int, changes: Mapping[str, Any]) -> models.Service:
        def update(connection: sa.Connection) -> models.Service:
            services.update(connection, service_id, changes, self._now())
            return services.list_all(connection, self._service_down_time_s, service_id)[0]

        return self._write(update)

    def beat(self, service_ids: Sequence[int]) -> None:
        if service_ids:
            self._write(lambda c: services.beat(c, service_ids))

    def list_services(self) -> list[models.Service]:
        return self._read(lambda c: services.list_all(c, self._service_down_time_s))

    # -- how all of them run -------------------------------------------------------------------------

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        return self._transactions.read(work)

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        return self._transactions.write(work)

    def _update(self, kind: Kind[T], record_id: str, changes: Mapping[str, Any], allowed: frozenset[str]) -> T:
        wrong = set(changes) - allowed
        if wrong:
            raise ValueError(f"not written this way: {', '.join(sorted(wrong))} of {kind.table.name}")

        def update(connection: sa.Connection) -> T:
            table = kind.table
            values = {**changes, "updated_at": self._now()}
            if callable(values.get("metadata")):
                row = connection.execute(sa.select(table.c.metadata).where(table.c.id == record_id).with_for_update())
                values["metadata"] = values["metadata"](dict(row.scalar_one_or_none() or {}))
            connection.execute(sa.update(table).where(table.c.id == record_id).values(values))
            return queries.get(connection, kind, record_id)

        return self._write(update)
