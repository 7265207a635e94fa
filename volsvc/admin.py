"""Requests of the host's admin that go through the database, and the wait for their end."""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.control import describe_intent, reinit_intent, reload_intent
from volsvc.ports import Correction, Intent, Query, Store
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

    def forget_storage(self, host: str, *, is_lost: bool = False) -> int:
        """Drop the identity of a service's storage; returns how many backups were given up.

        ``is_lost``: a backup service's store will never be there again. Its backups become errors, which can be
        deleted without it; if it is found after all, a reset to 'available' takes each back.  Repeatable.
        Raises ``Conflict`` while records say that the storage holds something, or a service is up that has it.
        """
        from volsvc.backup.driver_init import has_backups

        service = self._find(host)
        if service.is_up and not is_lost:
            raise exc.Conflict(reason=f"{host} is up and has its storage; there is nothing to forget")
        if self._store.volumes_on(host) or self._store.snapshots_on(host):
            raise exc.Conflict(reason=f"{host} has volumes or snapshots; they are on the storage that it knows")
        given_up = 0
        if service.serves_backups and is_lost:
            self._require_lost(service)
            given_up = self._give_up_backups(host)
        if service.serves_backups and has_backups(self._store, host):
            raise exc.Conflict(
                reason=f"{host} has backups; they are in the store that it knows. If that one will never be there "
                "again, --lost gives them up"
            )
        self._store.report_service(service.id, {"backend_uuid": None})
        return given_up

    def _require_lost(self, service: models.Service) -> None:
        for other in self._store.list_services():
            has_it = other.id == service.id or (
                other.backend_uuid is not None and other.backend_uuid == service.backend_uuid
            )
            if other.serves_backups and other.is_up and has_it:
                raise exc.Conflict(
                    reason=f"{other.host} is up and has this store; it isn't lost. If it is and that service hasn't "
                    "noticed yet, wait until it is down, or stop it"
                )

    def _give_up_backups(self, host: str) -> int:
        given_up = 0
        while True:
            query = Query(filters={"host": host, "is_stored": True}, limit=100)
            backups = self._store.list_backups(query).items
            for backup in backups:
                lost = {"is_stored": False, "fail_reason": f"the store {backup.store_uuid} was lost"}
                intent = Intent("backup_reset", _context(), backup.id, host=host, args={"status": "error"})
                self._store.correct(intent, Correction(status="error", columns=lost), {"lost": True})
            given_up += len(backups)
            if not backups:
                return given_up

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
