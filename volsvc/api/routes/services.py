"""Services, pools and availability zones: rows and handlers."""

from __future__ import annotations

from typing import Any

from volsvc import exceptions as exc
from volsvc.api import microversions as mv
from volsvc.api.call import Call
from volsvc.api.schemas import services as schemas
from volsvc.api.table import Row
from volsvc.api.views import services as views


def list_services(call: Call) -> dict[str, Any]:
    host, binary = call.query.get("host"), call.query.get("binary")
    services = [
        views.service(found, call.version)
        for found in call.api.list_services(call.ctx)
        # A host without a backend means all backends of that host, as in Cinder.
        if (host is None or found.host == host or found.host.partition("@")[0] == host)
        and (binary is None or found.binary == binary)
    ]
    return {"services": services}


def enable(call: Call) -> dict[str, Any]:
    return _set(call, is_enabled=True)


def disable(call: Call) -> dict[str, Any]:
    return _set(call, is_enabled=False)


def disable_with_reason(call: Call) -> dict[str, Any]:
    body = _set(call, is_enabled=False)
    body["disabled_reason"] = call.body.get("disabled_reason")
    return body


def _set(call: Call, *, is_enabled: bool) -> dict[str, Any]:
    body = call.body
    host = body.get("host")
    if not host:
        raise exc.InvalidInput(reason="Host field is missing.")
    reason = body.get("disabled_reason")
    if reason is not None and not reason.strip():
        raise exc.InvalidInput(reason="disabled_reason is empty; say why, or use /os-services/disable")
    binary = body.get("binary") or body.get("service")
    call.api.set_service_enabled(call.ctx, host, binary, is_enabled, reason.strip() if reason else None)
    return {
        "host": host,
        "service": body.get("service", ""),
        "binary": body.get("binary", ""),
        "status": "enabled" if is_enabled else "disabled",
        "disabled": not is_enabled,
    }


def list_pools(call: Call) -> dict[str, Any]:
    with_details = call.flag("detail")
    pools = [views.pool(found, with_details=with_details) for found in call.api.pools(call.ctx)]
    name = call.query.get("name") if call.version >= mv.POOL_FILTERS else None
    unknown = sorted(set(call.query) - {"detail", "name", "volume_type"})
    if unknown and call.version >= mv.REFUSE_UNKNOWN_FILTERS:
        raise exc.InvalidInput(f"Invalid filters {', '.join(unknown)[:80]} are found in query options.")
    return {"pools": [pool for pool in pools if name is None or pool["name"] == name]}


def list_zones(call: Call) -> dict[str, Any]:
    return {"availabilityZoneInfo": views.zones(call.api.list_services(call.ctx))}


_UPDATE = "volume_extension:services:update"

ROWS = (
    Row("GET", "/os-services", list_services, "volume_extension:services:index"),
    Row("PUT", "/os-services/enable", enable, _UPDATE, schemas=schemas.ENABLE_OR_DISABLE),
    Row("PUT", "/os-services/disable", disable, _UPDATE, schemas=schemas.ENABLE_OR_DISABLE),
    Row(
        *("PUT", "/os-services/disable-log-reason", disable_with_reason, _UPDATE),
        schemas=schemas.DISABLE_WITH_REASON,
    ),
    Row("GET", "/scheduler-stats/get_pools", list_pools, "scheduler_extension:scheduler_stats:get_pools"),
    Row("GET", "/os-availability-zone", list_zones, "volsvc:anyone"),
)
