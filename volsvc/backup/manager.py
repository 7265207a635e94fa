"""The backup manager: the backup service of one host, on one store of backups.

Its life is that of every ``DriverManager``: it takes nothing on as long as its store can't be used,
and shows why.  What its operations do is in ``work`` and ``reset``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from volsvc import models
from volsvc.backup.driver_init import BackupInit, BackupStats
from volsvc.backup.drivers.base import BackupDriver
from volsvc.backup.events import BackupEvents
from volsvc.backup.reset import BackupReset
from volsvc.backup.volumes import VolumeAccess
from volsvc.backup.work import BackupActions
from volsvc.driver_init import Blueprint
from volsvc.driver_manager import DriverManager
from volsvc.driver_service import Action, DriverSettings
from volsvc.operations import Handler, OperationControl, Result
from volsvc.ports import Clock, Doorbell, Notifier, Store

BlueprintLoader = Callable[[], Blueprint[BackupDriver]]
BackupAction = Action[BackupDriver]

STORE_SHARE = 0.4  # of the time that a reset has, for the store to answer
STOP_SHARE = 0.4  # of the time that a reset has, for what runs on the backup to stop


@dataclass(frozen=True, slots=True)
class BackupManagerSettings(DriverSettings):
    """The backup service's options; ``retries_start`` is ``backup_periodic_initialization``.

    ``queue_timeout_s`` is also how long what this service asks of a volume daemon waits for that.
    ``answer_timeout_s``: how long whoever asks for a reset waits; it is over well before.
    """

    retries_start: bool = False
    answer_timeout_s: float = 60.0


class BackupManager(DriverManager[BackupDriver, BackupStats, BackupManagerSettings]):
    """Serves the backups of ``host``.

    ``directory`` is private to it and short, for sockets and keys; ``journal_directory`` (the same unless
    given) keeps over a reboot how far restores are.
    """

    binary = "cinder-backup"
    event_prefix = "backup.driver.init"
    probe_name = "check"

    def __init__(
        self,
        *,
        host: str,
        instance: str,
        store: Store,
        notifier: Notifier,
        load_blueprint: BlueprintLoader,
        settings: BackupManagerSettings,
        doorbell: Doorbell,
        directory: str,
        journal_directory: str | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(
            host=host,
            instance=instance,
            store=store,
            notifier=notifier,
            load_blueprint=load_blueprint,
            settings=settings,
            doorbell=doorbell,
            clock=clock,
        )
        self._volumes = VolumeAccess(
            host=host,
            store=store,
            doorbell=doorbell,
            directory=directory,
            queue_timeout_s=lambda: self._settings.queue_timeout_s,
            clock=clock,
        )
        self._actions = BackupActions(
            store=store,
            volumes=self._volumes,
            events=BackupEvents(notifier),
            directory=journal_directory or directory,
        )
        self._resets = BackupReset(
            store=store,
            use_driver=self._generations.use,
            alone=self.runner.alone,
            on_unavailable=self._on_unavailable,
            stop_s=lambda: self._settings.answer_timeout_s * STOP_SHARE,
            store_s=lambda: self._settings.answer_timeout_s * STORE_SHARE,
        )

    @property
    def label(self) -> str:
        return f"backup:{self.host}"

    @property
    def option_group(self) -> str:
        return "DEFAULT"

    @property
    def reload_part(self) -> str:
        return "backup driver"

    def _new_init(self, load: BlueprintLoader) -> BackupInit:
        return BackupInit(host=self.host, binary=self.binary, store=self._store, load=load, resume=self._resume)

    def _capabilities(self, stats: BackupStats) -> dict[str, Any]:
        return asdict(stats)

    def publish_service_capabilities(self) -> None:
        """Also gives back what operations left that ended without their handler."""
        super().publish_service_capabilities()
        self._volumes.give_back_leftovers()
        self._actions.remove_stale_journals()

    def reset_status(self, operation: models.Operation, control: OperationControl) -> Result:
        """Reset a backup: the store is asked first, see ``BackupReset``."""
        return self._resets.reset(operation, control)

    def _find_own_handler(self, action: str) -> Handler | None:
        return self.reset_status if action == "backup_reset" else None

    def _find_action(self, action: str) -> BackupAction | None:
        return self._actions.find(action)
