"""A manager's side of a reload: the new generation built beside the old, the swap, the draining.

A service that is ready must be ready with the new settings too, or the reload is refused.  One
that isn't ready is not built here: it takes the new settings and is tried again at once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from volsvc import exceptions as exc
from volsvc.driver_init import Blueprint, Candidate, DriverT, StatsT
from volsvc.driver_manager import DriverManager, Wait
from volsvc.driver_service import Load, SettingsT
from volsvc.generations import Generation
from volsvc.init_attempt import StepFailed, run_once

LOG = logging.getLogger(__name__)


@dataclass
class BackendChange(Generic[DriverT, StatsT, SettingsT]):
    """New settings of one manager, and its new driver when it needs one."""

    manager: DriverManager[DriverT, StatsT, SettingsT]
    load: Load[DriverT]
    settings: SettingsT
    options: Sequence[str]
    candidate: Candidate[DriverT, StatsT] | None = None
    restore: Blueprint[DriverT] | None = None  # an exclusive driver's old self, closed while the new one was tried
    _old: Generation[DriverT] | None = field(default=None)

    @property
    def part(self) -> str:
        return self.manager.reload_part

    def apply(self) -> None:
        self._old = self.manager.take_settings(self.load, self.settings, self.candidate)

    def discard(self) -> None:
        if self.candidate is not None:
            self.candidate.close()
        if self.restore is not None:
            self.manager.put_back(self.restore)

    def drain(self, timeout_s: float) -> None:
        if self.candidate is not None:
            self.manager.after_swap()
        if self._old is not None and not self._old.closed.wait(timeout_s):
            LOG.warning("%s: an operation still uses the old driver after %.0f s", self.manager.label, timeout_s)


def prepare_backend(
    manager: DriverManager[DriverT, StatsT, SettingsT],
    load: Load[DriverT],
    settings: SettingsT,
    options: Sequence[str],
    wait: Wait,
) -> BackendChange[DriverT, StatsT, SettingsT]:
    """Build what the manager needs for its new settings.

    ``options``: names already known to differ.  Raises ``ConfigurationError`` when one that is ready
    would not be ready with them.
    """
    change = BackendChange(manager, load, settings, options)
    if not manager.initializer.is_ready:
        return change
    try:
        blueprint = load()
    except exc.UnrecoverableDriverError as error:
        raise _refusal(manager, "load", exc.describe(error)) from error
    current = manager.blueprint
    if blueprint == current:
        return change
    names = getattr(blueprint, "changed_options", lambda other: ["its driver"])(current)
    change.options = [*options, *(f"[{manager.option_group}] {name}" for name in names)]
    manager.wait_for_old_generations(settings.driver_init_timeout_s, wait)
    candidate: Candidate[DriverT, StatsT] = Candidate()
    if manager.is_exclusive:
        change.restore = manager.make_room(settings.driver_init_timeout_s, wait)
    try:
        run_once(
            f"reload-{manager.label}",
            manager.steps_for(load),
            candidate,
            timeout_s=settings.driver_init_timeout_s,
            discard=Candidate.close,
            wait=wait,
        )
    except BaseException as error:
        if change.restore is not None:
            manager.put_back(change.restore)
        if isinstance(error, StepFailed):
            raise _refusal(manager, error.step, str(error)) from error
        raise
    change.candidate = candidate
    return change


def _refusal(manager: DriverManager[Any, Any, Any], step: str, reason: str) -> exc.ConfigurationError:
    return exc.ConfigurationError(
        reason=f"{manager.label} is ready now and would not be with the new settings ({reason or step})"
    )
