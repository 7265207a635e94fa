"""What bringing up a volume driver has of its own: its checks, its exports, and that no two backends share one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.backend_stats import read_stats
from volsvc.block_access import close_stale_readers
from volsvc.driver_init import DriverInit, StorageWords
from volsvc.drivers.base import VolumeDriver
from volsvc.operations import Lease

LOG = logging.getLogger(__name__)

EXPORT_WORKERS = 8
HOLD_TIMEOUT_S = 5.0  # for all volumes together: many may be held by calls that hang


class VolumeInit(DriverInit[VolumeDriver, models.BackendStats]):
    """The steps of one backend.

    ``share`` holds a volume against what changes its exports, see ``OperationRunner.share``.
    """

    words = StorageWords("storage", "backend", "volumes")

    def __init__(self, *, share: Callable[[str, float], Lease | None], **steps: Any) -> None:
        super().__init__(**steps)
        self._share = share

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
        """Have exactly those clients served that the records say are connected.

        Operations of a driver before this one may run meanwhile, so each volume is held for it.
        """
        volumes = {volume.id: volume for volume in self._store.volumes_on(self.host)}
        for removed in driver.remove_stale_exports(frozenset(volumes)):
            LOG.info("volume %s: ended the export of a volume that no record knows", removed)
        # One whose attaching was cut may be exported and not be connected by the record.
        wanted = (driver.list_exported() | set(self._store.attachments_of(list(volumes)))) & set(volumes)
        hold_by = time.monotonic() + HOLD_TIMEOUT_S
        with ThreadPoolExecutor(EXPORT_WORKERS, thread_name_prefix=f"exports-{self.host}") as pool:
            list(pool.map(lambda volume_id: self._restore(driver, volume_id, hold_by), sorted(wanted)))
        close_stale_readers(self._store, driver)

    def look_after(self, driver: VolumeDriver) -> None:
        """Now and then while it serves: start dead exporters again, and end what nobody uses any more.

        A volume that something runs on is left to that, or to the next look.
        """
        close_stale_readers(self._store, driver)
        for name in driver.remove_abandoned():
            LOG.info("%s: removed %s, which an operation that was cut off had left", self.host, name)
        if type(driver).list_exported is VolumeDriver.list_exported:
            return  # it can't say which are alive
        attached = self._store.attachments_of([volume.id for volume in self._store.volumes_on(self.host)])
        served = {volume_id for volume_id, found in attached.items() if any(each.needs_export for each in found)}
        for volume_id in sorted(served - driver.list_exported()):
            LOG.warning("volume %s: its exporter has died; it is started again", volume_id)
            self._restore(driver, volume_id, time.monotonic())

    def _restore(self, driver: VolumeDriver, volume_id: str, hold_by: float) -> None:
        lease = self._share(volume_id, max(0.0, hold_by - time.monotonic()))
        if lease is None:
            LOG.warning("volume %s: something runs on it, which leaves its exports as its record says", volume_id)
            return
        try:
            situation = self._store.look("volume", volume_id)
            if not isinstance(situation.resource, models.Volume):
                return
            connected = [attachment for attachment in situation.attachments if attachment.needs_export]
            driver.ensure_export(situation.resource, connected)
        except exc.VolumeNotFound:
            LOG.debug("volume %s: was deleted meanwhile", volume_id)
        except (exc.BackendUnavailable, exc.UnrecoverableDriverError, exc.StoreUnavailable):
            raise
        except Exception:
            LOG.exception("volume %s: its export was not restored; detach and attach it again", volume_id)
        finally:
            lease.release()
