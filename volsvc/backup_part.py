"""The backup service of this host as a part of a process: one manager, on the store that backup_driver names."""

from __future__ import annotations

import os
from collections.abc import Sequence

from volsvc import __version__
from volsvc.backup.loader import load_backup_driver
from volsvc.backup.manager import BackupManager, BackupManagerSettings, BlueprintLoader
from volsvc.driver_manager import Wait
from volsvc.foundations import Foundations
from volsvc.manager_part import ManagerChange, ManagerPart, ServedManager
from volsvc.manager_reload import prepare_backend
from volsvc.operations import RunnerSettings
from volsvc.reloader import Change
from volsvc.settings import Settings

#: Options of [DEFAULT] that the manager is built from, besides those in ``conf.backup``.
SERVICE_OPTIONS = (
    "reinit_driver_count",
    "backend_loss_threshold",
    "storage_availability_zone",
    "operation_sweep_interval",
    "operation_max_attempts",
    "operation_queue_timeout",
    "rpc_response_timeout",
)
UNLIMITED_WORKERS = 256


class ServedBackups(ServedManager[BackupManager]):
    """The backup manager, with the directories that are its own."""

    def __init__(self, foundations: Foundations) -> None:
        settings = foundations.settings
        self._sockets = os.path.join(settings.service.runtime_path, "backup")
        self._journals = os.path.join(settings.service.state_path, "backup-journals")
        manager = BackupManager(
            host=settings.host,
            instance=foundations.instance,
            store=foundations.store,
            notifier=foundations.notifier,
            doorbell=foundations.doorbell,
            directory=self._sockets,
            journal_directory=self._journals,
            load_blueprint=blueprint_loader(settings),
            settings=manager_settings(settings),
        )
        super().__init__(foundations, manager)

    def start(self) -> None:
        from volsvc.backup.bridge import end_leftovers

        for directory in (self._sockets, self._journals):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        end_leftovers(self._sockets)
        super().start()


class BackupPart(ManagerPart[ServedBackups]):
    name = "backup"

    def __init__(self, foundations: Foundations) -> None:
        super().__init__(foundations, [ServedBackups(foundations)])

    def _prepare_managers(self, new: Settings, wait: Wait, changes: list[Change]) -> Sequence[ServedBackups]:
        current = self._foundations.settings
        names = [name for name in SERVICE_OPTIONS if current.service[name] != new.service[name]]
        names += current.backup.options.changed_names(new.backup.options)
        (served,) = self._served.values()
        change = prepare_backend(
            served.manager,
            blueprint_loader(new),
            manager_settings(new),
            [f"[DEFAULT] {name}" for name in names if name != "backup_driver"],
            wait,
        )
        is_new_database = bool(current.database.changed_names(new.database))
        changes.append(ManagerChange(served, change, is_new_database=is_new_database))
        return [served]


def manager_settings(settings: Settings) -> BackupManagerSettings:
    service, backup = settings.service, settings.backup.options
    return BackupManagerSettings(
        reinit_driver_count=service.reinit_driver_count,
        retries_start=backup.backup_periodic_initialization,
        driver_init_timeout_s=backup.backup_initialization_timeout,
        publish_interval_s=backup.periodic_interval,
        backend_loss_threshold=service.backend_loss_threshold,
        availability_zone=service.storage_availability_zone,
        version=__version__,
        queue_timeout_s=service.operation_queue_timeout,
        answer_timeout_s=service.rpc_response_timeout,
        runner=RunnerSettings(
            workers=backup.backup_max_operations or UNLIMITED_WORKERS,
            sweep_interval_s=service.operation_sweep_interval,
            max_attempts=service.operation_max_attempts,
        ),
    )


def blueprint_loader(settings: Settings) -> BlueprintLoader:
    return lambda: load_backup_driver(settings.backup, host=settings.host, state_path=settings.service.state_path)
