"""The steps that bring a backend's driver up, and what they build.

One attempt to initialise runs them all on one ``Candidate``; a reload runs those up to the
swap beside a driver that serves, and the rest after it.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from volsvc import exceptions as exc
from volsvc import models
from volsvc.backend_stats import checked_stats
from volsvc.driver_libraries import missing_library
from volsvc.drivers.base import VolumeDriver
from volsvc.init_attempt import Step
from volsvc.ports import Store

LOG = logging.getLogger(__name__)

EXPORT_WORKERS = 8


class Blueprint(Protocol):
    """What a driver is built from; equal blueprints build equal drivers (``driver_loader``)."""

    def build(self) -> VolumeDriver: ...


@dataclass
class Candidate:
    """What an attempt builds up before it is put in service."""

    blueprint: Blueprint | None = None
    driver: VolumeDriver | None = None
    identity: str | None = None
    stats: models.BackendStats | None = None

    def require_driver(self) -> VolumeDriver:
        if self.driver is None:
            raise exc.DriverError(reason="the driver was not built")
        return self.driver

    def close(self) -> None:
        if self.driver is not None:
            self.driver.close()


class VolumeInit:
    """The steps of one backend.  ``load`` finds the blueprint; ``resume`` is done once for each start."""

    def __init__(
        self, *, host: str, store: Store, load: Callable[[], Blueprint], resume: Callable[[VolumeDriver], None]
    ) -> None:
        self.host = host
        self.load_blueprint = load
        self._store = store
        self._resume = resume

    def all_steps(self) -> list[Step[Candidate]]:
        return [
            *self._first_steps(),
            Step("identity", self._check_identity),
            Step("exports", lambda c: self.restore_exports(c.require_driver())),
            Step("resume", lambda c: self._resume(c.require_driver())),
            Step("publish", self._read_stats),
        ]

    def preparation(self) -> list[Step[Candidate]]:
        """For a reload: what may be done beside the driver that serves, and shows that this one would.

        A backend without volumes may be given another storage in this way, a new one too.
        """

        def check_identity(candidate: Candidate) -> None:
            self._check_identity(candidate, may_be_new=not self._has_records())

        return [*self._first_steps(), Step("identity", check_identity), Step("publish", self._read_stats)]

    def _first_steps(self) -> list[Step[Candidate]]:
        return [
            Step("load", _naming_libraries(self._load)),
            Step("do_setup", _naming_libraries(lambda c: c.require_driver().do_setup())),
            Step("check_for_setup_error", _naming_libraries(lambda c: c.require_driver().check_for_setup_error())),
        ]

    def _load(self, candidate: Candidate) -> None:
        candidate.blueprint = self.load_blueprint()
        candidate.driver = candidate.blueprint.build()

    def _check_identity(self, candidate: Candidate, *, may_be_new: bool = False) -> None:
        """The storage must be the one that the database knows, so that no unmounted disk is taken for it."""
        driver = candidate.require_driver()
        services = self._store.list_services()
        known = next((s.backend_uuid for s in services if s.host == self.host), None)
        found = driver.read_identity()
        if known is not None and found != known and not may_be_new:
            what = f"the storage's marker is {found}" if found else "the storage has no marker"
            hint = "this is another storage" if found else "is its file system mounted?"
            raise exc.BackendUnavailable(
                reason=f"{what}, the backend's is {known}: {hint} (a backend without volumes takes another storage "
                f"after 'volsvc-manage service forget-storage {self.host}')"
            )
        if found is None:
            found = str(uuid.uuid4())
            driver.write_identity(found)
        other = next((s.host for s in services if s.backend_uuid == found and s.host != self.host), None)
        if other is not None:
            raise exc.DriverConfigurationError(
                reason=f"this storage belongs to the backend {other}; two backends can't share one"
            )
        candidate.identity = found

    def _has_records(self) -> bool:
        return bool(self._store.volumes_on(self.host)) or bool(self._store.snapshots_on(self.host))

    def restore_exports(self, driver: VolumeDriver) -> None:
        """Adopt or restart the exporters of attached volumes; end those of no attachment."""
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

    @staticmethod
    def _read_stats(candidate: Candidate) -> None:
        candidate.stats = checked_stats(candidate.require_driver().get_volume_stats())


def _naming_libraries(run: Callable[[Candidate], None]) -> Callable[[Candidate], None]:
    """A driver that imports a library only when it is set up is told from one that fails for another reason."""

    def step(candidate: Candidate) -> None:
        try:
            run(candidate)
        except ImportError as error:
            raise missing_library(error, type(candidate.driver).__name__ if candidate.driver else "driver") from error

    return step
