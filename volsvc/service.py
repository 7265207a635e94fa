"""One process: its parts, their order, the main loop that signals wake, and the reload.

A no-fork launcher runs services one after the other, so everything a process does is one
``VolsvcService`` that owns its parts.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from oslo_service import service as oslo_service

from volsvc import __version__, logs, sd_notify
from volsvc.control import ProcessRequests
from volsvc.foundations import Foundations
from volsvc.reloader import Change, Reloader, ReloadInterrupted, ReloadReport, Tick
from volsvc.settings import Settings
from volsvc.signals import SignalFlags

LOG = logging.getLogger(__name__)

MAIN_LOOP_INTERVAL_S = 5.0
RELOAD_ANSWER_TIMEOUT_S = 300.0


class Part(Protocol):
    """Something a process does, from ``start`` to ``stop``."""

    name: str

    def start(self) -> None: ...

    def prepare(self, new: Settings, tick: Tick) -> Sequence[Change]:
        """See ``reloader.Reloadable``."""

    def stop_accepting(self) -> None:
        """Take no new work; quick."""

    def stop(self, timeout_s: float) -> None: ...

    def attach(self, process: ProcessRequests) -> None:
        """Where requests to the whole process go; called once, before ``start``."""

    def look_for_work(self) -> None:
        """A reload has swapped something: what could not be rung for meanwhile is found now."""

    def report_config(self, settings: Settings, report: ReloadReport | None) -> None:
        """Write where an operator looks which configuration serves."""


class VolsvcService(oslo_service.ServiceBase):  # type: ignore[misc]
    """Owns the parts of a process; ``wait`` is its main loop.

    ``on_ready`` is called once, when every part has started.
    """

    def __init__(
        self,
        foundations: Foundations,
        parts: Sequence[Part],
        flags: SignalFlags,
        load_settings: Callable[[], Settings],
        on_ready: Callable[[], None] = lambda: None,
        is_debug: bool = False,
    ) -> None:
        self._foundations = foundations
        self._parts = list(parts)
        self._flags = flags
        self._on_ready = on_ready
        self._reload_done = threading.Condition()
        self._reloader = Reloader(
            current=foundations.settings,
            load=load_settings,
            reloadables=[
                logs.LogReload(foundations.settings, is_debug=is_debug),
                *parts_after_foundations(foundations, parts),
            ],
            notifier=foundations.notifier,
            on_report=self._report,
            after_swap=self._look_for_work,
        )

    def start(self) -> None:
        self._flags.start_deadline_thread()
        for part in self._parts:
            part.attach(self)
            part.start()
        names = ", ".join(part.name for part in self._parts)
        LOG.info("volsvc %s serves: %s (pid %d)", __version__, names, os.getpid())
        for part in self._parts:
            part.report_config(self._reloader.current, None)
        sd_notify.ready(f"serving: {names}")
        self._on_ready()

    def wait(self) -> None:
        """The main loop: reload when asked, until asked to stop."""
        watchdog_s = sd_notify.watchdog_interval_s()
        while not self._flags.stop_requested:
            if self._flags.reload_requested:
                # Cleared before the work: a signal during it asks for exactly one more.
                self._flags.reload_requested = False
                self._reload()
                continue
            if watchdog_s is not None:
                sd_notify.alive()
            self._flags.wait(min(watchdog_s or MAIN_LOOP_INTERVAL_S, MAIN_LOOP_INTERVAL_S))
        self.stop()

    def stop(self) -> None:
        """Take no new work, finish what runs within ``graceful_shutdown_timeout``, close everything."""
        sd_notify.stopping()
        timeout_s = float(self._reloader.current.service.graceful_shutdown_timeout)
        LOG.info("stopping; what runs has %.0f s", timeout_s)
        deadline = time.monotonic() + timeout_s * 0.9
        for part in self._parts:
            part.stop_accepting()
        for part in reversed(self._parts):
            part.stop(max(1.0, deadline - time.monotonic()))
        self._foundations.close()
        LOG.info("stopped")

    def reset(self) -> None:
        self._flags.reload_requested = True

    def _reload(self) -> None:
        """SIGHUP: reopen the logs whatever the file says, then reload."""
        sd_notify.reloading()
        try:
            logs.reopen()
            self._reloader.reload(self._tick)
            self._flags.set_shutdown_timeout(self._reloader.current.service.graceful_shutdown_timeout)
        except Exception:
            LOG.exception("the reload failed; the daemon goes on with what it had")
        sd_notify.ready("reloaded")

    def _tick(self) -> None:
        """While a reload waits for a driver the main loop can't: do what can't be put off."""
        if self._flags.stop_requested:
            raise ReloadInterrupted
        sd_notify.alive()

    def _look_for_work(self) -> None:
        for part in self._parts:
            part.look_for_work()

    def _report(self, report: ReloadReport) -> None:
        for part in self._parts:
            part.report_config(self._reloader.current, report)
        with self._reload_done:
            self._reload_done.notify_all()

    def request_reload(self, timeout_s: float) -> ReloadReport | None:
        """Ask the main loop for a reload and wait for its end, from another thread; None if it takes too long."""
        with self._reload_done:
            before = self._reloader.last
            self._flags.request_reload()
            self._reload_done.wait_for(lambda: self._reloader.last is not before, timeout_s)
            return self._reloader.last if self._reloader.last is not before else None

    def reload_now(self) -> dict[str, Any]:
        """For ``control``: see ``ProcessRequests``."""
        report = self.request_reload(RELOAD_ANSWER_TIMEOUT_S)
        if report is None:
            return {
                "error": f"the reload has not ended within {RELOAD_ANSWER_TIMEOUT_S:.0f} s; the log says how it ends"
            }
        return {"error": report.error, "parts": report.parts, "options": report.options, "digest": report.digest}

    def describe_settings(self, salt: str) -> dict[str, str]:
        """For ``control``: see ``ProcessRequests``."""
        return self._reloader.current.describe(salt)


def parts_after_foundations(foundations: Foundations, parts: Sequence[Part]) -> list[Foundations | Part]:
    """The order in which things are prepared and swapped: what others stand on comes first."""
    return [foundations, *parts]
