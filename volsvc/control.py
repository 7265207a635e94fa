"""What the host's admin asks of a running daemon through the database: reinit, reload, and what it runs on.

Such requests are operations on a service's row, recorded under ``control:HOST@BACKEND`` so that
they are done while the backend itself can do nothing.  One runner serves all the backends of a
process; nobody rings for these, so it looks often.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from volsvc import exceptions as exc
from volsvc import models
from volsvc.operations import Handler, OperationControl, OperationRunner, Result, RunnerSettings
from volsvc.ports import Intent, Store

if TYPE_CHECKING:
    from volsvc.driver_manager import DriverManager

LOOK_INTERVAL_S = 0.5
ANSWER_POLL_S = 0.05


def control_host(host: str) -> str:
    """The name under which requests to the daemon of ``host@backend`` are recorded."""
    return f"control:{host}"


def reinit_intent(context: models.RequestContext, host: str) -> Intent:
    """Ask the daemon of ``host@backend`` to try its driver now."""
    return Intent("service_reinit", context, host, host=control_host(host))


def reload_intent(context: models.RequestContext, host: str) -> Intent:
    """Ask the daemon that serves ``host@backend`` to reload, as SIGHUP would."""
    return Intent("service_reload", context, host, host=control_host(host))


def describe_intent(context: models.RequestContext, host: str, salt: str) -> Intent:
    """Ask the daemon that serves ``host@backend`` which settings it runs on, secrets as digests with ``salt``."""
    return Intent("service_describe", context, host, host=control_host(host), args={"salt": salt})


class ProcessRequests(Protocol):
    """What the process as a whole can be asked; ``service.VolsvcService`` answers."""

    def reload_now(self) -> Mapping[str, Any]:
        """Reload through the main loop and wait for its end; ``error`` says why it was refused."""

    def describe_settings(self, salt: str) -> Mapping[str, Any]:
        """``[group] name`` → value of every option that serves now."""


class ControlRunner:
    """Does what is asked of the daemon of these managers (by ``host@backend``).

    ``process`` is put in place before ``start``.
    """

    def __init__(self, store: Store, instance: str, managers: Mapping[str, DriverManager[Any, Any, Any]]) -> None:
        self._managers = managers
        self.process: ProcessRequests | None = None
        self._handlers: dict[str, Handler] = {
            "service_reinit": self._reinit,
            "service_reload": self._reload,
            "service_describe": self._describe,
        }
        self._runner = OperationRunner(
            host="control",
            claim_hosts=lambda: [control_host(host) for host in list(managers)],
            instance=instance,
            store=store,
            find_handler=self._handlers.get,
            settings=RunnerSettings(workers=2, sweep_interval_s=LOOK_INTERVAL_S),
        )

    def start(self) -> None:
        self._runner.take_back()
        self._runner.start()

    def stop_claiming(self) -> None:
        self._runner.stop_claiming()

    def stop(self, timeout_s: float) -> None:
        self._runner.stop(timeout_s)

    def _reinit(self, operation: models.Operation, control: OperationControl) -> Result:
        """Have the backend try now, and answer with how that ended.

        A driver that hangs ends the wait: its state says since when.
        """
        manager = self._managers[operation.resource_id]
        before = manager.initializer.status
        if not manager.initializer.is_ready:
            manager.reinit()
            while manager.initializer.is_asked and manager.initializer.status.hanging_since is None:
                control.checkpoint(0, 0)
                time.sleep(ANSWER_POLL_S)
        status = manager.initializer.status
        if not manager.initializer.is_ready:
            raise exc.ServiceDown(host=manager.host, reason=manager.describe())
        return Result(result={"state": str(status.state), "attempts": before.attempts})

    def _reload(self, operation: models.Operation, control: OperationControl) -> Result:
        outcome = self._require_process().reload_now()
        if outcome.get("error"):
            raise exc.ConfigurationError(reason=str(outcome["error"]))
        return Result(result=outcome)

    def _describe(self, operation: models.Operation, control: OperationControl) -> Result:
        return Result(result=self._require_process().describe_settings(str(operation.args.get("salt", ""))))

    def _require_process(self) -> ProcessRequests:
        if self.process is None:
            raise exc.OperationFailed(id="", reason="this daemon can't be asked for it")
        return self.process
