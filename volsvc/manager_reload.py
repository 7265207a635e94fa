"""A volume manager's side of a reload: the new generation built beside the old, the swap, the draining.

A backend that is ready must be ready with the new settings too, or the reload is refused.  One
that isn't ready is not built here: it takes the new settings and is tried again at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from volsvc import exceptions as exc
from volsvc.generations import Generation
from volsvc.init_attempt import StepFailed, run_once
from volsvc.manager import BlueprintLoader, ManagerSettings, VolumeManager
from volsvc.volume_init import Blueprint, Candidate

LOG = logging.getLogger(__name__)

Tick = Callable[[], None]
Wait = Callable[[threading.Event, float], bool]


@dataclass
class BackendChange:
    """New settings of one backend, and its new driver when it needs one."""

    manager: VolumeManager
    load: BlueprintLoader
    settings: ManagerSettings
    options: Sequence[str]
    candidate: Candidate | None = None
    restore: Blueprint | None = None  # an exclusive driver's old self, closed while the new one was tried
    _old: Generation | None = field(default=None)

    @property
    def part(self) -> str:
        return f"backend {self.manager.host.partition('@')[2]}"

    def apply(self) -> None:
        self._old = self.manager.take_settings(self.load, self.settings, self.candidate)

    def discard(self) -> None:
        if self.candidate is not None:
            self.candidate.close()
        if self.restore is not None:
            self.manager.put_back(self.restore)

    def drain(self, timeout_s: float) -> None:
        if self.candidate is not None:
            self.manager.restore_exports()
        if self._old is not None and not self._old.closed.wait(timeout_s):
            LOG.warning("%s: an operation still uses the old driver after %.0f s", self.manager.host, timeout_s)


def prepare_backend(
    manager: VolumeManager,
    load: BlueprintLoader,
    settings: ManagerSettings,
    options: Sequence[str],
    wait: Wait,
) -> BackendChange:
    """Build what the backend needs for its new settings.

    ``options``: names already known to differ.  Raises ``ConfigurationError`` when a ready backend
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
    names = getattr(blueprint, "changed_options", lambda other: ["volume_driver"])(current)
    change.options = [*options, *(f"[{manager.host.partition('@')[2]}] {name}" for name in names)]
    manager.wait_for_old_generations(settings.driver_init_timeout_s, wait)
    candidate = Candidate()
    if manager.is_exclusive:
        change.restore = manager.make_room(settings.driver_init_timeout_s, wait)
    try:
        run_once(
            f"reload-{manager.host}",
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


def _refusal(manager: VolumeManager, step: str, reason: str) -> exc.ConfigurationError:
    return exc.ConfigurationError(
        reason=f"{manager.host} is ready now and would not be with the new settings ({reason or step})"
    )
