"""What the parts of a process that serve drivers have in common.

A part has managers, each with what makes it reachable and what keeps others off, and one heartbeat
and one ear for the admin's requests for all of them.  ``VolumePart`` and ``BackupPart`` say which
managers those are.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from volsvc.control import ControlRunner, ProcessRequests
from volsvc.driver_manager import DriverManager, Wait
from volsvc.foundations import Foundations
from volsvc.heartbeat import Heartbeat
from volsvc.manager_reload import BackendChange
from volsvc.process_lock import ProcessLock
from volsvc.reloader import Change, ReloadReport, Tick, wait_with_ticks
from volsvc.rpc.doorbell import DoorbellServer
from volsvc.settings import Settings

ManagerT = TypeVar("ManagerT", bound=DriverManager[Any, Any, Any])


class ServedManager(Generic[ManagerT]):
    """A manager with what makes it reachable and what keeps others off: doorbell server and lock."""

    def __init__(self, foundations: Foundations, manager: ManagerT) -> None:
        self.manager = manager
        self.host = manager.host
        self._foundations = foundations
        state_path = foundations.settings.service.state_path
        self._lock = ProcessLock(os.path.join(state_path, "locks"), manager.label)
        self._server: DoorbellServer | None = None

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


ServedT = TypeVar("ServedT", bound=ServedManager[Any])


class ManagerPart(Generic[ServedT]):
    """A part of the process (``service.Part``) that serves these managers."""

    name: str

    def __init__(self, foundations: Foundations, served: Sequence[ServedT]) -> None:
        service = foundations.settings.service
        self._foundations = foundations
        self._served = {one.host: one for one in served}
        self._managers: dict[str, DriverManager[Any, Any, Any]] = {one.host: one.manager for one in served}
        self._heartbeat = Heartbeat(
            foundations.store,
            lambda: [m.service_id for m in list(self._managers.values()) if m.service_id is not None],
            interval_s=service.report_interval,
            retention_days=service.operation_retention_days,
            on_beat=self._report_late,
        )
        self._control = ControlRunner(foundations.store, foundations.instance, self._managers)

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
            manager.runner.leave_queue()

    def stop(self, timeout_s: float) -> None:
        """All of them at the same time, so that a slow one does not use up another's time."""
        threads = [
            threading.Thread(target=served.stop, args=(timeout_s,), name=f"stop-{served.manager.label}", daemon=True)
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
        """See ``reloader.Reloadable``."""
        changes: list[Change] = []

        def wait(event: threading.Event, timeout_s: float) -> bool:
            return wait_with_ticks(event, timeout_s, tick)

        try:
            staying = self._prepare_managers(new, wait, changes)
            if self._foundations.upcoming_transport is not None:
                changes.append(_DoorbellChange(staying, self._foundations.upcoming_transport))
            changes.append(_HeartbeatChange(self._heartbeat, new))
        except BaseException:
            for change in reversed(changes):
                change.discard()
            raise
        return changes

    def _prepare_managers(self, new: Settings, wait: Wait, changes: list[Change]) -> Sequence[ServedT]:
        """Add to ``changes`` what the managers need for ``new``; returns those that stay."""
        raise NotImplementedError


class ManagerChange:
    """The change of a manager that stays; one with a new database is registered there."""

    is_slow = True

    def __init__(
        self, served: ServedManager[Any], change: BackendChange[Any, Any, Any], *, is_new_database: bool
    ) -> None:
        self.part: str = change.part if change.candidate is not None or change.options else ""
        self.options: Sequence[str] = change.options
        self._manager = served.manager
        self._change = change
        self._is_new_database = is_new_database

    def apply(self) -> None:
        if self._is_new_database:
            self._manager.register()
        self._change.apply()

    def discard(self) -> None:
        self._change.discard()

    def drain(self, timeout_s: float) -> None:
        self._change.drain(timeout_s)


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


class _DoorbellChange:
    """The doorbell servers on a new transport: up before the old ones stop."""

    part = ""
    options: Sequence[str] = ()
    is_slow = False

    def __init__(self, served: Sequence[ServedManager[Any]], transport: Any) -> None:
        self._servers: list[tuple[ServedManager[Any], DoorbellServer]] = []
        self._old: list[DoorbellServer] = []
        for one in served:
            self._servers.append((one, one.build_server(transport)))

    def apply(self) -> None:
        for served, server in self._servers:
            before = served.swap_server(server)
            if before is not None:
                self._old.append(before)

    def discard(self) -> None:
        for _, server in self._servers:
            server.stop()

    def drain(self, timeout_s: float) -> None:
        for server in self._old:
            server.stop()
