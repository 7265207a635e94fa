"""Resetting a backup's status: for 'available' the store is asked first whether it is there and whole."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.backup.drivers.base import BackupDriver
from volsvc.driver_calls import DriverCalls
from volsvc.operations import Lease, OperationControl, Result
from volsvc.ports import Correction, Outcome, Store
from volsvc.resets import Force, plan_of

LOG = logging.getLogger(__name__)


class BackupReset:
    """The handler of ``backup_reset``.  ``alone`` is the runner's; ``stop_s``: how long what runs may take to stop.
    ``store_s``: how long the store may take to answer; both together are less than whoever asked waits."""

    def __init__(
        self,
        *,
        store: Store,
        use_driver: Callable[[], AbstractContextManager[BackupDriver]],
        alone: Callable[[str, OperationControl, float], Lease],
        on_unavailable: Callable[[exc.BackendUnavailable], None],
        stop_s: Callable[[], float],
        store_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._use_driver = use_driver
        self._alone = alone
        self._on_unavailable = on_unavailable
        self._stop_s = stop_s
        self._store_s = store_s

    def reset(self, operation: models.Operation, control: OperationControl) -> Result:
        """Have what runs on the backup stop, ask the store, write the status, all or nothing.

        Raises ``ResetFailed`` and ``Conflict``; then the record is as it was.
        """
        plan = plan_of(operation.resource_type, operation.args)
        lease = self._alone(operation.resource_id, control, self._stop_s())
        calls = DriverCalls(self._use_driver, f"reset-{operation.id[:8]}")
        try:
            situation = self._store.look("backup", operation.resource_id)
            columns: dict[str, Any] = {}
            step: dict[str, Any] = {"call": "check_backup", "ok": True}
            try:
                columns = calls.call(
                    "the store", lambda driver: _ask_store(driver, operation.resource_id), self._store_s()
                )
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
            with calls:
                if calls.is_hanging:
                    # Held until then, so that asking again doesn't leave another thread with the store.
                    calls.when_it_ends(lambda _, error: self._note_late(operation, error), lease.release)
                else:
                    lease.release()
        return Result()

    def _note_late(self, operation: models.Operation, error: BaseException | None) -> None:
        entry = {
            "at": dt.datetime.now(dt.UTC).replace(tzinfo=None).isoformat(),
            "error": None if error is None else exc.describe(error),
        }
        LOG.warning("reset %s of backup %s: the store came back late: %s", operation.id, operation.resource_id, entry)
        self._store.append_result(operation.id, "late", entry)


def _ask_store(driver: BackupDriver, backup_id: str) -> dict[str, Any]:
    """What the store says of a backup that is whole there."""
    from volsvc.backup.engine.verify import check_backup
    from volsvc.backup.work import columns_of

    root = check_backup(driver, backup_id)
    return {**columns_of(root), "is_stored": True, "store_uuid": driver.identity, "fail_reason": None}
