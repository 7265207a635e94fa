"""What bringing up a volume driver has of its own: its checks, its exports, and that no two backends share one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from volsvc import exceptions as exc
from volsvc import models
from volsvc.backend_stats import read_stats
from volsvc.block_access import close_stale_readers
from volsvc.driver_init import DriverInit, StorageWords
from volsvc.drivers.base import VolumeDriver

LOG = logging.getLogger(__name__)

EXPORT_WORKERS = 8


class VolumeInit(DriverInit[VolumeDriver, models.BackendStats]):
    """The steps of one backend."""

    words = StorageWords("storage", "backend", "volumes")

    def checks(self) -> Sequence[tuple[str, Callable[[VolumeDriver], None]]]:
        return [("check_for_setup_error", lambda driver: driver.check_for_setup_error())]

    def restoring(self) -> Sequence[tuple[str, Callable[[VolumeDriver], None]]]:
        return [("exports", self.restore_exports)]

    def read_stats(self, driver: VolumeDriver) -> models.BackendStats:
        return read_stats(driver)

    def has_records(self) -> bool:
        return bool(self._store.volumes_on(self.host)) or bool(self._store.snapshots_on(self.host))

    def check_owner(self, found: str, services: Sequence[models.Service]) -> None:
        other = next((s.host for s in services if s.backend_uuid == found and s.host != self.host), None)
        if other is not None:
            raise exc.DriverConfigurationError(
                reason=f"this storage belongs to the backend {other}; two backends can't share one"
            )

    def restore_exports(self, driver: VolumeDriver) -> None:
        """Adopt or restart the exporters of attached volumes; end those of no attachment and of no reader."""
        volumes = self._store.volumes_on(self.host)
        attached = self._store.attachments_of([volume.id for volume in volumes])
        connected = {volume.id: [a for a in attached.get(volume.id, []) if a.needs_export] for volume in volumes}
        keep = frozenset(volume_id for volume_id, attachments in attached.items() if attachments)
        for removed in driver.remove_stale_exports(keep):
            LOG.info("volume %s: ended an export that no attachment needs", removed)

        def restore(volume: models.Volume) -> None:
            try:
                driver.ensure_export(volume, connected[volume.id])
            except (exc.BackendUnavailable, exc.UnrecoverableDriverError):
                raise
            except Exception:
                LOG.exception("volume %s: its export was not restored; detach and attach it again", volume.id)

        with ThreadPoolExecutor(EXPORT_WORKERS, thread_name_prefix=f"exports-{self.host}") as pool:
            list(pool.map(restore, [volume for volume in volumes if connected[volume.id]]))
        close_stale_readers(self._store, driver)
