"""Choosing the backup daemon of a request from what the daemons reported.

Pure functions over service records.  Several daemons may share one store, which its marker's UUID
names: what one of them has made, each of them can restore and delete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from volsvc import exceptions as exc
from volsvc import models
from volsvc.placement import explain_down


def usable_for_new(services: Iterable[models.Service], zone: str | None = None) -> list[models.Service]:
    """The daemons that may be given a new backup, in the availability zone if one is named.

    Raises ``ServiceDown``, which says why each is none.
    """
    refusals: list[str] = []
    usable: list[models.Service] = []
    for service in services:
        if not service.serves_backups:
            continue
        refusal = _why_not(service, zone)
        if refusal is None:
            usable.append(service)
        else:
            refusals.append(f"{service.host}: {refusal}")
    if usable:
        return usable
    if not refusals:
        raise exc.ServiceDown("No backup service has reported yet; is volsvc-backup running?")
    raise exc.ServiceDown(f"No backup service can take this request: {'; '.join(refusals)}")


def choose_for_volume(
    usable: Iterable[models.Service], volume: models.Volume, open_operations: Mapping[str, int]
) -> models.Service:
    """The one on the volume's own machine, which reads the storage itself; then its zone, then the least work.

    ``open_operations``: how many each host has.
    """
    machine = models.backend_of(volume.host or "").partition("@")[0]
    return min(
        usable,
        key=lambda service: (
            service.host != machine,
            service.availability_zone != volume.availability_zone,
            open_operations.get(service.host, 0),
            service.host,
        ),
    )


def choose_for_store(usable: Iterable[models.Service], store_uuid: str | None) -> models.Service:
    """One that has that store, if any has."""
    return min(usable, key=lambda service: (store_uuid is None or service.backend_uuid != store_uuid, service.host))


def find_for_backup(services: Iterable[models.Service], backup: models.Backup) -> models.Service:
    """The daemon that made a backup, else another one that is up and has the same store.

    Raises ``ServiceDown`` with the reason of the first.
    """
    daemons = [service for service in services if service.serves_backups]
    own = next((service for service in daemons if service.host == backup.host), None)
    if own is not None and own.is_up and _may_have(own, backup.store_uuid):
        return own
    others = [
        service
        for service in daemons
        if service.is_up and backup.store_uuid is not None and service.backend_uuid == backup.store_uuid
    ]
    if others:
        return min(others, key=lambda service: (service.is_disabled, service.host))
    if own is None:
        raise exc.ServiceDown(
            host=backup.host, reason="no backup service with this name has reported, and no other one has its store"
        )
    if own.is_up:
        raise exc.ServiceDown(
            f"Backup {backup.id} is in the store {backup.store_uuid}, which no backup service that is up has; "
            f"{own.host} has {own.backend_uuid} now. Point a backup service at that store"
        )
    raise exc.ServiceDown(host=own.host, reason=explain_down(own))


def _may_have(service: models.Service, store_uuid: str | None) -> bool:
    return store_uuid is None or service.backend_uuid is None or service.backend_uuid == store_uuid


def _why_not(service: models.Service, zone: str | None) -> str | None:
    if service.is_disabled:
        return f"disabled ({service.disabled_reason or 'no reason given'})"
    if not service.is_up:
        return explain_down(service)
    if zone and zone != service.availability_zone:
        return f"is in the availability zone {service.availability_zone}, not {zone}"
    return None
