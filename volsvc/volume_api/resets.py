"""Requests to reset a status, and to look at what record and storage say.

What needs no daemon is written here in one transaction.  The rest waits for the daemon, and is taken
back when it doesn't come: nothing may be severed after whoever asked has gone.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from typing import Any

from volsvc import exceptions as exc
from volsvc import inspection, models, reset_records, resets
from volsvc.ports import Intent, Query, Situation
from volsvc.resets import Plan
from volsvc.volume_api import backup_daemons
from volsvc.volume_api.base import LOG, RequestBase

WAIT_SLICE_S = 2.0  # between two looks whether the daemon is still there
# Operations in whose result stands what the storage said.
_LOOKS = ("volume_reset", "snapshot_reset", "backup_reset", "volume_inspect")
_SKIP = (
    'The request was taken back, the record was not changed. With "force": "skip" it is written without asking '
    "the storage."
)
_BEGUN = (
    "its daemon stopped in the middle of it; clients that it had severed are served again when the daemon has started"
)


class ResetRequests(RequestBase):
    def reset_status(
        self,
        context: models.RequestContext,
        volume_id: str,
        *,
        status: str | None = None,
        attach_status: str | None = None,
        migration_status: str | None = None,
        force: str | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any] | None:
        """Reset a volume as the table in ``resets`` says; with ``dry_run`` return what would be done instead.

        Raises ``InvalidInput``, ``VolumeNotFound``, ``Conflict`` (without attachments it can't be in use; somebody
        changed it meanwhile; something on it doesn't stop), ``ResetFailed`` and ``DetachNotSupported`` (the record
        is untouched), ``ServiceDown`` and ``OperationTimeout``.
        """
        plan = resets.plan_volume(status, attach_status, migration_status, force)
        self._get_volume(context, volume_id)
        situation = self._store.look("volume", volume_id)
        if plan.needs_attachments and not reset_records.connectable(situation.attachments):
            raise reset_records.nothing_to_connect(volume_id)
        if dry_run:
            return self._describe(plan, situation, self.inspect(context, volume_id))
        self._reset("volume_reset", context, plan, situation, situation.resource.host)
        return None

    def reset_snapshot_status(
        self,
        context: models.RequestContext,
        snapshot_id: str,
        *,
        status: str | None = None,
        force: str | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any] | None:
        """Reset a snapshot; raises as ``reset_status`` does."""
        plan = resets.plan_snapshot(status, force)
        self._get_snapshot(context, snapshot_id)
        situation = self._store.look("snapshot", snapshot_id)
        if dry_run:
            return self._describe(plan, situation, inspection.report(situation, None))
        self._reset("snapshot_reset", context, plan, situation, situation.resource.host)
        return None

    def reset_backup_status(
        self,
        context: models.RequestContext,
        backup_id: str,
        *,
        status: str | None = None,
        force: str | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any] | None:
        """Reset a backup; raises as ``reset_status`` does.  Any daemon that has the backup's store will do."""
        plan = resets.plan_backup(status, force)
        backup = self._get_backup(context, backup_id)
        situation = self._store.look("backup", backup_id)
        if dry_run:
            return self._describe(plan, situation, inspection.report(situation, None))
        host = backup.host
        if plan.needs_daemon:
            host = self._find_daemon(backup)
        self._reset("backup_reset", context, plan, situation, host)
        return None

    def inspect(self, context: models.RequestContext, volume_id: str) -> dict[str, Any]:
        """What record, attachments and storage each say; see ``inspection.report``.

        A backend that can't be asked is an answer too: ``storage`` is None and ``storage_error`` says why.
        """
        volume = self._get_volume(context, volume_id)
        intent = Intent(
            "volume_inspect", context, volume_id, host=models.backend_of(volume.host or ""), deadline_at=self._soon()
        )
        try:
            return dict(self._ask(volume.host, lambda: self._submit(intent, rings=False)[0]).result)
        except (exc.ServiceDown, exc.OperationTimeout, exc.BackendBusy) as error:
            return inspection.report(self._store.look("volume", volume_id), None, exc.describe(error))

    # -- doing ---------------------------------------------------------------------------------

    def _find_daemon(self, backup: models.Backup) -> str:
        try:
            return backup_daemons.find_for_backup(self._store.list_services(), backup).host
        except exc.ServiceDown as error:
            raise exc.ServiceDown(f"{error}. {_SKIP}") from error

    def _reset(
        self, action: str, context: models.RequestContext, plan: Plan, situation: Situation, host: str | None
    ) -> None:
        intent = Intent(
            action,
            context,
            situation.resource.id,
            host=models.backend_of(host or ""),
            args=plan.arguments(),
            deadline_at=self._soon(),
        )
        if not plan.needs_daemon:
            self._write(intent, plan, situation)
            return
        try:
            self._ask(host, lambda: self._submit(intent, rings=False)[0])
        except exc.ServiceDown as error:
            raise exc.ServiceDown(f"{str(error).rstrip('.;')}. {_SKIP}") from error

    def _write(self, intent: Intent, plan: Plan, situation: Situation) -> None:
        """The record alone: in one transaction, whatever runs finds itself superseded."""
        correction = reset_records.correction_of(plan, situation)
        result: dict[str, Any] = {"calls": [], "written": reset_records.written_by(situation, correction)}
        if plan.force is not None:
            result["forced"] = str(plan.force)
            result["storage_last_said"] = self._last_said(situation.resource.id)
            result["attachments_before"] = inspection.report(situation, None)["attachments"]
        operation, cancelled = self._store.correct(intent, correction, result)
        LOG.warning(
            "%s: reset to %s without asking the storage, by %s (operation %s)%s%s",
            situation.resource.id,
            plan.status or plan.attach_status or plan.migration_status,
            intent.context.user_id,
            operation.id,
            f", forced: {plan.force}" if plan.force else "",
            f", cancelled: {', '.join(cancelled)}" if cancelled else "",
        )

    def _last_said(self, resource_id: str) -> dict[str, Any] | None:
        """What the storage said when it was asked last, and when; None if it never was, or too long ago."""
        query = Query(
            filters={"resource_id": resource_id, "action": _LOOKS},
            sort=(("seq", "desc"),),
            limit=20,
        )
        for operation in self._store.list_operations(query).items:
            storage = operation.result.get("storage")
            if storage:
                at = operation.finished_at.isoformat() if operation.finished_at else None
                return {"operation": operation.id, "at": at, **storage}
        return None

    # -- waiting --------------------------------------------------------------------------------

    def _soon(self) -> dt.datetime:
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        return now + dt.timedelta(seconds=self._settings.response_timeout_s)

    def _ask(self, host: str | None, submit: Callable[[], models.Operation]) -> models.Operation:
        """Record and wait for the end, for as long as the daemon is there; what has not begun then is taken back."""
        self._require_up(host)
        with self._waiting_room.place("reset", models.backend_of(host or ""), self._settings.max_waiting):
            operation = submit()
            return self._await_present(operation, host or "")

    def _await_present(self, operation: models.Operation, host: str) -> models.Operation:
        deadline = self._clock() + self._settings.response_timeout_s
        pause_s = 0.01
        while True:
            slice_end = min(deadline, self._clock() + WAIT_SLICE_S)
            down = self._ring_and_wait(operation, slice_end)
            current = self._store.get_operation(operation.id)
            if not current.is_open:
                return self._checked(current)
            is_over = self._clock() >= deadline
            down = down or self._find_down(host)
            if (down or is_over) and self._store.withdraw(operation.id):
                if current.claim_epoch:
                    raise exc.ServiceDown(host=models.backend_of(host), reason=_BEGUN)
                raise down or exc.ServiceDown(
                    host=models.backend_of(host),
                    reason=f"it did not begin within {self._settings.response_timeout_s:.0f} s",
                )
            if is_over:
                raise exc.OperationTimeout(
                    id=operation.id,
                    reason="it runs and goes on, or is finished when the daemon comes back; look at it with "
                    f"'volsvc operation show {operation.id}'",
                )
            # A doorbell that doesn't know comes back at once.
            time.sleep(max(0.0, min(pause_s, slice_end - self._clock())))
            pause_s = min(pause_s * 2, 0.5)

    def _find_down(self, host: str) -> exc.ServiceDown | None:
        try:
            self._require_up(host)
        except exc.ServiceDown as error:
            return error
        return None

    # -- saying what would be done ------------------------------------------------------------------

    def _describe(self, plan: Plan, situation: Situation, report: dict[str, Any]) -> dict[str, Any]:
        """The steps of a reset in their order, from what record and storage say now."""
        down = self._find_refusal(situation) if plan.needs_daemon else None
        if down is not None:
            steps = [{"step": "refused", "reason": exc.describe(down)}]
        elif plan.needs_daemon:
            steps = reset_records.planned_steps(plan, situation, report)
        else:
            steps = reset_records.planned_writes(plan, situation)
        return {"steps": steps, "inspection": report}

    def _find_refusal(self, situation: Situation) -> exc.ServiceDown | None:
        resource = situation.resource
        if not isinstance(resource, models.Backup):
            return self._find_down(resource.host or "")
        try:
            backup_daemons.find_for_backup(self._store.list_services(), resource)
        except exc.ServiceDown as error:
            return error
        return None
