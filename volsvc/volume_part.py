"""The volume managers of a process: one for each backend it serves, added and removed by a reload."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from volsvc import __version__
from volsvc import exceptions as exc
from volsvc.driver_loader import load_driver
from volsvc.driver_manager import Wait
from volsvc.foundations import Foundations
from volsvc.manager import BlueprintLoader, ManagerSettings, VolumeManager
from volsvc.manager_part import ManagerChange, ManagerPart, ServedManager
from volsvc.manager_reload import BackendChange, prepare_backend
from volsvc.operations import RunnerSettings
from volsvc.reloader import Change
from volsvc.reset_work import ResetSettings
from volsvc.settings import BackendSettings, Settings

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
    "operation_queue_timeout",
)


class ServedBackend(ServedManager[VolumeManager]):
    """A backend's manager, and the settings that a reload compares with."""

    def __init__(self, foundations: Foundations, settings: Settings, backend: BackendSettings) -> None:
        self.backend = backend
        manager = VolumeManager(
            host=f"{settings.host}@{backend.name}",
            instance=foundations.instance,
            store=foundations.store,
            notifier=foundations.notifier,
            load_blueprint=blueprint_loader(settings, backend),
            settings=manager_settings(settings, backend),
            doorbell=foundations.doorbell,
        )
        super().__init__(foundations, manager)


class VolumePart(ManagerPart[ServedBackend]):
    """Serves backends; ``only`` names the one that ``--backend`` asks for."""

    name = "volume"

    def __init__(self, foundations: Foundations, only: str | None = None) -> None:
        settings = foundations.settings
        self._only = only
        super().__init__(
            foundations, [ServedBackend(foundations, settings, backend) for backend in self._wanted(settings)]
        )

    def _wanted(self, settings: Settings) -> Sequence[BackendSettings]:
        return [settings.backend(self._only)] if self._only else settings.backends

    # -- reload -----------------------------------------------------------------------

    def _prepare_managers(self, new: Settings, wait: Wait, changes: list[Change]) -> Sequence[ServedBackend]:
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
        return [served for host, served in self._served.items() if host in wanted]

    def add(self, served: ServedBackend) -> None:
        self._served[served.host] = served
        self._managers[served.host] = served.manager

    def remove(self, served: ServedBackend) -> None:
        """Forget it at once; its operations end by themselves."""
        del self._served[served.host]
        del self._managers[served.host]


class _ServedChange(ManagerChange):
    """A backend that stays, with the settings it is compared with next time."""

    def __init__(
        self,
        served: ServedBackend,
        backend: BackendSettings,
        change: BackendChange[Any, Any, Any],
        *,
        is_new_database: bool,
    ) -> None:
        super().__init__(served, change, is_new_database=is_new_database)
        self._served = served
        self._backend = backend

    def apply(self) -> None:
        super().apply()
        self._served.backend = self._backend


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
        queue_timeout_s=service.operation_queue_timeout,
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
