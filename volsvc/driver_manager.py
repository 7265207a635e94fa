"""A manager whose driver a reload may replace while it serves.

``VolumeManager`` and ``BackupManager`` are such; ``manager_reload`` calls what is here, in its order.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from volsvc import exceptions as exc
from volsvc.driver_init import Blueprint, Candidate, DriverT, StatsT
from volsvc.driver_service import DriverService, Load, SettingsT
from volsvc.generations import Generation
from volsvc.init_attempt import Step, StepFailed, run_once

LOG = logging.getLogger(__name__)

Wait = Callable[[threading.Event, float], bool]


class DriverManager(DriverService[DriverT, StatsT, SettingsT]):
    """Adds the reload to ``DriverService``."""

    @property
    def reload_part(self) -> str:
        """What the report of a reload calls its driver."""
        raise NotImplementedError

    @property
    def option_group(self) -> str:
        """The group of cinder.conf that its driver's options stand in."""
        raise NotImplementedError

    def after_swap(self) -> None:
        """A reload has put another driver in place: what has to be told to it, which may take a while."""

    # -- a reload, step by step ---------------------------------------------------------------

    @property
    def blueprint(self) -> Blueprint[DriverT] | None:
        """What the driver that serves was built from."""
        return self._blueprint

    @property
    def is_exclusive(self) -> bool:
        """Whether the driver that serves can't exist twice."""
        with self._generations.use() as driver:
            return driver.exclusive

    def steps_for(self, load: Load[DriverT]) -> list[Step[Candidate[DriverT, StatsT]]]:
        """The steps that build and prove another driver of this service."""
        return self._new_init(load).preparation()

    def wait_for_old_generations(self, timeout_s: float, wait: Wait) -> None:
        """At most two generations live: raises ``ConfigurationError`` while one before this still does."""
        old = self._old_generation
        if old is not None and not wait(old.closed, timeout_s):
            raise exc.ConfigurationError(
                reason=f"{self.label}: an operation still uses the driver that the reload before replaced; "
                "reload again when it has ended ('volsvc-manage operation list' shows it)"
            )

    def make_room(self, timeout_s: float, wait: Wait) -> Blueprint[DriverT] | None:
        """For an exclusive driver: let its operations end, close it, and return what it was built from.

        New operations queue meanwhile, and the service counts as ready.  ``put_back`` or
        ``take_settings`` must follow.  Raises ``ConfigurationError`` when its operations take too long.
        """
        self._is_swapping = True
        old = self._generations.swap(None)
        if old is not None and not wait(old.closed, timeout_s):
            self._is_swapping = False
            self._lose("its operations did not end in time for a reload", step="reload")
            raise exc.ConfigurationError(
                reason=f"{self.label}: its operations did not end within {timeout_s:.0f} s, and its driver can't exist "
                "twice; it is initialised again with what it had"
            )
        return self._blueprint

    def put_back(self, blueprint: Blueprint[DriverT]) -> None:
        """Build the old driver of an exclusive service again; if that fails it is lost and heals."""
        candidate: Candidate[DriverT, StatsT] = Candidate()
        try:
            run_once(
                f"put-back-{self.label}",
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
        self, load: Load[DriverT], settings: SettingsT, candidate: Candidate[DriverT, StatsT] | None
    ) -> Generation[DriverT] | None:
        """Serve with these from now on; returns the generation that ``candidate`` replaced.

        A service that isn't ready is tried again at once.
        """
        self._settings = settings
        self._init.load_blueprint = load
        self.initializer.set_limits(
            max_retries=settings.reinit_driver_count,
            timeout_s=settings.driver_init_timeout_s,
            is_retrying=settings.retries_start,
        )
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

    def _write_swapped(self, candidate: Candidate[DriverT, StatsT]) -> None:
        try:
            self._write_adopted(candidate)
        except exc.StoreUnavailable as error:
            LOG.warning("%s: its new capabilities are published later: %s", self.label, error)
