"""Requests of the host's admin that go through the database, and the wait for their end."""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.control import describe_intent, reinit_intent, reload_intent
from volsvc.ports import Intent, Store
from volsvc.service_words import describe_service

POLL_S = 0.1


class AdminRequests:
    """What ``volsvc-manage`` asks of running daemons."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def reinit(self, host: str, timeout_s: float) -> str:
        """Have ``host@backend`` try its driver now; returns its state afterwards.

        Raises ``ServiceNotFound``, ``ServiceDown`` when no daemon takes the request or the attempt
        failed.
        """
        service = self._find(host)
        if service.is_up:
            return "ready already"
        self._run(reinit_intent(_context(), host), timeout_s)
        return describe_service(self._find(host))

    def reload(self, host: str | None, timeout_s: float) -> dict[str, str | None]:
        """Have every daemon, or the one of ``host`` (a node or ``node@backend``), reload.

        Returns the reason of each refusal by host, None where the new settings serve.  A daemon
        serves several hosts and is asked once.
        """
        ended: dict[str, str | None] = {}
        for service in self._daemons(host):
            try:
                self._run(reload_intent(_context(), service.host), timeout_s)
                ended[service.host] = None
            except exc.VolsvcError as error:
                ended[service.host] = str(error)
        return ended

    def describe(self, host: str, salt: str, timeout_s: float) -> Mapping[str, Any]:
        """Which settings the daemon of ``host`` runs on, secrets as digests."""
        service = self._daemons(host)[0]
        return self._run(describe_intent(_context(), service.host, salt), timeout_s).result

    def _daemons(self, host: str | None) -> list[models.Service]:
        """One service of each running process that ``host`` names.  Raises ``ServiceNotFound``."""
        found: dict[str, models.Service] = {}
        for service in self._store.list_services():
            if service.state == "stopped" or (host and host not in (service.host, service.host.partition("@")[0])):
                continue
            found.setdefault(service.instance or service.host, service)
        if not found:
            raise exc.ServiceNotFound(f"no daemon of {host or 'any host'} is known; 'service list' shows them")
        return list(found.values())

    def forget_storage(self, host: str) -> None:
        """Drop the identity of a service's storage.  Raises ``Conflict`` while records say that it holds something."""
        from volsvc.backup.driver_init import has_backups

        service = self._find(host)
        if self._store.volumes_on(host) or self._store.snapshots_on(host):
            raise exc.Conflict(reason=f"{host} has volumes or snapshots; they are on the storage that it knows")
        if service.serves_backups and has_backups(self._store, host):
            raise exc.Conflict(reason=f"{host} has backups; they are in the store that it knows")
        self._store.report_service(service.id, {"backend_uuid": None})

    def _find(self, host: str) -> models.Service:
        services = self._store.list_services()
        for service in services:
            if service.host == host:
                return service
        known = ", ".join(service.host for service in services) or "none"
        raise exc.ServiceNotFound(f"there is no service {host}; those that have reported: {known}")

    def _run(self, intent: Intent, timeout_s: float) -> models.Operation:
        """Record, wait for the end, take it back if nobody began it."""
        operation = self._store.submit(intent)[0]
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            current = self._store.get_operation(operation.id)
            if not current.is_open:
                if current.state != "done":
                    raise (exc.find_error_class(current.error_class or "") or exc.OperationFailed)(
                        current.error or f"operation {current.id} ended as {current.state}"
                    )
                return current
            time.sleep(POLL_S)
        if self._store.withdraw(operation.id):
            raise exc.ServiceDown(
                host=intent.resource_id, reason=f"no daemon took the request within {timeout_s:.0f} s; is it running?"
            )
        raise exc.OperationTimeout(
            id=operation.id, reason="it goes on; 'volsvc-manage operation show' tells how it ends"
        )


def _context() -> models.RequestContext:
    return models.RequestContext(
        user_id=getpass.getuser(), project_id="admin", is_admin=True, request_id="volsvc-manage"
    )
