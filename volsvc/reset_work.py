"""Resets that ask the storage, as the daemon does them: hold the volume alone, ask, write, or put back.

The record is written only when the storage has done what the new status says, in one transaction
that fails if anything was changed meanwhile.  When it is not written, whatever was severed by then is
exported again, so that record and storage agree either way.  A call that hangs keeps the volume until
it comes back, and what it did is reconciled then.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from volsvc import exceptions as exc
from volsvc import inspection, models
from volsvc.driver_calls import DriverCalls, UseDriver
from volsvc.drivers.base import VolumeDriver
from volsvc.operations import Lease, OperationControl, Result
from volsvc.ports import Clock, Correction, Outcome, Situation, Store
from volsvc.reset_records import written_by
from volsvc.reset_storage import NotDone, StorageReset, inspecting
from volsvc.resets import CAN_NOT_SAY, Plan, plan_of
from volsvc.states import TRANSITIONS

LOG = logging.getLogger(__name__)

INSPECT_LOOKS = 3
STOP_POLL_S = 0.1
STORE_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class ResetSettings:
    """``answer_timeout_s``: how long whoever asked waits (``rpc_response_timeout``); a reset is over well before.
    ``detach_timeout_s``: how long the driver may take over one attachment."""

    answer_timeout_s: float = 60.0
    detach_timeout_s: float = 20.0

    @property
    def total_s(self) -> float:
        return self.answer_timeout_s * 0.8

    @property
    def stop_s(self) -> float:
        """Of it, for what runs on the volume to stop."""
        return self.total_s / 2


class ResetWork:
    """The handlers of one backend; ``alone`` is the runner's."""

    def __init__(
        self,
        *,
        host: str,
        store: Store,
        use_driver: UseDriver[VolumeDriver],
        alone: Callable[[str, OperationControl, float], Lease],
        on_unavailable: Callable[[exc.BackendUnavailable], None],
        settings: Callable[[], ResetSettings],
        clock: Clock = time.monotonic,
    ) -> None:
        self.host = host
        self.store = store
        self.use_driver = use_driver
        self.on_unavailable = on_unavailable
        self.clock = clock
        self._alone = alone
        self._settings = settings
        self._hanging: set[str] = set()  # resources whose inspection has not come back

    @property
    def settings(self) -> ResetSettings:
        return self._settings()

    def reset(self, operation: models.Operation, control: OperationControl) -> Result:
        """Do a reset and write its end, whichever it is.

        Raises what the runner makes a failure of when nothing was asked of the storage yet: ``Conflict``
        when something on the volume does not stop, ``OperationTimeout`` when nobody waits any more.
        """
        settings = self.settings
        deadline = self.clock() + settings.total_s
        is_late = operation.deadline_at is not None and operation.deadline_at <= _utcnow()
        if is_late and operation.attempts <= 1:
            raise exc.OperationTimeout(id=operation.id, reason="whoever asked for it has stopped waiting; ask again")
        stop_by = self.clock() + settings.stop_s
        self._stop_elsewhere(operation, control, stop_by)
        plan = plan_of(operation.resource_type, operation.args)
        lease = self._alone(operation.resource_id, control, max(0.0, stop_by - self.clock()))
        _Reset(self, operation, plan, control, lease, deadline).run(is_given_up=is_late)
        return Result()

    def _stop_elsewhere(self, operation: models.Operation, control: OperationControl, stop_by: float) -> None:
        """Have those stop that own the status and run in another daemon: a backup, a restore.

        Raises ``Conflict`` when one has not stopped in time (it goes on until it looks).
        """
        situation = self.store.look(operation.resource_type, operation.resource_id)
        for other in situation.open_operations:
            second = TRANSITIONS[other.action].second
            if second is None or not second.owns_status or other.second_id != operation.resource_id:
                continue
            self.store.request_cancel(other.id)
            while self.store.get_operation(other.id).is_open:
                control.raise_if_stopping()
                if self.clock() >= stop_by:
                    raise exc.Conflict(
                        reason=f"{operation.resource_id} is held by operation {other.id} ({other.action} of "
                        f"{other.host}), which was asked to stop and has not. Wait for it, or reset with "
                        '"force": "skip", which writes the record without asking anybody'
                    )
                time.sleep(STOP_POLL_S)

    def inspect(self, operation: models.Operation, control: OperationControl) -> Result:
        """Look at record and storage; holds nothing and stops nobody."""
        timeout_s = self.settings.detach_timeout_s
        resource_id = operation.resource_id
        if resource_id in self._hanging:
            # Each would leave another thread with the driver.
            situation = self.store.look(operation.resource_type, resource_id)
            return Result(result=inspection.report(situation, None, "an inspection before this one has not come back"))
        with DriverCalls(self.use_driver, f"inspect-{operation.id[:8]}") as calls:
            for _ in range(INSPECT_LOOKS):
                situation = self.store.look(operation.resource_type, operation.resource_id)
                view, error = self._look(calls, situation, timeout_s)
                again = self.store.look(operation.resource_type, operation.resource_id)
                if inspection.outline(again) == inspection.outline(situation):
                    break
            if calls.is_hanging:
                self._hanging.add(resource_id)
                calls.when_it_ends(lambda driver, error: None, lambda: self._hanging.discard(resource_id))
        return Result(result=inspection.report(again, view, error))

    def _look(
        self, calls: DriverCalls[VolumeDriver], situation: Situation, timeout_s: float
    ) -> tuple[models.StorageView | None, str | None]:
        try:
            return calls.call("inspect", inspecting(situation), timeout_s), None
        except NotImplementedError:
            return None, CAN_NOT_SAY
        except exc.BackendUnavailable as error:
            self.on_unavailable(error)
            return None, exc.describe(error)
        except Exception as error:
            LOG.exception("%s: the storage could not be asked", situation.resource.id)
            return None, exc.describe(error)


class _Reset:
    """One run of one reset, which holds its resource alone."""

    def __init__(
        self,
        work: ResetWork,
        operation: models.Operation,
        plan: Plan,
        control: OperationControl,
        lease: Lease,
        deadline: float,
    ) -> None:
        self._work = work
        self._operation = operation
        self._control = control
        self._lease = lease
        self._plan = plan
        self._calls = DriverCalls(work.use_driver, f"reset-{operation.id[:8]}")
        self._storage = StorageReset(
            operation=operation,
            plan=self._plan,
            backend=work.host.partition("@")[2],
            calls=self._calls,
            call_timeout_s=work.settings.detach_timeout_s,
            deadline=deadline,
            clock=work.clock,
            before_call=control.raise_if_stopping,
            on_unavailable=work.on_unavailable,
        )
        self._is_superseded = False

    def run(self, *, is_given_up: bool) -> None:
        """``is_given_up``: it was cut by the daemon's end and nobody waits any more: only put back."""
        with self._calls:
            try:
                self._run(is_given_up)
            except exc.OperationSuperseded:
                self._is_superseded = True
                raise
            finally:
                if self._calls.is_hanging:
                    # Nobody else may touch the volume's storage beside that call.
                    self._calls.when_it_ends(self._reconcile, self._lease.release)
                else:
                    self._lease.release()

    def _run(self, is_given_up: bool) -> None:
        situation = self._work.store.look(self._operation.resource_type, self._operation.resource_id)
        try:
            if is_given_up:
                self._storage.is_touched = True
                raise NotDone(
                    exc.OperationTimeout(
                        id=self._operation.id,
                        reason="the daemon ended in it and whoever asked stopped waiting; ask again",
                    )
                )
            correction = self._storage.bring(situation)
            self._control.end(Outcome("done", correction=correction, result=self._result(situation, correction)))
        except NotDone as not_done:
            self._fail(not_done.error, situation)
        except exc.Conflict as conflict:
            self._fail(conflict, situation)
        else:
            level = logging.WARNING if self._plan.force else logging.INFO
            forced = f", forced: {self._plan.force}" if self._plan.force else ""
            LOG.log(level, "%s, asked by %s%s", self._words("reset"), self._operation.user_id, forced)

    # -- when it was not done ------------------------------------------------------------------------

    def _fail(self, error: exc.VolsvcError, situation: Situation) -> None:
        LOG.error("%s: %s", self._words("not reset"), error)
        if self._calls.is_hanging:
            error = self._say_what_waits(error)
        elif self._storage.is_touched:
            error = self._put_back(error)
        result = self._result(situation, None)
        self._control.end(Outcome("failed", result=result, error=str(error), error_class=type(error).__name__))

    def _say_what_waits(self, error: exc.VolsvcError) -> exc.VolsvcError:
        """The error of a reset that a hanging call has ended, with what is severed until that comes back."""
        if not self._storage.severed:
            return error
        severed = ", ".join(self._storage.severed)
        return type(error)(
            f"{error} Severed by then: {severed}; exported again when that call comes back, or when the backend is "
            "next initialised."
        )

    def _put_back(self, error: exc.VolsvcError) -> exc.VolsvcError:
        """Have the storage serve what the record says; returns the error with what became of it."""
        step: dict[str, Any] = {"call": "ensure_export", "ok": True}
        severed = ", ".join(self._storage.severed)
        try:
            self._storage.call("ensure_export", self._serve_what_is_recorded)
        except exc.OperationInterrupted:
            raise
        except BaseException as failure:
            LOG.exception("%s: the exports were not put back", self._words("not reset"))
            step |= {"ok": False, "error": exc.describe(failure)}
            words = (
                f"The exports were not put back ({exc.describe(failure)}): until the next reset or initialisation the "
                f"storage serves less than the record says{f'; severed: {severed}' if severed else ''}."
            )
        else:
            words = f"Severed by then, and exported again: {severed}." if severed else ""
        self._storage.steps.append(step)
        return type(error)(f"{error} {words}".strip())

    def _serve_what_is_recorded(self, driver: VolumeDriver) -> None:
        situation = self._look_until_store_answers()
        if isinstance(situation.resource, models.Volume):
            connected = [attachment for attachment in situation.attachments if attachment.needs_export]
            driver.ensure_export(situation.resource, connected)

    def _look_until_store_answers(self) -> Situation:
        """A database that is away must not leave clients cut whose attachment is recorded."""
        while True:
            try:
                return self._work.store.look(self._operation.resource_type, self._operation.resource_id)
            except exc.StoreUnavailable as error:
                self._control.raise_if_stopping()
                LOG.warning("%s: waiting for the database: %s", self._words("not put back yet"), error)
                time.sleep(STORE_PAUSE_S)

    def _reconcile(self, driver: VolumeDriver, error: BaseException | None) -> None:
        """In the thread of a call that came back too late: the record has been decided without it."""
        entry: dict[str, Any] = {"at": _utcnow().isoformat(), "error": None if error is None else exc.describe(error)}
        if self._storage.is_touched and not self._is_superseded:
            try:
                self._serve_what_is_recorded(driver)
                entry["reconciled"] = "the storage serves what the record says"
            except BaseException as failure:
                LOG.exception("%s: its late end was not reconciled", self._words("reset"))
                entry["reconciled"] = f"no: {exc.describe(failure)}"
        LOG.warning("%s: the driver came back late: %s", self._words("reset"), entry)
        self._work.store.append_result(self._operation.id, "late", entry)

    # -- words and records -----------------------------------------------------------------------------

    def _words(self, what: str) -> str:
        plan = self._plan
        target = plan.status or plan.attach_status or plan.migration_status
        return (
            f"{self._operation.resource_type} {self._operation.resource_id} {what} to {target} "
            f"(operation {self._operation.id})"
        )

    def _result(self, situation: Situation, correction: Correction | None) -> dict[str, Any]:
        """What the operation keeps; the store adds what was cancelled."""
        view = self._storage.view
        return {
            **({} if self._plan.force is None else {"forced": str(self._plan.force)}),
            "calls": self._storage.steps,
            "storage": None if view is None else inspection.view_as_json(view),
            "written": None if correction is None else written_by(situation, correction),
        }


def _utcnow() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
