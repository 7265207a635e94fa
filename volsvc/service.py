"""One process: its parts, their order, and the main loop that signals wake.

The only place where adapters are put behind the ports: the SQL store, RPC, the notifier and
the HTTP server are built here and handed to managers and ``VolumeAPI``.  A no-fork launcher
runs services one after the other, so everything a process does is one ``VolsvcService``.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from oslo_service import service as oslo_service

from volsvc import __version__, logs, sd_notify
from volsvc.control import ControlRunner
from volsvc.driver_loader import load_driver
from volsvc.foundations import Foundations
from volsvc.heartbeat import Heartbeat
from volsvc.manager import BlueprintLoader, ManagerSettings, VolumeManager
from volsvc.operations import RunnerSettings
from volsvc.ports import Doorbell
from volsvc.process_lock import ProcessLock
from volsvc.settings import BackendSettings
from volsvc.signals import SignalFlags
from volsvc.volume_api import ApiSettings, VolumeAPI

if TYPE_CHECKING:
    from volsvc.api.server import ApiServer
    from volsvc.rpc.doorbell import DoorbellServer

LOG = logging.getLogger(__name__)

MAIN_LOOP_INTERVAL_S = 5.0


class Part(Protocol):
    """Something a process does, from ``start`` to ``stop``."""

    name: str

    def start(self) -> None: ...

    def reload(self) -> None:
        """SIGHUP has come."""

    def stop_accepting(self) -> None:
        """Take no new work; quick."""

    def stop(self, timeout_s: float) -> None: ...


class VolumePart:
    """The volume managers of a process, one for each backend it serves."""

    name = "volume"

    def __init__(self, foundations: Foundations, backends: Sequence[BackendSettings]) -> None:
        self._foundations = foundations
        self._service = foundations.settings.service
        self._locks: list[ProcessLock] = []
        self._doorbells: list[DoorbellServer] = []
        self.managers = [self._build_manager(backend) for backend in backends]
        self._heartbeat = Heartbeat(
            foundations.store,
            lambda: [manager.service_id for manager in self.managers if manager.service_id is not None],
            interval_s=self._service.report_interval,
            retention_days=self._service.operation_retention_days,
            on_beat=self._report_late,
        )
        self._control = ControlRunner(
            foundations.store, foundations.instance, {manager.host: manager for manager in self.managers}
        )

    def start(self) -> None:
        """Take the locks first: nothing of another daemon's is touched before they are ours."""
        from volsvc.rpc.doorbell import DoorbellServer

        lock_directory = os.path.join(self._service.state_path, "locks")
        for manager in self.managers:
            lock = ProcessLock(lock_directory, manager.host)
            lock.acquire()
            self._locks.append(lock)
        for manager in self.managers:
            server = DoorbellServer(self._foundations.transport, manager.host, manager.runner)
            server.start()
            self._doorbells.append(server)
            self._foundations.doorbell.register(manager.host, manager.runner)
            manager.start()
        self._heartbeat.start()
        self._control.start()

    def reload(self) -> None:
        for manager in self.managers:
            manager.reinit()

    def stop_accepting(self) -> None:
        self._control.stop_claiming()
        for manager in self.managers:
            manager.runner.stop_claiming()

    def _report_late(self) -> None:
        for manager in self.managers:
            manager.report_late()

    def stop(self, timeout_s: float) -> None:
        """Every backend at the same time, so that a slow one does not use up another's time."""
        threads = [
            threading.Thread(target=manager.stop, args=(timeout_s,), name=f"stop-{manager.host}", daemon=True)
            for manager in self.managers
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        self._control.stop(1.0)
        self._heartbeat.stop()
        for server in self._doorbells:
            server.stop()
        for lock in self._locks:
            lock.release()

    def _build_manager(self, backend: BackendSettings) -> VolumeManager:
        service = self._service
        host = f"{service.host}@{backend.name}"
        return VolumeManager(
            host=host,
            instance=self._foundations.instance,
            store=self._foundations.store,
            notifier=self._foundations.notifier,
            load_blueprint=_blueprint_loader(backend, host, service.state_path, service.runtime_path),
            settings=ManagerSettings(
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
            ),
        )


def _blueprint_loader(backend: BackendSettings, host: str, state_path: str, runtime_path: str) -> BlueprintLoader:
    return lambda: load_driver(backend, host=host, state_path=state_path, runtime_path=runtime_path)


class ApiPart:
    """The HTTP server with the REST API."""

    name = "api"

    def __init__(self, foundations: Foundations) -> None:
        from volsvc.api.app import build_app
        from volsvc.api.policies import Policy
        from volsvc.api.server import build_server

        service = foundations.settings.service
        doorbell: Doorbell = foundations.doorbell
        self.volume_api = VolumeAPI(
            foundations.store,
            doorbell,
            ApiSettings(
                response_timeout_s=service.rpc_response_timeout,
                queue_timeout_s=service.operation_queue_timeout,
                availability_zone=service.storage_availability_zone,
            ),
        )
        policy = Policy(foundations.settings.policy_file)
        self.server: ApiServer = build_server(
            build_app(self.volume_api, foundations.settings.api, policy=policy), foundations.settings.api
        )

    def start(self) -> None:
        self.server.start()
        LOG.info("the REST API listens on %s", self.server.address)

    def reload(self) -> None:
        return None

    def stop_accepting(self) -> None:
        return None

    def stop(self, timeout_s: float) -> None:
        self.server.stop(timeout_s)


class VolsvcService(oslo_service.ServiceBase):  # type: ignore[misc]
    """Owns the parts of a process; ``wait`` is its main loop.

    ``on_ready`` is called once, when every part has started.
    """

    def __init__(
        self,
        foundations: Foundations,
        parts: Sequence[Part],
        flags: SignalFlags,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._foundations = foundations
        self._parts = list(parts)
        self._flags = flags
        self._on_ready = on_ready
        self._shutdown_timeout_s = float(foundations.settings.service.graceful_shutdown_timeout)

    def start(self) -> None:
        self._flags.start_deadline_thread()
        for part in self._parts:
            part.start()
        names = ", ".join(part.name for part in self._parts)
        LOG.info("volsvc %s serves: %s (pid %d)", __version__, names, os.getpid())
        sd_notify.ready(f"serving: {names}")
        self._on_ready()

    def wait(self) -> None:
        """The main loop: reload when asked, until asked to stop."""
        watchdog_s = sd_notify.watchdog_interval_s()
        while not self._flags.stop_requested:
            if self._flags.reload_requested:
                # Cleared before the work: a signal during it asks for exactly one more.
                self._flags.reload_requested = False
                self._reload()
                continue
            if watchdog_s is not None:
                sd_notify.alive()
            self._flags.wait(min(watchdog_s or MAIN_LOOP_INTERVAL_S, MAIN_LOOP_INTERVAL_S))
        self.stop()

    def stop(self) -> None:
        """Take no new work, finish what runs within ``graceful_shutdown_timeout``, close everything."""
        sd_notify.stopping()
        LOG.info("stopping; what runs has %.0f s", self._shutdown_timeout_s)
        deadline = time.monotonic() + self._shutdown_timeout_s * 0.9
        for part in self._parts:
            part.stop_accepting()
        for part in reversed(self._parts):
            part.stop(max(1.0, deadline - time.monotonic()))
        self._foundations.close()
        LOG.info("stopped")

    def reset(self) -> None:
        self._flags.reload_requested = True

    def _reload(self) -> None:
        sd_notify.reloading()
        try:
            logs.reopen()
            LOG.info("SIGHUP: log files reopened; backends that are not ready are tried again")
            for part in self._parts:
                part.reload()
        except Exception:
            LOG.exception("the reload failed; the daemon goes on with what it had")
        sd_notify.ready("reloaded")
