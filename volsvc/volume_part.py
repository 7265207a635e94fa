"""The volume managers of a process: one for each backend it serves, added and removed by a reload."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from volsvc import __version__
from volsvc import exceptions as exc
from volsvc.control import ControlRunner, ProcessRequests
from volsvc.driver_loader import load_driver
from volsvc.foundations import Foundations
from volsvc.heartbeat import Heartbeat
from volsvc.manager import BlueprintLoader, ManagerSettings, VolumeManager
from volsvc.manager_reload import BackendChange, prepare_backend
from volsvc.operations import RunnerSettings
from volsvc.process_lock import ProcessLock
from volsvc.reloader import Change, ReloadReport, Tick, wait_with_ticks
from volsvc.reset_work import ResetSettings
from volsvc.rpc.doorbell import DoorbellServer
from volsvc.settings import BackendSettings, Settings

LOG = logging.getLogger(__name__)

#: Options of [DEFAULT] that a manager is built from.
MANAGER_OPTIONS = (
    "reinit_driver_count",
    "driver_init_timeout",
    "backend_stats_polling_interval",
    "backend_loss_threshold",
    "storage_availability_zone",
    "operation_workers",
    "operation_sweep_interval",
    "operation_max_attempts",
    "rpc_response_timeout",
    "reset_detach_timeout",
)

ReloadRequest = Callable[[Any], ReloadReport]


class ServedBackend:
    """A manager with what makes it reachable and what keeps others off: doorbell server and lock."""

    def __init__(self, foundations: Foundations, settings: Settings, backend: BackendSettings) -> None:
        self.host = f"{settings.host}@{backend.name}"
        self.backend = backend
        self._foundations = foundations
        self._lock = ProcessLock(os.path.join(settings.service.state_path, "locks"), self.host)
        self._server: DoorbellServer | None = None
        self.manager = VolumeManager(
            host=self.host,
            instance=foundations.instance,
            store=foundations.store,
            notifier=foundations.notifier,
            load_blueprint=blueprint_loader(settings, backend),
            settings=manager_settings(settings, backend),
        )

    def lock(self) -> None:
        """Raises ``AlreadyRunning``."""
        self._lock.acquire()

    def start(self) -> None:
        self._server = self.build_server(self._foundations.messaging.transport)
        self._foundations.doorbell.register(self.host, self.manager.runner)
        self.manager.start()

    def build_server(self, transport: Any) -> DoorbellServer:
        server = DoorbellServer(transport, self.host, self.manager.runner)
        server.start()
        return server

    def swap_server(self, server: DoorbellServer) -> DoorbellServer | None:
        """Put another doorbell server in place and return the one before, still running."""
        before, self._server = self._server, server
        return before

    def stop(self, timeout_s: float) -> None:
        self.manager.stop(timeout_s)

    def leave(self) -> None:
        """After ``stop``: not reachable any more, and free for another daemon."""
        self._foundations.doorbell.unregister(self.host)
        if self._server is not None:
            self._server.stop()
        self._lock.release()


class VolumePart:
    """Serves backends; ``only`` names the one that ``--backend`` asks for."""

    name = "volume"

    def __init__(self, foundations: Foundations, only: str | None = None) -> None:
        settings = foundations.settings
        self._foundations = foundations
        self._only = only
        self._served: dict[str, ServedBackend] = {}
        for backend in self._wanted(settings):
            served = ServedBackend(foundations, settings, backend)
            self._served[served.host] = served
        self._managers = {host: served.manager for host, served in self._served.items()}
        self._heartbeat = Heartbeat(
            foundations.store,
            lambda: [m.service_id for m in list(self._managers.values()) if m.service_id is not None],
            interval_s=settings.service.report_interval,
            retention_days=settings.service.operation_retention_days,
            on_beat=self._report_late,
        )
        self._control = ControlRunner(foundations.store, foundations.instance, self._managers)

    def _wanted(self, settings: Settings) -> Sequence[BackendSettings]:
        return [settings.backend(self._only)] if self._only else settings.backends

    def attach(self, process: ProcessRequests) -> None:
        self._control.process = process

    # -- life ------------------------------------------------------------------------

    def start(self) -> None:
        """Take the locks first: nothing of another daemon's is touched before they are ours."""
        for served in self._served.values():
            served.lock()
        for served in self._served.values():
            served.start()
        self._heartbeat.start()
        self._control.start()

    def stop_accepting(self) -> None:
        self._control.stop_claiming()
        for manager in list(self._managers.values()):
            manager.runner.stop_claiming()

    def stop(self, timeout_s: float) -> None:
        """Every backend at the same time, so that a slow one does not use up another's time."""
        threads = [
            threading.Thread(target=served.stop, args=(timeout_s,), name=f"stop-{served.host}", daemon=True)
            for served in self._served.values()
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        self._control.stop(1.0)
        self._heartbeat.stop()
        for served in self._served.values():
            served.leave()

    def _report_late(self) -> None:
        for manager in list(self._managers.values()):
            manager.row.write_late()

    def look_for_work(self) -> None:
        """After a swap: what nobody could ring for is found now."""
        for manager in list(self._managers.values()):
            manager.runner.ring()

    def report_config(self, settings: Settings, report: ReloadReport | None) -> None:
        """Write on each service's row which configuration it runs, and why a newer one was refused."""
        fields: dict[str, Any] = {"config_error": report.error if report else None}
        if report is None or report.error is None:
            fields["config_digest"] = settings.digest
            fields["config_loaded_at"] = settings.loaded_at
        for manager in list(self._managers.values()):
            manager.row.try_to_write(fields, "which configuration it runs")

    # -- reload -----------------------------------------------------------------------

    def prepare(self, new: Settings, tick: Tick) -> Sequence[Change]:
        changes: list[Change] = []
        try:
            self._prepare(new, tick, changes)
        except BaseException:
            for change in reversed(changes):
                change.discard()
            raise
        return changes

    def _prepare(self, new: Settings, tick: Tick, changes: list[Change]) -> None:
        def wait(event: threading.Event, timeout_s: float) -> bool:
            return wait_with_ticks(event, timeout_s, tick)

        current = self._foundations.settings
        wanted = {f"{new.host}@{backend.name}": backend for backend in self._wanted(new)}
        numbers = [f"[DEFAULT] {name}" for name in MANAGER_OPTIONS if current.service[name] != new.service[name]]
        for host, backend in wanted.items():
            served = self._served.get(host)
            if served is None:
                changes.append(_AddedBackend(self, ServedBackend(self._foundations, new, backend)))
                continue
            own = [f"[{backend.name}] {name}" for name in served.backend.options.changed_names(backend.options)]
            changes.append(
                _ServedChange(
                    served,
                    backend,
                    prepare_backend(
                        served.manager,
                        blueprint_loader(new, backend),
                        manager_settings(new, backend),
                        [*numbers, *own],
                        wait,
                    ),
                    is_new_database=bool(current.database.changed_names(new.database)),
                )
            )
        changes.extend(_RemovedBackend(self, self._served[host]) for host in self._served if host not in wanted)
        if self._foundations.upcoming_transport is not None:
            staying = [served for host, served in self._served.items() if host in wanted]
            changes.append(DoorbellChange(staying, self._foundations.upcoming_transport))
        changes.append(_HeartbeatChange(self._heartbeat, new))

    def add(self, served: ServedBackend) -> None:
        self._served[served.host] = served
        self._managers[served.host] = served.manager

    def remove(self, served: ServedBackend) -> None:
        """Forget it at once; its operations end by themselves."""
        del self._served[served.host]
        del self._managers[served.host]


class _ServedChange:
    """A backend that stays: its manager's change, with the settings it is compared with next time."""

    is_slow = True

    def __init__(
        self,
        served: ServedBackend,
        backend: BackendSettings,
        change: BackendChange[Any, Any, Any],
        *,
        is_new_database: bool,
    ) -> None:
        self.part: str = change.part if change.candidate is not None or change.options else ""
        self.options: Sequence[str] = change.options
        self._served = served
        self._backend = backend
        self._change = change
        self._is_new_database = is_new_database

    def apply(self) -> None:
        if self._is_new_database:
            self._served.manager.register()
        self._change.apply()
        self._served.backend = self._backend

    def discard(self) -> None:
        self._change.discard()

    def drain(self, timeout_s: float) -> None:
        self._change.drain(timeout_s)


class _AddedBackend:
    is_slow = False

    def __init__(self, part: VolumePart, served: ServedBackend) -> None:
        self.part = f"backend {served.backend.name} (added)"
        self.options: Sequence[str] = ["[DEFAULT] enabled_backends"]
        self._owner = part
        self._served = served
        try:
            served.lock()
        except exc.AlreadyRunning as error:
            if error.pid != str(os.getpid()):
                raise
            raise exc.ConfigurationError(
                reason=f"{served.host} was removed by a reload and still finishes its work; add it again after that"
            ) from error

    def apply(self) -> None:
        self._owner.add(self._served)
        self._served.start()

    def discard(self) -> None:
        self._served.leave()

    def drain(self, timeout_s: float) -> None:
        return None


class _RemovedBackend:
    is_slow = True

    def __init__(self, part: VolumePart, served: ServedBackend) -> None:
        self.part = f"backend {served.backend.name} (removed)"
        self.options: Sequence[str] = ["[DEFAULT] enabled_backends"]
        self._owner = part
        self._served = served

    def apply(self) -> None:
        self._owner.remove(self._served)
        self._served.manager.retire()

    def discard(self) -> None:
        return None

    def drain(self, timeout_s: float) -> None:
        self._served.manager.finish_recorded(timeout_s)
        self._served.stop(timeout_s)
        self._served.leave()


class _HeartbeatChange:
    part = ""
    options: Sequence[str] = ()
    is_slow = False

    def __init__(self, heartbeat: Heartbeat, new: Settings) -> None:
        self._heartbeat = heartbeat
        self._service = new.service

    def apply(self) -> None:
        self._heartbeat.apply(
            interval_s=self._service.report_interval, retention_days=self._service.operation_retention_days
        )

    def discard(self) -> None:
        return None

    def drain(self, timeout_s: float) -> None:
        return None


class DoorbellChange:
    """The backends' doorbell servers on a new transport: up before the old ones stop."""

    part = ""
    options: Sequence[str] = ()
    is_slow = False

    def __init__(self, served: Sequence[ServedBackend], transport: Any) -> None:
        self._servers: list[tuple[ServedBackend, DoorbellServer]] = []
        self._old: list[DoorbellServer] = []
        for backend in served:
            self._servers.append((backend, backend.build_server(transport)))

    def apply(self) -> None:
        for backend, server in self._servers:
            before = backend.swap_server(server)
            if before is not None:
                self._old.append(before)

    def discard(self) -> None:
        for _, server in self._servers:
            server.stop()

    def drain(self, timeout_s: float) -> None:
        for server in self._old:
            server.stop()


def manager_settings(settings: Settings, backend: BackendSettings) -> ManagerSettings:
    service = settings.service
    return ManagerSettings(
        reinit_driver_count=service.reinit_driver_count,
        driver_init_timeout_s=service.driver_init_timeout,
        publish_interval_s=service.backend_stats_polling_interval,
        backend_loss_threshold=service.backend_loss_threshold,
        availability_zone=service.storage_availability_zone,
        backend_name=backend.options.volume_backend_name,
        version=__version__,
        runner=RunnerSettings(
            workers=service.operation_workers,
            sweep_interval_s=service.operation_sweep_interval,
            max_attempts=service.operation_max_attempts,
        ),
        reset=ResetSettings(
            answer_timeout_s=service.rpc_response_timeout, detach_timeout_s=service.reset_detach_timeout
        ),
    )


def blueprint_loader(settings: Settings, backend: BackendSettings) -> BlueprintLoader:
    host = f"{settings.host}@{backend.name}"
    service = settings.service
    return lambda: load_driver(backend, host=host, state_path=service.state_path, runtime_path=service.runtime_path)
