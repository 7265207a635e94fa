"""The one place that reloads: read, compare, prepare everything, then swap everything.

A reload either happens whole or not at all.  ``Reloadable`` things say what would change and
build it beside what serves (``prepare``); only when all have done so is anything swapped
(``Change.apply``).  What was replaced ends by itself afterwards (``Change.drain``), on a thread,
so that neither requests nor the main loop wait for it.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from volsvc import exceptions as exc
from volsvc.ports import Clock, Notifier
from volsvc.settings import Settings

LOG = logging.getLogger(__name__)

#: Options of [DEFAULT] whose change only a restart can follow, with the reason.
FIXED = {
    "host": "volumes are recorded under it",
    "state_path": "the database, the locks and the volumes are below it",
    "runtime_path": "the sockets of exporters that serve now are below it",
}

Tick = Callable[[], None]


class Change(Protocol):
    """One part's new self, built and not yet in service."""

    part: str
    options: Sequence[str]  # names of what changed, as "[group] name"
    is_slow: bool  # whether ``drain`` waits for operations

    def apply(self) -> None:
        """Put it in service: a few pointers, no waiting.  Must not fail."""

    def discard(self) -> None:
        """The reload was refused: close what was built."""

    def drain(self, timeout_s: float) -> None:
        """Wait until nobody uses the old self any more, and close it."""


class Reloadable(Protocol):
    def prepare(self, new: Settings, tick: Tick) -> Sequence[Change]:
        """Build what ``new`` changes, beside what serves.  Raises to refuse the whole reload.

        ``tick`` is to be called while waiting; it raises when the daemon is asked to stop.
        """


class ReloadInterrupted(exc.VolsvcError):
    template = "the daemon was asked to stop during the reload; nothing was changed"


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """How a reload ended; ``error`` None means that the new settings serve."""

    number: int
    digest: str
    at: dt.datetime
    duration_s: float
    parts: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    error: str | None = None


class Reloader:
    """Reloads a process.  ``reload`` is called from the main loop only, one at a time.

    ``load`` reads and checks the files anew; ``reloadables`` in the order in which they are prepared
    and swapped; ``on_report`` is told how each reload ended; ``after_swap`` looks for work that may
    have come in between.
    """

    def __init__(
        self,
        *,
        current: Settings,
        load: Callable[[], Settings],
        reloadables: Sequence[Reloadable],
        notifier: Notifier,
        on_report: Callable[[ReloadReport], None],
        after_swap: Callable[[], None],
        drain_timeout_s: float = 3600.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self.current = current
        self.last: ReloadReport | None = None
        self._load = load
        self._reloadables = list(reloadables)
        self._notifier = notifier
        self._on_report = on_report
        self._after_swap = after_swap
        self._drain_timeout_s = drain_timeout_s
        self._clock = clock
        self._count = 0

    def reload(self, tick: Tick) -> ReloadReport:
        """Read the files and make them true, or change nothing and say why."""
        started = self._clock()
        self._count += 1
        self._notifier.info("service.reload.start", {"host": self.current.host, "number": self._count})
        digest = self.current.digest
        changes: list[Change] = []
        refusal: str | None = None
        try:
            new = self._load()
            digest = new.digest
            refuse_fixed(self.current, new)
            for reloadable in self._reloadables:
                changes.extend(reloadable.prepare(new, tick))
        except (Exception, SystemExit) as error:  # a library that exits must not end a daemon that serves
            refusal = exc.describe(error)
            if not isinstance(error, exc.VolsvcError):
                LOG.exception("reload %d failed", self._count)
        if refusal is not None:
            for change in reversed(changes):
                _discard(change)
            return self._refused(digest, refusal, started)
        for change in changes:
            self._apply(change)
        self.current = new
        self._after_swap()
        return self._applied(new, changes, started)

    def _apply(self, change: Change) -> None:
        """One that fails all the same must not leave the others on the old settings."""
        try:
            change.apply()
        except Exception:
            LOG.exception("reload %d: swapping %s failed; restart the daemon", self._count, change.part)

    def _refused(self, digest: str, reason: str, started: float) -> ReloadReport:
        report = self._report(digest, started, error=reason)
        LOG.error("reload %d refused, the daemon goes on with what it had: %s", report.number, reason)
        self._tell(report)
        self._notifier.error("service.reload.error", self._payload(report))
        return report

    def _applied(self, new: Settings, changes: list[Change], started: float) -> ReloadReport:
        report = self._report(
            new.digest,
            started,
            parts=tuple(change.part for change in changes if change.part and change.options),
            options=tuple(sorted({name for change in changes for name in change.options})),
        )
        LOG.info(
            "reload %d applied in %.3f s: %s",
            report.number,
            report.duration_s,
            f"{', '.join(report.parts)} ({', '.join(report.options)})" if report.parts else "nothing had changed",
        )
        for warning in new.warnings:
            LOG.warning("%s", warning)
        self._tell(report)
        self._notifier.info("service.reload.applied", self._payload(report))
        threading.Thread(
            target=self._drain, args=(changes, report), name=f"reload-drain-{report.number}", daemon=True
        ).start()
        return report

    def _drain(self, changes: list[Change], report: ReloadReport) -> None:
        started = self._clock()
        slow = [
            threading.Thread(target=self._drain_one, args=(change, report), name=f"drain-{change.part}", daemon=True)
            for change in changes
            if change.is_slow
        ]
        for thread in slow:
            thread.start()
        # Backwards, so that what stands on another part is closed before that part is.
        for change in reversed(changes):
            if not change.is_slow:
                self._drain_one(change, report)
        for thread in slow:
            thread.join()
        duration_s = round(self._clock() - started, 3)
        LOG.info("reload %d: what it replaced has ended after %.3f s", report.number, duration_s)
        self._notifier.info("service.reload.end", {**self._payload(report), "drained_after_s": duration_s})

    def _drain_one(self, change: Change, report: ReloadReport) -> None:
        try:
            change.drain(self._drain_timeout_s)
        except Exception:
            LOG.exception("reload %d: closing the old %s failed; it is dropped", report.number, change.part)

    def _report(
        self,
        digest: str,
        started: float,
        *,
        parts: tuple[str, ...] = (),
        options: tuple[str, ...] = (),
        error: str | None = None,
    ) -> ReloadReport:
        return ReloadReport(
            number=self._count,
            digest=digest,
            at=dt.datetime.now(dt.UTC).replace(tzinfo=None),
            duration_s=round(self._clock() - started, 3),
            parts=parts,
            options=options,
            error=error,
        )

    def _tell(self, report: ReloadReport) -> None:
        self.last = report
        self._on_report(report)

    def _payload(self, report: ReloadReport) -> dict[str, object]:
        return {
            "host": self.current.host,
            "number": report.number,
            "digest": report.digest,
            "duration_s": report.duration_s,
            "parts": list(report.parts),
            "options": list(report.options),
            "error": report.error,
        }


def refuse_fixed(current: Settings, new: Settings) -> None:
    """Raises ``ConfigurationError`` for a change that only a restart can follow."""
    for name, reason in FIXED.items():
        if current.service[name] != new.service[name]:
            raise exc.ConfigurationError(
                reason=f"{name} can't change by a reload ({current.service[name]} -> {new.service[name]}): {reason}; "
                "put it back, or restart"
            )


def _discard(change: Change) -> None:
    try:
        change.discard()
    except Exception:
        LOG.exception("closing the new %s of a refused reload failed; it is dropped", change.part)


def wait_with_ticks(event: threading.Event, timeout_s: float, tick: Tick, clock: Clock = time.monotonic) -> bool:
    """Wait for ``event`` at most ``timeout_s``, calling ``tick`` ten times a second; whether it came."""
    deadline = clock() + timeout_s
    while not event.wait(min(0.1, max(0.0, deadline - clock()))):
        tick()
        if clock() >= deadline:
            return False
    return True
