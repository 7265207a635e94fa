"""Serving with a driver, from its first attempt to its last operation: what every manager does.

It ties together the initialiser (is the driver there?), the generations (which driver do
operations begin on?), the runner (what is to be done?) and the service's row (what does the
operator see?).  Threads: one for initialising and publishing, the runner's, and one for an
attempt while it lasts.  ``driver_manager`` adds what a reload needs.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from volsvc import exceptions as exc
from volsvc import models
from volsvc.driver_init import Blueprint, Candidate, DriverInit, DriverT, StatsT
from volsvc.driver_probe import DriverProbe
from volsvc.generations import CurrentGeneration, Generation
from volsvc.initializer import DriverInitializer, InitState, InitStatus
from volsvc.operations import Handler, OperationControl, OperationRunner, Result, RunnerSettings
from volsvc.ports import Clock, Doorbell, NobodyRings, Notifier, Query, Store
from volsvc.service_row import ServiceRow
from volsvc.states import SHOWN_TO_OTHERS

LOG = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 2.0  # of a driver when the daemon stops; one that hangs ends with the process


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """The options that every manager has, frozen.

    ``retries_start``: whether a start that failed is tried again by itself, ``reinit_driver_count`` times.
    ``queue_timeout_s``: how long what is asked waits for a service that isn't ready, 0 for ever.
    """

    reinit_driver_count: int = 3
    retries_start: bool = True
    driver_init_timeout_s: float = 60.0
    publish_interval_s: float = 60.0
    backend_loss_threshold: int = 3
    availability_zone: str = "nova"
    version: str = ""
    queue_timeout_s: float = 3600.0
    runner: RunnerSettings = field(default_factory=RunnerSettings)


SettingsT = TypeVar("SettingsT", bound=DriverSettings)
Action = Callable[[models.Operation, DriverT, OperationControl], Result]
Load = Callable[[], Blueprint[DriverT]]


class DriverService(Generic[DriverT, StatsT, SettingsT]):
    """Serves ``host`` with a driver.

    ``load_blueprint`` finds what its driver is built from; it and building may raise.  Nothing
    happens before ``start``.
    """

    binary: ClassVar[str]  # what os-services shows; clients filter by Cinder's names
    event_prefix: ClassVar[str]  # of the notifications of attempts
    probe_name: ClassVar[str]  # the step that is named when a driver that serves is lost

    def __init__(
        self,
        *,
        host: str,
        instance: str,
        store: Store,
        notifier: Notifier,
        load_blueprint: Load[DriverT],
        settings: SettingsT,
        doorbell: Doorbell | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.host = host
        self._doorbell = doorbell or NobodyRings()
        self.instance = instance
        self._store = store
        self.row = ServiceRow(
            host=host,
            binary=self.binary,
            instance=instance,
            store=store,
            notifier=notifier,
            event_prefix=self.event_prefix,
            label=self.label,
        )
        self._settings = settings
        self._clock = clock
        self._generations: CurrentGeneration[DriverT] = CurrentGeneration(self.label)
        self._blueprint: Blueprint[DriverT] | None = None  # of the current generation
        self._old_generation: Generation[DriverT] | None = None  # the one that a reload replaced last
        self._is_swapping = False  # an exclusive driver is away for a reload
        self._init = self._new_init(load_blueprint)
        self._probe = DriverProbe(
            f"stats-{self.label}", self._generations.use, self._init.read_stats, what=self.probe_name
        )
        self._identity: str | None = None  # of the storage that serves
        self._failed_probes = 0
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
            on_ended=self._ring_those_who_waited,
            has_express_lane=True,
            clock=clock,
        )
        self.initializer: DriverInitializer[Candidate[DriverT, StatsT]] = DriverInitializer(
            name=self.label,
            steps=self._init.all_steps(),
            new_candidate=Candidate,
            adopt=self._adopt,
            discard=Candidate.close,
            on_change=self._on_init_change,
            max_retries=settings.reinit_driver_count,
            timeout_s=settings.driver_init_timeout_s,
            is_retrying=settings.retries_start,
            clock=clock,
        )
        self._publisher = threading.Thread(target=self._publish_loop, name=f"publish-{self.label}", daemon=True)

    # -- what each kind of driver has of its own ------------------------------------------

    @property
    def label(self) -> str:
        """What logs and threads call it."""
        return self.host

    def _new_init(self, load: Load[DriverT]) -> DriverInit[DriverT, StatsT]:
        """The steps that bring its driver up; called when nothing but ``host`` and the store is there yet."""
        raise NotImplementedError

    def _capabilities(self, stats: StatsT) -> dict[str, Any]:
        """What is published."""
        raise NotImplementedError

    def _find_own_handler(self, action: str) -> Handler | None:
        """For actions that choose themselves when they use the driver."""
        return None

    def _find_action(self, action: str) -> Action[DriverT] | None:
        """For actions that hold the current driver from their beginning to their end."""
        raise NotImplementedError

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
        if not self.row.is_own():
            LOG.error("%s: another daemon serves under this name; each needs a host of its own", self.label)
            return
        self.row.try_to_write({"state": "stopped", "step": None, "reason": self._stop_reason}, "that it stopped")

    def reinit(self) -> None:
        """Try now, whatever was used up; does nothing to a driver that is ready."""
        self.initializer.ask()
        self._wake.set()

    def describe(self) -> str:
        """Its state in the words that ``service list`` shows."""
        return self.row.describe()

    # -- the periodic task -------------------------------------------------------------

    def _publish_loop(self) -> None:
        while not self._stop.is_set():
            try:
                self.publish_service_capabilities()
            except exc.StoreUnavailable as error:
                LOG.warning("%s: publishing goes on at the next interval: %s", self.label, error)
            except BaseException:
                LOG.exception("%s: publishing failed; it is tried again at the next interval", self.label)
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
            stats = self._probe.read(self._settings.driver_init_timeout_s)
        except BaseException as error:  # noqa: BLE001 - a driver's error of any kind must not end the periodic task
            self._failed_probes += 1
            LOG.warning("%s: %s failed (%d in a row): %s", self.label, self._probe.what, self._failed_probes, error)
            self.initializer.note_failed_publish(exc.describe(error))
            if self._failed_probes >= self._settings.backend_loss_threshold:
                self._lose(exc.describe(error), step=self._probe.what)
            return
        self._failed_probes = 0
        try:
            self._write_capabilities(stats)
            if self._settings.queue_timeout_s:
                # Behind a service that works, work may well wait longer than that for other work.
                self._store.renew_deadlines(self.host, self._settings.queue_timeout_s)
        except exc.StoreUnavailable as error:
            LOG.warning("%s: its capabilities are published later: %s", self.label, error)
            return
        self.initializer.note_published()

    def _expire_queued(self) -> None:
        try:
            for operation in self._store.expire_queued(self.host):
                LOG.error("operation %s: %s waited too long for %s", operation.id, operation.action, self.label)
        except exc.StoreUnavailable as error:
            LOG.warning("%s: queued work not looked at: %s", self.label, error)

    # -- the end of an attempt -----------------------------------------------------------

    def _take_back(self) -> None:
        """Once for each start: what an earlier instance left running goes back to the queue.

        It needs no driver, so that work behind a dead backend gets its deadline too.
        """
        if not self._has_taken_back:
            self.runner.take_back()
            self._has_taken_back = True

    def _resume(self, driver: DriverT) -> None:
        self._take_back()
        if not self._has_cleared_up:
            for name in driver.remove_leftovers():
                LOG.info("%s: removed the unfinished file %s", self.label, name)
            self._has_cleared_up = True

    def _adopt(self, candidate: Candidate[DriverT, StatsT]) -> None:
        self._write_adopted(candidate)
        self._swap(candidate)

    def _swap(self, candidate: Candidate[DriverT, StatsT]) -> Generation[DriverT] | None:
        self._failed_probes = 0
        self._ready_since = self._clock()
        self._blueprint = candidate.blueprint
        return self._generations.swap(candidate.require_driver())

    def _write_adopted(self, candidate: Candidate[DriverT, StatsT]) -> None:
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

    def _write_capabilities(self, stats: StatsT) -> None:
        self.row.write({"capabilities": self._capabilities(stats)})

    # -- operations -----------------------------------------------------------------------------

    def _ring_those_who_waited(self, operation: models.Operation) -> None:
        """A restore waits in another daemon for the volume that is made for it, a forced delete for a restore."""
        if operation.action not in SHOWN_TO_OTHERS:
            return
        ids = [operation.resource_id, *([operation.second_id] if operation.second_id else [])]
        hosts: set[str] = set()
        for column in ("resource_id", "second_id"):
            waiting = self._store.list_operations(Query(filters={column: ids, "state": "queued"}))
            hosts |= {found.host for found in waiting.items if found.host}
        for host in sorted(hosts):
            self._doorbell.ring(host)

    def _find_handler(self, action: str) -> Handler | None:
        own = self._find_own_handler(action)
        if own is not None:
            return own
        handle = self._find_action(action)
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
