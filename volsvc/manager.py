"""The volume manager: one backend of volumes, ``host@backend``.

Its life is that of every ``DriverManager``; here is what it does with a volume driver: its actions,
its resets, its exports, and what it publishes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.backend_stats import capabilities_of
from volsvc.driver_init import Blueprint
from volsvc.driver_manager import DriverManager
from volsvc.driver_probe import DriverProbe
from volsvc.driver_service import Action, DriverSettings
from volsvc.drivers.base import VolumeDriver
from volsvc.operations import Handler, OperationControl, Result
from volsvc.ports import Clock, Doorbell, Notifier, Query, Store
from volsvc.reset_work import ResetSettings, ResetWork
from volsvc.volume_actions import VolumeActions
from volsvc.volume_init import VolumeInit

LOG = logging.getLogger(__name__)

RETIRE_POLL_S = 1.0

BlueprintLoader = Callable[[], Blueprint[VolumeDriver]]


@dataclass(frozen=True, slots=True)
class ManagerSettings(DriverSettings):
    """What a backend's manager has besides."""

    backend_name: str | None = None  # volume_backend_name
    reset: ResetSettings = field(default_factory=ResetSettings)


class VolumeManager(DriverManager[VolumeDriver, models.BackendStats, ManagerSettings]):
    """Serves ``host@backend``."""

    binary = "cinder-volume"
    event_prefix = "volume.driver.init"
    probe_name = "get_volume_stats"

    def __init__(
        self,
        *,
        host: str,
        instance: str,
        store: Store,
        notifier: Notifier,
        load_blueprint: BlueprintLoader,
        settings: ManagerSettings,
        doorbell: Doorbell | None = None,
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
        self._actions = VolumeActions(store)
        self._exports = DriverProbe(
            f"exports-{host}", self._generations.use, self._init.look_after, what="looking after exports"
        )
        self._resets = ResetWork(
            host=host,
            store=store,
            use_driver=self._generations.use,
            alone=self.runner.alone,
            on_unavailable=self._on_unavailable,
            settings=lambda: self._settings.reset,
            clock=clock,
        )
        self._own_handlers: dict[str, Handler] = {
            "volume_reset": self.reset_status,
            "snapshot_reset": self.reset_status,
            "volume_inspect": self._resets.inspect,
        }

    @property
    def option_group(self) -> str:
        return self.host.partition("@")[2]

    @property
    def reload_part(self) -> str:
        return f"backend {self.option_group}"

    def _new_init(self, load: BlueprintLoader) -> VolumeInit:
        return VolumeInit(
            host=self.host,
            binary=self.binary,
            store=self._store,
            load=load,
            resume=self._resume,
            share=lambda volume_id, timeout_s: self.runner.share(volume_id, timeout_s),
        )

    def _capabilities(self, stats: models.BackendStats) -> dict[str, Any]:
        return capabilities_of(stats, self._settings.backend_name or self.option_group)

    def publish_service_capabilities(self) -> None:
        """Also looks after what the backend exports, see ``VolumeInit``."""
        super().publish_service_capabilities()
        if self.initializer.is_ready:
            try:
                self._exports.read(self._settings.driver_init_timeout_s)
            except exc.VolsvcError as error:
                LOG.warning("%s: its exports are not looked after: %s", self.label, error)

    # -- leaving --------------------------------------------------------------------------

    def retire(self) -> None:
        """A reload has removed the backend: it counts as down at once, and does what is recorded already."""
        self._stop_reason = "it is not in enabled_backends any more"
        self._write_stopped()

    def finish_recorded(self, timeout_s: float) -> None:
        """Wait until nothing is recorded for this backend that it could do."""
        deadline = self._clock() + timeout_s
        hosts = [self.host, models.express_host(self.host)]
        query = Query(filters={"host": hosts, "state": ["queued", "running"]}, limit=1)
        while self._clock() < deadline and self.initializer.is_ready:
            # The pause comes first: a request that chose this backend just before may still be recording.
            if self._stop.wait(RETIRE_POLL_S):
                return
            try:
                if not self._store.list_operations(query).items:
                    return
            except exc.StoreUnavailable as error:
                LOG.warning("%s: can't tell what is still recorded for it: %s", self.host, error)

    def after_swap(self) -> None:
        """Have the new driver adopt the exporters."""
        with self._generations.use() as driver:
            for _, run in self._init.restoring():
                run(driver)

    # -- operations -----------------------------------------------------------------------------

    def reset_status(self, operation: models.Operation, control: OperationControl) -> Result:
        """Reset a volume or a snapshot: the storage is asked first, see ``ResetWork``."""
        return self._resets.reset(operation, control)

    def _find_own_handler(self, action: str) -> Handler | None:
        return self._own_handlers.get(action)

    def _find_action(self, action: str) -> Action[VolumeDriver] | None:
        return self._actions.find(action)
