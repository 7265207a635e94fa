"""Resetting a backup's status: for 'available' the store is asked first whether it is there and whole."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.backup.drivers.base import BackupDriver
from volsvc.operations import Lease, OperationControl, Result
from volsvc.ports import Correction, Outcome, Situation, Store
from volsvc.resets import Force, plan_of

LOG = logging.getLogger(__name__)


class BackupReset:
    """The handler of ``backup_reset``.  ``alone`` is the runner's; ``stop_s``: how long what runs may take to stop."""

    def __init__(
        self,
        *,
        store: Store,
        use_driver: Callable[[], AbstractContextManager[BackupDriver]],
        alone: Callable[[str, OperationControl, float], Lease],
        on_unavailable: Callable[[exc.BackendUnavailable], None],
        stop_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._use_driver = use_driver
        self._alone = alone
        self._on_unavailable = on_unavailable
        self._stop_s = stop_s

    def reset(self, operation: models.Operation, control: OperationControl) -> Result:
        """Have what runs on the backup stop, ask the store, write the status, all or nothing.

        Raises ``ResetFailed`` and ``Conflict``; then the record is as it was.
        """
        plan = plan_of(operation.resource_type, operation.args)
        lease = self._alone(operation.resource_id, control, self._stop_s())
        try:
            situation = self._store.look("backup", operation.resource_id)
            columns: dict[str, Any] = {}
            step: dict[str, Any] = {"call": "check_backup", "ok": True}
            try:
                columns = self._ask_store(operation.resource_id, situation)
            except (exc.OperationInterrupted, exc.StoreUnavailable):
                raise
            except Exception as error:
                if isinstance(error, exc.BackendUnavailable):
                    self._on_unavailable(error)
                if plan.force is not Force.IGNORE:
                    raise exc.ResetFailed(
                        resource="Backup", id=operation.resource_id, reason=exc.describe(error).rstrip(".")
                    ) from error
                LOG.exception("reset %s of backup %s goes on, as asked", operation.id, operation.resource_id)
                step |= {"ok": False, "error": exc.describe(error)}
            correction = Correction(status=plan.status, columns=columns, seen=situation)
            result = {"calls": [step], "written": {"status": plan.status, **columns}}
            control.end(Outcome("done", correction=correction, result=result))
        finally:
            lease.release()
        return Result()

    def _ask_store(self, backup_id: str, situation: Situation) -> dict[str, Any]:
        """What the store says of a backup that is whole there."""
        from volsvc.backup.engine.verify import check_backup
        from volsvc.backup.work import columns_of

        with self._use_driver() as driver:
            root = check_backup(driver, backup_id)
            return {**columns_of(root), "is_stored": True, "store_uuid": driver.identity, "fail_reason": None}
