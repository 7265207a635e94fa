"""The volume manager: one backend, from its driver's first attempt to its last operation.

It ties together the initialiser (is the driver there?), the generations (which driver do
operations begin on?), the runner (what is to be done?) and the service's row (what does the
operator see?).  Threads: one for initialising and publishing, the runner's, and one for an
attempt while it lasts.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.backend_stats import StatsReader, capabilities_of
from volsvc.drivers.base import VolumeDriver
from volsvc.generations import CurrentGeneration, Generation
from volsvc.init_attempt import Step, StepFailed, run_once
from volsvc.initializer import DriverInitializer, InitState, InitStatus
from volsvc.operations import Handler, OperationControl, OperationRunner, Result, RunnerSettings
from volsvc.ports import Clock, Notifier, Query, Store
from volsvc.reset_work import ResetSettings, ResetWork
from volsvc.service_row import ServiceRow
from volsvc.volume_actions import VolumeActions
from volsvc.volume_init import Blueprint, Candidate, VolumeInit

LOG = logging.getLogger(__name__)

RETIRE_POLL_S = 1.0
BINARY = "cinder-volume"  # what os-services shows; clients filter by Cinder's names

CLOSE_TIMEOUT_S = 2.0  # of a driver when the daemon stops; one that hangs ends with the process

BlueprintLoader = Callable[[], Blueprint]


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    """The manager's own options, frozen; names as in cinder.conf."""

    reinit_driver_count: int = 3
    driver_init_timeout_s: float = 60.0
    publish_interval_s: float = 60.0
    backend_loss_threshold: int = 3
    availability_zone: str = "nova"
    backend_name: str | None = None  # volume_backend_name
    version: str = ""
    runner: RunnerSettings = field(default_factory=RunnerSettings)
    reset: ResetSettings = field(default_factory=ResetSettings)


class VolumeManager:
    """Serves ``host@backend``.

    ``load_blueprint`` finds what its driver is built from; it and building may raise.  Nothing
    happens before ``start``.
    """

    def __init__(
        self,
        *,
        host: str,
        instance: str,
        store: Store,
        notifier: Notifier,
        load_blueprint: BlueprintLoader,
        settings: ManagerSettings,
        clock: Clock = time.monotonic,
    ) -> None:
        self.host = host
        self.instance = instance
        self._store = store
        self.row = ServiceRow(
            host=host,
            binary=BINARY,
            instance=instance,
            store=store,
            notifier=notifier,
            event_prefix="volume.driver.init",
        )
        self._settings = settings
        self._clock = clock
        self._actions = VolumeActions(store)
        self._generations = CurrentGeneration(host)
        self._blueprint: Blueprint | None = None  # of the current generation
        self._old_generation: Generation | None = None  # the one that a reload replaced last
        self._is_swapping = False  # an exclusive driver is away for a reload
        self._init = VolumeInit(host=host, store=store, load=load_blueprint, resume=self._resume)
        self._stats = StatsReader(host, self._generations.use)
        self._identity: str | None = None  # of the storage that serves
        self._stats_failures = 0
        self._has_taken_back = False
        self._has_cleared_up = False
        self._ready_since = 0.0
        self._stop = threading.Event()
        self._stop_reason: str | None = None
        self._wake = threading.Event()
        self.runner = OperationRunner(
            host=host,
            instance=instance,
            store=store,
            find_handler=self._find_handler,
            settings=settings.runner,
            is_accepting=lambda: self.initializer.is_ready and not self._is_swapping,
            on_unavailable=self._on_unavailable,
            has_express_lane=True,
            clock=clock,
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
        self.initializer: DriverInitializer[Candidate] = DriverInitializer(
            name=host,
            steps=self._init.all_steps(),
            new_candidate=Candidate,
            adopt=self._adopt,
            discard=Candidate.close,
            on_change=self._on_init_change,
            max_retries=settings.reinit_driver_count,
            timeout_s=settings.driver_init_timeout_s,
            clock=clock,
        )
        self._publisher = threading.Thread(target=self._publish_loop, name=f"publish-{host}", daemon=True)

    # -- life -----------------------------------------------------------------------

    @property
    def service_id(self) -> int | None:
        return self.row.id

    def start(self) -> None:
        """Register and begin; returns at once, whatever the driver does."""
        self.register()
        self.runner.start()
        self._publisher.start()

    def register(self) -> None:
        """Write the service's row; again after a reload that changed the database."""
        self.row.register(
            self.initializer.status,
            {
                "version": self._settings.version,
                "availability_zone": self._settings.availability_zone,
                **({"backend_uuid": self._identity} if self._identity else {}),
            },
        )

    def retire(self) -> None:
        """A reload has removed the backend: it counts as down at once, and does what is recorded already."""
        self._stop_reason = "it is not in enabled_backends any more"
        self._write_stopped()

    def finish_recorded(self, timeout_s: float) -> None:
        """Wait until nothing is recorded for this backend that it could do."""
        deadline = self._clock() + timeout_s
        query = Query(filters={"host": self.host, "state": ["queued", "running"]}, limit=1)
        while self._clock() < deadline and self.initializer.is_ready:
            # The pause comes first: a request that chose this backend just before may still be recording.
            if self._stop.wait(RETIRE_POLL_S):
                return
            try:
                if not self._store.list_operations(query).items:
                    return
            except exc.StoreUnavailable as error:
                LOG.warning("%s: can't tell what is still recorded for it: %s", self.host, error)

    def stop(self, timeout_s: float) -> bool:
        """Claim no more, let what runs end within the time, close the driver; True when nothing runs."""
        self._stop.set()
        self._wake.set()
        self.initializer.close()
        is_idle = self.runner.stop(timeout_s)
        last = self._generations.swap(None)
        if last is not None:
            last.closed.wait(CLOSE_TIMEOUT_S)
        self._write_stopped()
        return is_idle

    def _write_stopped(self) -> None:
        self.row.try_to_write({"state": "stopped", "step": None, "reason": self._stop_reason}, "that it stopped")

    def reinit(self) -> None:
        """Try now, whatever was used up; does nothing to a backend that is ready."""
        self.initializer.ask()
        self._wake.set()

    def describe(self) -> str:
        """The backend's state in the words that ``service list`` shows."""
        return self.row.describe()

    # -- what a reload needs ---------------------------------------------------------------

    @property
    def blueprint(self) -> Blueprint | None:
        """What the driver that serves was built from."""
        return self._blueprint

    @property
    def is_exclusive(self) -> bool:
        """Whether the driver that serves can't exist twice."""
        with self._generations.use() as driver:
            return driver.exclusive

    def steps_for(self, load: BlueprintLoader) -> list[Step[Candidate]]:
        """The steps that build and prove another driver of this backend."""
        return VolumeInit(host=self.host, store=self._store, load=load, resume=self._resume).preparation()

    def wait_for_old_generations(self, timeout_s: float, wait: Callable[[threading.Event, float], bool]) -> None:
        """At most two generations live: raises ``ConfigurationError`` while one before this still does."""
        old = self._old_generation
        if old is not None and not wait(old.closed, timeout_s):
            raise exc.ConfigurationError(
                reason=f"{self.host}: an operation still uses the driver that the reload before replaced; "
                "reload again when it has ended ('volsvc-manage operation list' shows it)"
            )

    def make_room(self, timeout_s: float, wait: Callable[[threading.Event, float], bool]) -> Blueprint | None:
        """For an exclusive driver: let its operations end, close it, and return what it was built from.

        New operations queue meanwhile, and the backend counts as ready.  ``put_back`` or
        ``take_settings`` must follow.  Raises ``ConfigurationError`` when its operations take too long.
        """
        self._is_swapping = True
        old = self._generations.swap(None)
        if old is not None and not wait(old.closed, timeout_s):
            self._is_swapping = False
            self._lose("its operations did not end in time for a reload", step="reload")
            raise exc.ConfigurationError(
                reason=f"{self.host}: its operations did not end within {timeout_s:.0f} s, and its driver can't exist "
                "twice; the backend is initialised again with what it had"
            )
        return self._blueprint

    def put_back(self, blueprint: Blueprint) -> None:
        """Build the old driver of an exclusive backend again; if that fails the backend is lost and heals."""
        candidate = Candidate()
        try:
            run_once(
                f"put-back-{self.host}",
                self.steps_for(lambda: blueprint),
                candidate,
                timeout_s=self._settings.driver_init_timeout_s,
                discard=Candidate.close,
                wait=lambda event, timeout_s: event.wait(timeout_s),
            )
        except StepFailed as error:
            self._is_swapping = False
            self._lose(f"after a refused reload the old driver did not come back: {error}", step=error.step)
            self._wake.set()
            return
        self._swap(candidate)
        self._is_swapping = False
        self.runner.ring()

    def take_settings(
        self, load: BlueprintLoader, settings: ManagerSettings, candidate: Candidate | None
    ) -> Generation | None:
        """Serve with these from now on; returns the generation that ``candidate`` replaced.

        A backend that isn't ready is tried again at once.
        """
        self._settings = settings
        self._init.load_blueprint = load
        self.initializer.set_limits(max_retries=settings.reinit_driver_count, timeout_s=settings.driver_init_timeout_s)
        self.runner.apply(settings.runner)
        if candidate is not None:
            self._old_generation = self._swap(candidate)
            self._is_swapping = False
            self._write_swapped(candidate)
        elif not self.initializer.is_ready:
            self.initializer.ask()
        self._wake.set()
        self.runner.ring()
        return self._old_generation if candidate is not None else None

    def _write_swapped(self, candidate: Candidate) -> None:
        try:
            self._write_adopted(candidate)
        except exc.StoreUnavailable as error:
            LOG.warning("%s: its new capabilities are published later: %s", self.host, error)

    def restore_exports(self) -> None:
        """After a swap: have the new driver adopt the exporters."""
        with self._generations.use() as driver:
            self._init.restore_exports(driver)

    # -- the periodic task -------------------------------------------------------------

    def _publish_loop(self) -> None:
        while not self._stop.is_set():
            try:
                self.publish_service_capabilities()
            except BaseException:
                LOG.exception("%s: publishing failed; it is tried again at the next interval", self.host)
            self._wake.wait(self._pause_s())
            self._wake.clear()

    def _pause_s(self) -> float:
        """Until the next publish: a tenth of jitter keeps a fleet's daemons from asking one storage in step."""
        return self._settings.publish_interval_s * random.uniform(0.9, 1.0)  # noqa: S311

    def publish_service_capabilities(self) -> None:
        """Ready: read the stats and publish.  Not ready but recoverable: initialise again.  Else: skip."""
        self.row.write_late()
        self._take_back()
        if self._is_swapping:
            return
        # Before the attempt too: a backend that flaps is ready whenever an attempt has just ended.
        if not self.initializer.is_ready and self.initializer.status.last_attempt is not None:
            self._expire_queued()
        if self.initializer.is_ready:
            self._publish_stats()
        elif self.initializer.wants_attempt:
            self.init_host()

    def init_host(self) -> InitStatus:
        """One attempt to initialise the driver."""
        return self.initializer.attempt(self._stop)

    def _publish_stats(self) -> None:
        try:
            stats = self._stats.read(self._settings.driver_init_timeout_s)
        except BaseException as error:  # noqa: BLE001 - a driver's error of any kind must not end the periodic task
            self._stats_failures += 1
            LOG.warning("%s: reading stats failed (%d in a row): %s", self.host, self._stats_failures, error)
            self.initializer.note_failed_publish(exc.describe(error))
            if self._stats_failures >= self._settings.backend_loss_threshold:
                self._lose(exc.describe(error), step="get_volume_stats")
            return
        self._stats_failures = 0
        try:
            self._write_capabilities(stats)
        except exc.StoreUnavailable as error:
            LOG.warning("%s: its capabilities are published later: %s", self.host, error)
            return
        self.initializer.note_published()

    def _expire_queued(self) -> None:
        try:
            for operation in self._store.expire_queued(self.host):
                LOG.error("operation %s: %s waited too long for %s", operation.id, operation.action, self.host)
        except exc.StoreUnavailable as error:
            LOG.warning("%s: queued work not looked at: %s", self.host, error)

    # -- the steps of an attempt -----------------------------------------------------------

    def _take_back(self) -> None:
        """Once for each start: what an earlier instance left running goes back to the queue.

        It needs no driver, so that work behind a dead backend gets its deadline too.
        """
        if not self._has_taken_back:
            self.runner.take_back()
            self._has_taken_back = True

    def _resume(self, driver: VolumeDriver) -> None:
        self._take_back()
        if not self._has_cleared_up:
            for name in driver.remove_leftovers():
                LOG.info("%s: removed the unfinished file %s", self.host, name)
            self._has_cleared_up = True

    def _adopt(self, candidate: Candidate) -> None:
        self._write_adopted(candidate)
        self._swap(candidate)

    def _swap(self, candidate: Candidate) -> Generation | None:
        self._stats_failures = 0
        self._ready_since = self._clock()
        self._blueprint = candidate.blueprint
        return self._generations.swap(candidate.require_driver())

    def _write_adopted(self, candidate: Candidate) -> None:
        self._identity = candidate.identity
        fields: dict[str, Any] = {"backend_uuid": candidate.identity}
        if candidate.stats is not None:
            fields["capabilities"] = self._capabilities(candidate.stats)
        self.row.write(fields)

    # -- losing and reporting ------------------------------------------------------------------

    def _on_unavailable(self, error: exc.BackendUnavailable) -> None:
        """A driver that a reload has replaced says nothing about the one that serves now."""
        if error.is_of_current_driver:
            self._lose(exc.describe(error), step="operation")

    def _lose(self, reason: str, *, step: str) -> None:
        lost = self._generations.current
        if self.initializer.lose(reason, step=step):
            self._generations.drop(lost)
            # One that has served for a while is tried again at once; one that flaps waits its turn.
            if self._clock() - self._ready_since > self._settings.publish_interval_s:
                self._wake.set()

    def _on_init_change(self, status: InitStatus) -> None:
        self.row.show(status, retry_in_s=self._settings.publish_interval_s)
        if status.state is InitState.READY and status.reason is None:
            self.runner.ring()

    def _write_capabilities(self, stats: models.BackendStats) -> None:
        self.row.write({"capabilities": self._capabilities(stats)})

    def _capabilities(self, stats: models.BackendStats) -> dict[str, Any]:
        return capabilities_of(stats, self._settings.backend_name or self.host.partition("@")[2])

    # -- operations -----------------------------------------------------------------------------

    def reset_status(self, operation: models.Operation, control: OperationControl) -> Result:
        """Reset a volume or a snapshot: the storage is asked first, see ``ResetWork``."""
        return self._resets.reset(operation, control)

    def _find_handler(self, action: str) -> Handler | None:
        if action in self._own_handlers:
            return self._own_handlers[action]
        handle = self._actions.find(action)
        if handle is None:
            return None

        def run(operation: models.Operation, control: OperationControl) -> Result:
            with self._generations.use() as driver:
                try:
                    return handle(operation, driver, control)
                except exc.BackendUnavailable as error:
                    error.is_of_current_driver = self._generations.is_current(driver)
                    raise

        return run
