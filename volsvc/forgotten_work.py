"""Ends work that waits for a daemon which isn't there.

A daemon keeps the deadlines of what waits for its backends.  When it was stopped, died or lost its
backend to a change of the configuration, nobody would; so whoever serves the API looks, because
there are the users who would wait for ever.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Store

LOG = logging.getLogger(__name__)


class ForgottenWork:
    """Looks each ``interval_s``; a daemon whose heartbeat is older than ``down_time_s`` is gone.

    Both are asked at each look, because a reload may change them.
    """

    def __init__(self, store: Store, *, interval_s: Callable[[], float], down_time_s: Callable[[], float]) -> None:
        self._store = store
        self._interval_s = interval_s
        self._down_time_s = down_time_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="forgotten-work", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def look(self) -> None:
        """End queued operations of absent daemons whose deadline has passed.  Raises ``StoreUnavailable``."""
        for service in self._store.list_services():
            if not self._is_absent(service):
                continue
            for operation in self._store.expire_queued(service.host):
                LOG.error(
                    "operation %s: %s waited too long for the daemon of %s",
                    operation.id,
                    operation.action,
                    service.host,
                )

    def _is_absent(self, service: models.Service) -> bool:
        if service.state == "stopped" or service.heartbeat_at is None:
            return True
        age_s = (dt.datetime.now(dt.UTC).replace(tzinfo=None) - service.heartbeat_at).total_seconds()
        return not service.is_up and age_s > self._down_time_s()

    def _loop(self) -> None:
        while not self._stop.wait(self._interval_s()):
            try:
                self.look()
            except exc.StoreUnavailable as error:
                LOG.warning("forgotten work not looked for: %s", error)
            except Exception:
                LOG.exception("looking for forgotten work failed; it goes on at the next look")
