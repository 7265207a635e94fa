"""Services, pools and availability zones as Cinder shows them, with our initialiser's state beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from volsvc import models
from volsvc.api import microversions as mv
from volsvc.api.views.times import iso
from volsvc.service_words import describe_service


def service(found: models.Service, version: int) -> dict[str, Any]:
    """One service; the ``volsvc:`` fields say why it is down."""
    body: dict[str, Any] = {
        "binary": found.binary,
        "host": found.host,
        "zone": found.availability_zone,
        "status": "disabled" if found.is_disabled else "enabled",
        "state": "up" if found.is_up else "down",
        "updated_at": iso(found.heartbeat_at),
        "disabled_reason": found.disabled_reason,
        "volsvc:init_summary": describe_service(found),
        "volsvc:init_state": found.state,
        "volsvc:init_step": found.step,
        "volsvc:init_reason": found.reason,
        "volsvc:init_attempts": found.attempts,
        "volsvc:next_attempt_at": iso(found.next_attempt_at),
        "volsvc:version": found.version,
    }
    if version >= mv.CLUSTER_FIELDS:
        body["cluster"] = None
    if found.serves_volumes:
        body["replication_status"] = "disabled"
        body["active_backend_id"] = None
        body["frozen"] = False
        if version >= mv.BACKEND_STATE:
            body["backend_state"] = "up" if found.state == "ready" else "down"
    return body


def pool(found: models.Service, *, with_details: bool) -> dict[str, Any]:
    """A backend as a pool of capacity.  Cinder writes a capacity that the storage can't tell as "unknown"."""
    capabilities = dict(found.capabilities)
    backend = found.host.partition("@")[2] or found.host
    name = f"{found.host}#{capabilities.get('pool_name') or backend}"
    if not with_details:
        return {"name": name}
    for key in ("total_capacity_gb", "free_capacity_gb"):
        if capabilities.get(key) is None:
            capabilities[key] = "unknown"
    capabilities.setdefault("volume_backend_name", backend)
    capabilities["allocated_capacity_gb"] = found.allocated_gb
    capabilities["backend_state"] = "up" if found.is_up else "down"
    capabilities["timestamp"] = iso(found.heartbeat_at)
    return {"name": name, "capabilities": capabilities}


def zones(services: Iterable[models.Service]) -> list[dict[str, Any]]:
    """A zone is available when a volume service in it can take requests."""
    available: dict[str, bool] = {}
    for found in services:
        if found.serves_volumes:
            usable = found.is_up and not found.is_disabled
            available[found.availability_zone] = available.get(found.availability_zone, False) or usable
    return [{"zoneName": name, "zoneState": {"available": usable}} for name, usable in sorted(available.items())]
