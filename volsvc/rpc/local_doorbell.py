"""The doorbell inside one process, where API and backends live together.

It needs no messaging library, so a process that has all its backends in it doesn't load one.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Doorbell

LOG = logging.getLogger(__name__)


class Bell(Protocol):
    """What a doorbell rings: the part of a backend that runs its operations."""

    def ring(self) -> None:
        """There is work; returns at once."""

    def wait_ended(self, operation_id: str, timeout_s: float) -> bool:
        """Block until that operation has ended, at most so long; whether it has."""


class LocalDoorbell:
    """Rings the bells that are registered here, and asks another doorbell for other hosts.

    Thread-safe.  Without ``fallback`` a host that isn't registered is down.
    """

    def __init__(self, fallback: Doorbell | None = None) -> None:
        self._fallback = fallback
        self._lock = threading.Lock()
        self._bells: dict[str, Bell] = {}

    def register(self, host: str, bell: Bell) -> None:
        """Let ``bell`` answer for ``host@backend``; replaces the one before."""
        with self._lock:
            self._bells[host] = bell

    def set_fallback(self, fallback: Doorbell) -> None:
        """Ask this one for other hosts from now on."""
        self._fallback = fallback

    def unregister(self, host: str) -> None:
        """Forget the host's bell.  May be repeated."""
        with self._lock:
            self._bells.pop(host, None)

    def ring(self, host: str) -> None:
        """Tell ``host@backend`` (or ``host@backend#pool``) that it has work.  Never raises."""
        bell = self._find(host)
        if bell is not None:
            bell.ring()
        elif self._fallback is not None:
            self._fallback.ring(host)
        else:
            LOG.debug("nobody rings at %s; its next sweep finds the work", host)

    def wait_for(self, operation: models.Operation, timeout_s: float) -> None:
        """Ring, and come back when the operation has ended or the time is over.

        Raises ``ServiceDown`` when nobody answers for its host.
        """
        if operation.host is None:
            return
        bell = self._find(operation.host)
        if bell is not None:
            bell.ring()
            bell.wait_ended(operation.id, timeout_s)
        elif self._fallback is not None:
            self._fallback.wait_for(operation, timeout_s)
        else:
            raise exc.ServiceDown(host=operation.host, reason="no such backend runs in this process")

    def _find(self, host: str) -> Bell | None:
        with self._lock:
            return self._bells.get(models.backend_of(host))
