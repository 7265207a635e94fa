"""What a reset asks of the storage: look, sever or connect, look again; each call bounded, each result kept.

``NotDone`` ends it when the storage is not brought to what the record is to say.  With ``force: ignore``
nothing does: then failures are only kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from volsvc import exceptions as exc
from volsvc import models
from volsvc.driver_calls import DriverCalls
from volsvc.drivers.base import VolumeDriver
from volsvc.ports import Clock, Correction, Situation
from volsvc.reset_records import attached_columns, connectable, grown_columns, nothing_to_connect, why_too_small
from volsvc.resets import Ask, Fate, Force, Plan

LOG = logging.getLogger(__name__)

T = TypeVar("T")

LEAST_CALL_S = 0.5


class NotDone(Exception):
    """The storage did not do it; ``error`` is what whoever asked gets."""

    def __init__(self, error: exc.VolsvcError) -> None:
        super().__init__(str(error))
        self.error = error


class StorageReset:
    """The storage's part of one reset.

    ``call_timeout_s`` bounds each call, ``deadline`` (of ``clock``) all of them; ``before_call`` may raise
    to stop.  ``steps`` has each call with its result, ``view`` what the storage said last, and
    ``is_touched`` says whether exports may differ from the record now.
    """

    def __init__(
        self,
        *,
        operation: models.Operation,
        plan: Plan,
        backend: str,
        calls: DriverCalls[VolumeDriver],
        call_timeout_s: float,
        deadline: float,
        clock: Clock,
        before_call: Callable[[], None],
        on_unavailable: Callable[[exc.BackendUnavailable], None],
    ) -> None:
        self.steps: list[dict[str, Any]] = []
        self.view: models.StorageView | None = None
        self.is_touched = False
        self._operation = operation
        self._plan = plan
        self._backend = backend
        self._calls = calls
        self._call_timeout_s = call_timeout_s
        self._deadline = deadline
        self._clock = clock
        self._before_call = before_call
        self._on_unavailable = on_unavailable

    @property
    def severed(self) -> list[str]:
        return [step["attachment_id"] for step in self.steps if step["call"] == "detach_volume" and step["ok"]]

    def bring(self, situation: Situation) -> Correction:
        """Bring the storage to the plan, and return what is to be written then.  Raises ``NotDone``."""
        resource = situation.resource
        self.view = self._look(situation)
        if self.view is not None and not self.view.exists:
            self._object(f"the storage has no {self._operation.resource_type} {resource.id}; reset it to 'error'")
        columns: dict[str, Any] = {}
        attachments: dict[str, dict[str, Any]] = {}
        if isinstance(resource, models.Volume):
            columns = self._size_columns(resource)
            if self._plan.asks is Ask.SEVER:
                self._sever(resource, situation.attachments)
            else:
                attachments = self._connect(resource, situation.attachments)
        return Correction(
            status=self._plan.status,
            attach_status=self._plan.attach_status,
            migration_status=self._plan.migration_status,
            columns=columns,
            deletes_attachments=self._plan.attachments is Fate.DELETED,
            attachments=attachments,
            seen=situation,
        )

    def call(self, name: str, method: Callable[[VolumeDriver], T]) -> T:
        """One bounded call; raises what the driver raises, ``DriverHangs`` among it."""
        self._before_call()
        remaining = self._deadline - self._clock()
        return self._calls.call(name, method, max(LEAST_CALL_S, min(self._call_timeout_s, remaining)))

    # -- looking -----------------------------------------------------------------------------

    def _look(self, situation: Situation) -> models.StorageView | None:
        """None when the driver can't say."""
        try:
            return self.call("inspect", inspecting(situation))
        except NotImplementedError:
            return None
        except BaseException as error:  # noqa: BLE001 - a driver's error of any kind is judged and kept
            self._judge("inspect", error)
            self.steps.append({"call": "inspect", "ok": False, "error": exc.describe(error)})
            return None

    def _size_columns(self, volume: models.Volume) -> dict[str, Any]:
        """Before any client is cut: a volume that is too small is refused."""
        if self.view is None or not self.view.exists:
            return {}
        if wrong := why_too_small(volume, self.view.size_bytes):
            self._object(wrong)
        return grown_columns(volume, self.view.size_bytes)

    # -- severing and connecting -----------------------------------------------------------------

    def _sever(self, volume: models.Volume, attachments: Sequence[models.Attachment]) -> None:
        recorded = {attachment.id for attachment in attachments}
        unknown = [
            models.Attachment(export, volume.id, "attached", volume.project_id)
            for export in (self.view.exports if self.view else ())
            if export not in recorded
        ]
        for attachment in [*attachments, *unknown]:

            def detach(driver: VolumeDriver, attachment: models.Attachment = attachment) -> None:
                driver.detach_volume(volume, attachment)

            self._step("detach_volume", attachment, detach)
        if self.view is not None and (self.view.exports or self.view.clients):
            self._require_severed(Situation(volume))

    def _require_severed(self, situation: Situation) -> None:
        """The driver's word is one thing, what the storage serves afterwards another."""
        after = self._look(situation)
        if after is None:
            return
        self.view = after
        if after.exports or after.clients:
            who = ", ".join(after.clients or after.exports)
            self._object(f"the driver said that everything is severed, and the storage still serves {who}")

    def _connect(self, volume: models.Volume, attachments: Sequence[models.Attachment]) -> dict[str, dict[str, Any]]:
        wanted = connectable(attachments)
        if not wanted:
            raise NotDone(nothing_to_connect(volume.id))
        written: dict[str, dict[str, Any]] = {}
        for attachment in wanted:

            def connect(driver: VolumeDriver, attachment: models.Attachment = attachment) -> dict[str, Any]:
                return dict(driver.initialize_connection(volume, attachment))

            info = self._step("initialize_connection", attachment, connect)
            written[attachment.id] = attached_columns(attachment)
            if info is not None:
                written[attachment.id]["connection_info"] = info
        return written

    # -- calls and what they mean -------------------------------------------------------------------

    def _step(self, name: str, attachment: models.Attachment, method: Callable[[VolumeDriver], T]) -> T | None:
        """One call about one attachment, its result kept; None when it failed and that is ignored."""
        started = self._clock()
        was_touched, self.is_touched = self.is_touched, True
        step: dict[str, Any] = {"call": name, "attachment_id": attachment.id, "host": attachment.attached_host}
        self.steps.append(step | {"ok": False})
        try:
            result = self.call(name, method)
        except BaseException as error:  # noqa: BLE001 - a driver's error of any kind is judged and kept
            step |= {"ok": False, "error": exc.describe(error)}
            if isinstance(error, NotImplementedError):
                self.is_touched = was_touched
            self._judge(name, error)
            return None
        else:
            step["ok"] = True
            return result
        finally:
            self.steps[-1] = step | {"took_s": round(self._clock() - started, 3)}

    def _judge(self, name: str, error: BaseException) -> None:
        """Raise ``NotDone`` for a failed call, unless it is to be ignored; an interruption is passed on."""
        if isinstance(error, exc.OperationInterrupted):
            raise error
        if isinstance(error, exc.BackendUnavailable):
            self._on_unavailable(error)
        elif not isinstance(error, exc.VolsvcError | NotImplementedError):
            LOG.error("reset %s: %s failed", self._operation.id, name, exc_info=error)
        if self._plan.force is Force.IGNORE:
            LOG.warning("reset %s goes on, as asked, although %s failed: %s", self._operation.id, name, error)
        elif isinstance(error, NotImplementedError):
            ability = "sever connections" if name == "detach_volume" else name.replace("_", " ")
            raise NotDone(exc.DetachNotSupported(**self._names(), backend=self._backend, ability=ability)) from error
        else:
            reason = f"{name} failed: {exc.describe(error)}"
            raise NotDone(exc.ResetFailed(**self._names(), reason=reason)) from error

    def _object(self, reason: str) -> None:
        """The storage is not as it has to be: the end, unless that is to be ignored."""
        if self._plan.force is not Force.IGNORE:
            raise NotDone(exc.ResetFailed(**self._names(), reason=reason))
        self.steps.append({"call": "check", "ok": False, "error": reason})
        LOG.warning("reset %s goes on, as asked, although %s", self._operation.id, reason)

    def _names(self) -> dict[str, str]:
        return {"resource": self._operation.resource_type.capitalize(), "id": self._operation.resource_id}


def inspecting(situation: Situation) -> Callable[[VolumeDriver], models.StorageView]:
    """The call that asks a driver about a situation's resource."""
    resource = situation.resource
    if isinstance(resource, models.Snapshot):
        snapshot: models.Snapshot = resource
        return lambda driver: driver.inspect_snapshot(snapshot)
    if isinstance(resource, models.Backup):
        raise ValueError("a volume driver knows no backups")
    volume: models.Volume = resource
    return lambda driver: driver.inspect_volume(volume)
