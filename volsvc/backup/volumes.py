"""How a backup daemon reaches volumes: through operations of the volume daemon, like any other client.

A volume daemon makes the temporary snapshot, and opens a snapshot or a volume for one reader, which is
the backup's operation.  What is asked here can be asked again after a kill: the snapshot's id is on the
backup before the snapshot is asked for, and connecting once more gives the same answer.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from volsvc import exceptions as exc
from volsvc import models
from volsvc.backup import access
from volsvc.backup.blocks import BlockSink, BlockSource
from volsvc.operations import OperationControl
from volsvc.ports import Doorbell, Intent, Query, Store

LOG = logging.getLogger(__name__)

WAIT_SLICE_S = 1.0
GIVE_BACK_TIMEOUT_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.5


class _Closable(Protocol):
    def close(self) -> None: ...


_Blocks = TypeVar("_Blocks", bound=_Closable)


@dataclass(frozen=True, slots=True)
class Source:
    """Blocks that don't change; ``token`` names the point in time, which was at ``taken_at``."""

    blocks: BlockSource
    token: str
    taken_at: dt.datetime | None


class VolumeAccess:
    """The volumes as the backup daemon ``host`` sees them.

    ``directory``: private to this daemon and short, for sockets and keys.  ``queue_timeout_s``: how long
    what is asked may wait for its volume daemon, 0 for ever.
    """

    def __init__(
        self,
        *,
        host: str,
        store: Store,
        doorbell: Doorbell,
        directory: str,
        queue_timeout_s: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._store = store
        self._doorbell = doorbell
        self._directory = directory
        self._queue_timeout_s = queue_timeout_s
        self._clock = clock

    # -- reading and writing -----------------------------------------------------------------

    @contextlib.contextmanager
    def source(self, operation: models.Operation, control: OperationControl) -> Iterator[Source]:
        """The blocks that the backup of ``operation`` is about.

        A user's snapshot; the volume itself while nobody can attach it; or a temporary snapshot, made
        here if there is none yet.  Raises ``VolumeAccessError``, ``ServiceDown`` when the volume's daemon stayed away
        for too long to try again, and what ``control`` raises.
        """
        if operation.action == "backup_create" and operation.second_previous_status == "available":
            # As long as it is backing-up nobody can attach it, extend it or restore to it.
            volume = self._get(self._store.get_volume, operation.second_id)
            with self._opened(operation, control, volume, "ro", access.open_source) as blocks:
                yield Source(blocks, f"volume:{volume.id}:{operation.id}", operation.created_at)
            return
        if operation.action == "backup_create":
            snapshot = self._temporary_snapshot(operation, control)
        else:
            snapshot = self._get(self._store.get_snapshot, operation.second_id)
        with self._opened(operation, control, snapshot, "ro", access.open_source) as blocks:
            yield Source(blocks, f"snapshot:{snapshot.id}", snapshot.created_at)

    @contextlib.contextmanager
    def sink(self, operation: models.Operation, control: OperationControl) -> Iterator[BlockSink]:
        """The volume that a restore writes to; raises as ``source`` does."""
        volume = self._get(self._store.get_volume, operation.second_id)
        with self._opened(operation, control, volume, "rw", access.open_sink) as blocks:
            yield blocks

    @staticmethod
    def _get(getter: Callable[[str], Any], resource_id: str | None) -> Any:
        try:
            return getter(resource_id or "")
        except exc.NotFound as error:
            raise exc.VolumeAccessError(reason=f"{error} It was deleted meanwhile.") from error

    @contextlib.contextmanager
    def _opened(
        self,
        operation: models.Operation,
        control: OperationControl,
        of: models.Volume | models.Snapshot,
        mode: str,
        opener: Callable[[Mapping[str, Any], str], _Blocks],
    ) -> Iterator[_Blocks]:
        """Connect, open, and close; the connection itself is given back by ``disconnect``."""
        connector = {"host": self._host, "local": True}
        blocks: _Blocks
        try:
            blocks = opener(self._connect(operation, control, of, mode, connector), self._directory)
        except exc.NotThisHost as error:
            LOG.info("operation %s reads over the network: %s", operation.id, error)
            connector["local"] = False
            blocks = opener(self._connect(operation, control, of, mode, connector), self._directory)
        with contextlib.closing(blocks):
            yield blocks

    def _connect(
        self,
        operation: models.Operation,
        control: OperationControl,
        of: models.Volume | models.Snapshot,
        mode: str,
        connector: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        args = {"reader": operation.id, "mode": mode, "connector": dict(connector)}
        ended = self._do(_intent(operation, f"{_kind(of)}_connect", of.id, of.host, args=args), control)
        info: Mapping[str, Any] = ended.result["connection_info"]
        return info

    # -- the temporary snapshot ------------------------------------------------------------------

    def _temporary_snapshot(self, operation: models.Operation, control: OperationControl) -> models.Snapshot:
        backup = self._store.get_backup(operation.resource_id)
        found = self._find_snapshot(backup.temp_snapshot_id)
        if found is not None and found.status == "backing-up":
            return found
        if found is not None:
            making = self._find_open(found.id, "backup_snapshot_create")
            if making is not None:
                self._await(making, control)
                return self._store.get_snapshot(found.id)
            self.give_back_snapshot(backup)
        volume = self._get(self._store.get_volume, operation.second_id)
        snapshot = models.Snapshot(
            id=str(uuid.uuid4()),
            volume_id=volume.id,
            size_gb=volume.size_gb,
            status="creating",
            project_id=volume.project_id,
            user_id=volume.user_id,
            host=volume.host,
            name=f"backup_snapshot_{backup.id}",
            description="what a backup reads; goes when the backup has ended",
            volume_type_id=volume.volume_type_id,
        )
        self._store.note(operation, {"temp_snapshot_id": snapshot.id})
        intent = _intent(operation, "backup_snapshot_create", snapshot.id, volume.host)
        self._do(replace(intent, insert=snapshot, second_id=volume.id), control)
        return self._store.get_snapshot(snapshot.id)

    def _find_snapshot(self, snapshot_id: str | None) -> models.Snapshot | None:
        if snapshot_id is None:
            return None
        try:
            return self._store.get_snapshot(snapshot_id)
        except exc.SnapshotNotFound:
            return None

    def _find_open(self, resource_id: str, action: str) -> models.Operation | None:
        query = Query(filters={"resource_id": resource_id, "action": action, "state": ["queued", "running"]}, limit=1)
        items = self._store.list_operations(query).items
        return items[0] if items else None

    # -- giving back -----------------------------------------------------------------------------

    def disconnect(self, operation: models.Operation) -> None:
        """Have the volume daemon end what it opened for this operation.  Repeatable, never raises.

        One that is down ends it by itself when it is back.
        """
        if operation.second_id is None:
            return
        ids = [(operation.second_type or "", operation.second_id)]
        if operation.action == "backup_create":  # a restore may find one that is not given back yet
            with contextlib.suppress(exc.BackupNotFound):
                temporary = self._store.get_backup(operation.resource_id).temp_snapshot_id
                if temporary is not None:
                    ids = [("snapshot", temporary)]
        for kind, resource_id in ids:
            try:
                getter = self._store.get_snapshot if kind == "snapshot" else self._store.get_volume
                of: models.Volume | models.Snapshot = getter(resource_id)
                intent = _intent(operation, f"{kind}_disconnect", of.id, of.host, args={"reader": operation.id})
                self._await_for(self._submit(intent), GIVE_BACK_TIMEOUT_S)
            except exc.NotFound:
                LOG.debug("operation %s: %s %s is gone", operation.id, kind, resource_id)
            except Exception:
                LOG.exception(
                    "operation %s: its connection to %s %s is not given back", operation.id, kind, resource_id
                )

    def give_back_snapshot(self, backup: models.Backup) -> bool:
        """Have the temporary snapshot of a backup deleted; True when its deletion is recorded or it is gone.

        Repeatable.  Raises ``StoreUnavailable``.
        """
        snapshot = self._find_snapshot(backup.temp_snapshot_id)
        if snapshot is None or self._find_open(snapshot.id, "backup_snapshot_delete") is not None:
            return True
        context = models.RequestContext(user_id=backup.user_id, project_id=backup.project_id)
        intent = Intent(
            "backup_snapshot_delete",
            context,
            snapshot.id,
            second_id=snapshot.volume_id,
            host=models.backend_of(snapshot.host or ""),
            cancel_open=True,
        )
        try:
            self._submit(intent)
        except exc.NotFound:
            return True
        except exc.InvalidInput as error:
            LOG.warning("backup %s: its snapshot %s stays: %s", backup.id, snapshot.id, error)
            return False
        return True

    def give_back_leftovers(self) -> None:
        """Have the snapshots deleted that operations left which ended without their handler.

        Such are cancelled by a reset, given up, or too late.  Repeatable; raises ``StoreUnavailable``.
        """
        for backup in self._store.backups_with_leftovers(self._host):
            if self._find_snapshot(backup.temp_snapshot_id) is None:
                self._store.update_backup(backup.id, {"temp_snapshot_id": None})
            elif self.give_back_snapshot(backup):
                LOG.info("backup %s: its temporary snapshot %s is deleted", backup.id, backup.temp_snapshot_id)

    # -- asking a volume daemon --------------------------------------------------------------------

    def _do(self, intent: Intent, control: OperationControl) -> models.Operation:
        """Have an operation done.

        Raises ``VolumeAccessError`` when it fails, ``ServiceDown`` when nobody began it in its time, and what
        ``control`` raises.
        """
        try:
            operation = self._submit(intent)
        except (exc.NotFound, exc.Conflict, exc.InvalidInput) as error:
            raise exc.VolumeAccessError(reason=str(error)) from error
        return self._await(operation, control)

    def _submit(self, intent: Intent) -> models.Operation:
        timeout_s = self._queue_timeout_s()
        deadline = _utcnow() + dt.timedelta(seconds=timeout_s) if timeout_s else None
        (operation,) = self._store.submit(replace(intent, deadline_at=deadline))
        self._doorbell.ring(operation.host or "")
        return operation

    def _await(self, operation: models.Operation, control: OperationControl) -> models.Operation:
        try:
            # One slice first: a daemon that is there has done it by then.
            operation = self._look(operation, control)
            if operation.state == "queued":
                # It may be away for an hour, and other backups are of volumes whose daemon is there.
                with control.aside():
                    operation = self._await_end(operation, control)
            else:
                operation = self._await_end(operation, control)
        except exc.OperationCancelled:
            self._store.request_cancel(operation.id)
            raise
        if operation.state != "done":
            reason = f"{operation.action} of {operation.resource_type} {operation.resource_id}: {operation.error}"
            if operation.error_class == "OperationTimeout":
                raise exc.ServiceDown(host=models.backend_of(operation.host or ""), reason=reason)
            raise exc.VolumeAccessError(reason=reason)
        return operation

    def _await_end(self, operation: models.Operation, control: OperationControl) -> models.Operation:
        pause_s = _FIRST_PAUSE_S
        while operation.is_open:
            if operation.state == "queued":
                control.raise_if_leaving()
            self._give_up_if_late(operation)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            operation = self._look(operation, control)
        return operation

    def _look(self, operation: models.Operation, control: OperationControl) -> models.Operation:
        control.checkpoint(control.operation.progress_done, control.operation.progress_total)
        try:
            self._doorbell.wait_for(operation, WAIT_SLICE_S)
        except exc.ServiceDown as error:
            LOG.debug("operation %s waits: %s", operation.id, error)
        return self._store.get_operation(operation.id)

    def _give_up_if_late(self, operation: models.Operation) -> None:
        """A daemon that is away for good expires nothing, so its side is taken back from here."""
        is_late = operation.deadline_at is not None and operation.deadline_at <= _utcnow()
        if is_late and operation.state == "queued" and self._store.withdraw(operation.id):
            raise exc.ServiceDown(
                host=models.backend_of(operation.host or ""),
                reason=f"it did not begin {operation.action} of {operation.resource_type} {operation.resource_id} in "
                f"{self._queue_timeout_s():.0f} s; is it running?",
            )

    def _await_for(self, operation: models.Operation, timeout_s: float) -> None:
        deadline = self._clock() + timeout_s
        while self._store.get_operation(operation.id).is_open:
            if self._clock() >= deadline:
                LOG.warning("operation %s (%s) is not done yet; it goes on", operation.id, operation.action)
                return
            try:
                self._doorbell.wait_for(operation, WAIT_SLICE_S)
            except exc.ServiceDown as error:
                LOG.info("operation %s (%s) is done later: %s", operation.id, operation.action, error)
                return


def _kind(of: models.Volume | models.Snapshot) -> str:
    return "volume" if isinstance(of, models.Volume) else "snapshot"


def _intent(
    operation: models.Operation,
    action: str,
    resource_id: str,
    host: str | None,
    args: Mapping[str, Any] | None = None,
) -> Intent:
    """What this operation asks in the name of whoever asked for it."""
    context = models.RequestContext(
        user_id=operation.user_id or "", project_id=operation.project_id or "", request_id=operation.request_id or ""
    )
    return Intent(action, context, resource_id, host=models.backend_of(host or ""), args=dict(args or {}))


def _utcnow() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
