"""Notifications of backups: that one starts, how far it is, how it ends."""

from __future__ import annotations

from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers.base import Work
from volsvc.ports import Notifier

PROGRESS_STEPS = 10


class BackupEvents:
    """``backup.create.start``, ``.progress``, ``.end``, ``.error``, and the same for restore and delete.

    An operation that goes on after it was cut starts again; its attempt says so.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    def start(self, verb: str, operation: models.Operation, backup: models.Backup) -> None:
        self._notifier.info(f"backup.{verb}.start", _payload(operation, backup))

    def progress(self, verb: str, operation: models.Operation, backup: models.Backup, percent: int) -> None:
        self._notifier.info(f"backup.{verb}.progress", {**_payload(operation, backup), "progress": percent})

    def end(self, verb: str, operation: models.Operation, backup: models.Backup) -> None:
        self._notifier.info(f"backup.{verb}.end", _payload(operation, backup))

    def error(self, verb: str, operation: models.Operation, backup: models.Backup, error: BaseException) -> None:
        payload = {**_payload(operation, backup), "fail_reason": exc.describe(error)}
        self._notifier.error(f"backup.{verb}.error", payload)


class ReportingWork:
    """A ``Work`` that also notifies of every tenth that is done."""

    def __init__(
        self, verb: str, operation: models.Operation, backup: models.Backup, work: Work, events: BackupEvents
    ) -> None:
        self._verb = verb
        self._operation = operation
        self._backup = backup
        self._work = work
        self._events = events
        self._step = 0

    def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
        self._work.checkpoint(done_bytes, total_bytes)
        step = done_bytes * PROGRESS_STEPS // total_bytes if total_bytes else 0
        if step > self._step and step < PROGRESS_STEPS:
            percent = step * 100 // PROGRESS_STEPS
            self._events.progress(self._verb, self._operation, self._backup, percent)
        self._step = max(step, self._step)


def _payload(operation: models.Operation, backup: models.Backup) -> dict[str, Any]:
    """No secrets, and nothing that a user wrote but the name."""
    return {
        "backup_id": backup.id,
        "volume_id": backup.volume_id,
        "target_volume_id": operation.second_id if operation.action.startswith("backup_restore") else None,
        "snapshot_id": backup.snapshot_id,
        "display_name": backup.name,
        "project_id": backup.project_id,
        "user_id": backup.user_id,
        "size": backup.size_gb,
        "host": backup.host,
        "operation_id": operation.id,
        "attempt": operation.attempts,
        "request_id": operation.request_id,
    }
