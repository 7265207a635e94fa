"""The heartbeat of a process's services, on a thread of its own so that no driver delays it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from volsvc import exceptions as exc
from volsvc.ports import Clock, Store

LOG = logging.getLogger(__name__)

PURGE_INTERVAL_S = 3600.0


class Heartbeat:
    """Stamps the rows of ``service_ids()`` every ``interval_s``; now and then purges old operations.

    ``on_beat`` is called after each stamp, for what could not be written while the database was away.
    """

    def __init__(
        self,
        store: Store,
        service_ids: Callable[[], Sequence[int]],
        *,
        interval_s: float,
        retention_days: int,
        on_beat: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._store = store
        self._service_ids = service_ids
        self._interval_s = interval_s
        self._retention_days = retention_days
        self._on_beat = on_beat
        self._clock = clock
        self._purge_at = clock() + PURGE_INTERVAL_S
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    def start(self) -> None:
        self.beat()
        self._thread.start()

    def apply(self, *, interval_s: float, retention_days: int) -> None:
        """A reload has changed them; they hold from the next beat on."""
        self._interval_s = interval_s
        self._retention_days = retention_days

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def beat(self) -> None:
        try:
            self._store.beat(list(self._service_ids()))
            self._on_beat()
        except exc.StoreUnavailable as error:
            LOG.warning("heartbeat not written: %s", error)

    def _loop(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.beat()
                self._purge()
            except Exception:
                LOG.exception("the heartbeat failed; it goes on in %.0f s", self._interval_s)

    def _purge(self) -> None:
        if not self._retention_days or self._clock() < self._purge_at:
            return
        self._purge_at = self._clock() + PURGE_INTERVAL_S
        count = self._store.purge_operations(self._retention_days)
        if count:
            LOG.info("removed %d operations that ended more than %d days ago", count, self._retention_days)
