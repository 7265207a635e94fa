"""A service's row: what a manager shows of itself, and the notifications that go with it.

Shared by every kind of manager.  What the database doesn't take is kept and written at the next
heartbeat, so that the state shown after an outage is true.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from volsvc import exceptions as exc
from volsvc.initializer import SELF_HEALING, AttemptReport, InitState, InitStatus
from volsvc.ports import Notifier, Store
from volsvc.service_words import describe_state

LOG = logging.getLogger(__name__)


class ServiceRow:
    """The row of ``host`` and ``binary``; ``label`` is what logs call it.

    ``event_prefix`` begins the notifications' names: ``volume.driver.init`` gives
    ``volume.driver.init.error`` and ``volume.driver.init.end``.
    """

    def __init__(
        self,
        *,
        host: str,
        binary: str,
        instance: str,
        store: Store,
        notifier: Notifier,
        event_prefix: str,
        label: str | None = None,
    ) -> None:
        self.host = host
        self._label = label or host
        self._binary = binary
        self._instance = instance
        self._store = store
        self._notifier = notifier
        self._event_prefix = event_prefix
        self._id: int | None = None
        self._guard = threading.Lock()
        self._unreported: InitStatus | None = None
        self._shown = InitStatus()
        self._notified: AttemptReport | None = None

    @property
    def id(self) -> int | None:
        """None before ``register``."""
        return self._id

    def register(self, status: InitStatus, fields: Mapping[str, Any]) -> None:
        """Write the whole row; again after a reload that changed the database.  Raises ``StoreUnavailable``."""
        own = {"instance": self._instance, "pid": os.getpid()}
        service = self._store.register_service(self.host, self._binary, {**own, **_columns(status), **fields})
        self._id = service.id

    def write(self, fields: Mapping[str, Any]) -> None:
        """Write columns.  Raises ``StoreUnavailable``, ``ServiceNotFound`` before ``register``."""
        if self._id is None:
            raise exc.ServiceNotFound(id=self.host)
        self._store.report_service(self._id, fields)

    def try_to_write(self, fields: Mapping[str, Any], what: str) -> bool:
        """Write columns if the database is there; ``what`` says in the log what was not written."""
        if self._id is None:
            return False
        try:
            self._store.report_service(self._id, fields)
        except exc.StoreUnavailable as error:
            LOG.warning("%s: %s is not written: %s", self._label, what, error)
            return False
        return True

    def is_own(self) -> bool:
        """Whether nobody has registered under the same name since; True when the database can't say."""
        try:
            services = self._store.list_services()
        except exc.StoreUnavailable:
            return True
        return all(service.instance == self._instance for service in services if service.id == self._id)

    def describe(self) -> str:
        """The state in the words that ``service list`` shows."""
        return describe_state(self._shown)

    def show(self, status: InitStatus, *, retry_in_s: float) -> None:
        """Log a new status, write it, and notify of the attempt that it ends.  Never raises."""
        is_news = status.last_attempt is not self._notified
        if status.state in SELF_HEALING and (status.attempts or is_news) and status.hanging_since is None:
            status = replace(status, next_attempt_at=_utcnow() + dt.timedelta(seconds=retry_in_s))
        with self._guard:
            self._unreported = self._shown = status
        if status.state is InitState.READY and status.reason is None:
            LOG.info("%s: %s", self._label, describe_state(status))
        elif status.attempts or is_news or status.state is InitState.LOST:
            LOG.error("%s: %s", self._label, describe_state(status))
        self.write_late()
        self._notify(status)

    def write_late(self) -> None:
        """Write the newest status if it isn't written yet; called at each heartbeat."""
        with self._guard:
            status = self._unreported
            if status is not None and self.try_to_write(_columns(status), f"its state {status.state}"):
                self._unreported = None

    def _notify(self, status: InitStatus) -> None:
        """One notification for each attempt that ended or hangs; one that hung and then ended well is told of too."""
        last = status.last_attempt
        if last is None or last is self._notified:
            return
        self._notified = last
        if last.was_hanging and last.step is not None:
            return
        payload = {
            "host": self.host,
            "binary": self._binary,
            "backend": self.host.partition("@")[2] or None,
            "state": str(status.state),
            "step": last.step,
            "reason": last.reason,
            "attempt": last.number,
            "losses": status.losses,
        }
        if last.step is None:
            self._notifier.info(f"{self._event_prefix}.end", payload)
        else:
            self._notifier.error(f"{self._event_prefix}.error", payload)


def _columns(status: InitStatus) -> dict[str, Any]:
    last = status.last_attempt
    return {
        "state": str(status.state),
        "step": status.step,
        "reason": status.reason,
        "attempts": status.attempts,
        "max_attempts": status.max_attempts,
        "losses": status.losses,
        "hanging_since": status.hanging_since,
        "next_attempt_at": status.next_attempt_at,
        "last_attempt": {**asdict(last), "at": last.at.isoformat()} if last else {},
    }


def _utcnow() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
