"""What clients ask about the service itself: limits, quotas, extensions, filters."""

from __future__ import annotations

import re
from typing import Any

from volsvc import exceptions as exc
from volsvc import ports
from volsvc.api import lists
from volsvc.api import microversions as mv
from volsvc.api.call import Call
from volsvc.api.routes import attachments, backups, snapshots, volume_types, volumes
from volsvc.api.table import Row

_UUID = re.compile(r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")

# -1 is Cinder's word for "no limit": nothing here is limited but by the storage.
UNLIMITED = -1

QUOTAS = ("volumes", "snapshots", "gigabytes", "per_volume_gigabytes", "backups", "backup_gigabytes", "groups")

# (alias, name, when Cinder defined it): what of Cinder's extensions this service has.
EXTENSIONS = (
    ("backups", "Backups", "2012-12-12T00:00:00+00:00"),
    ("os-availability-zone", "AvailabilityZones", "2013-06-27T00:00:00+00:00"),
    ("os-extended-services", "ExtendedServices", "2014-01-10T00:00:00-00:00"),
    ("os-extended-snapshot-attributes", "ExtendedSnapshotAttributes", "2012-06-19T00:00:00+00:00"),
    ("os-admin-actions", "AdminActions", "2012-08-25T00:00:00+00:00"),
    ("os-quota-sets", "Quotas", "2011-08-08T00:00:00+00:00"),
    ("os-services", "Services", "2012-10-28T00:00:00-00:00"),
    ("os-types-extra-specs", "TypesExtraSpecs", "2011-08-24T00:00:00+00:00"),
    ("os-types-manage", "TypesManage", "2011-08-24T00:00:00+00:00"),
    ("os-used-limits", "UsedLimits", "2013-10-03T00:00:00+00:00"),
    ("os-vol-host-attr", "VolumeHostAttribute", "2011-11-03T00:00:00+00:00"),
    ("os-vol-mig-status-attr", "VolumeMigStatusAttribute", "2013-08-08T00:00:00+00:00"),
    ("os-vol-tenant-attr", "VolumeTenantAttribute", "2011-11-03T00:00:00+00:00"),
    ("os-volume-actions", "VolumeActions", "2012-05-31T00:00:00+00:00"),
    ("scheduler-stats", "Scheduler_stats", "2014-09-07T00:00:00+00:00"),
)


def show_limits(call: Call) -> dict[str, Any]:
    project_id = call.ctx.project_id
    if call.version >= mv.LIMITS_OF_OTHERS and call.ctx.is_admin:
        project_id = call.query.get("project_id") or call.query.get("tenant_id") or project_id
    absolute: dict[str, Any] = {
        "maxTotalVolumes": UNLIMITED,
        "maxTotalSnapshots": UNLIMITED,
        "maxTotalVolumeGigabytes": UNLIMITED,
        "maxTotalBackups": UNLIMITED,
        "maxTotalBackupGigabytes": UNLIMITED,
    }
    if call.allows("limits_extension:used_limits"):
        used = _used(call, project_id)
        absolute |= {
            "totalVolumesUsed": used["volumes"],
            "totalGigabytesUsed": used["gigabytes"],
            "totalSnapshotsUsed": used["snapshots"],
            "totalBackupsUsed": used["backups"],
            "totalBackupGigabytesUsed": used["backup_gigabytes"],
        }
    return {"limits": {"rate": [], "absolute": absolute}}


def _used(call: Call, project_id: str) -> dict[str, int]:
    query = ports.Query(project_id=project_id, limit=1)
    count, size_gb, _ = call.api.summary(call.ctx, ports.Query(project_id=project_id))
    snapshots_page = call.api.list_snapshots(call.ctx, query, with_count=True)
    backup_count, backup_gb = call.api.summarise_backups(call.ctx, ports.Query(project_id=project_id))
    return {
        **dict.fromkeys(QUOTAS, 0),
        "volumes": count,
        "gigabytes": size_gb,
        "snapshots": snapshots_page.total or 0,
        "backups": backup_count,
        "backup_gigabytes": backup_gb,
    }


def show_quotas(call: Call) -> dict[str, Any]:
    project_id = call.params["project_id"]
    if project_id != call.ctx.project_id and not call.ctx.is_admin:
        raise exc.PolicyNotAuthorized(action="volume_extension:quotas:show")
    quotas: dict[str, Any] = dict.fromkeys(QUOTAS, UNLIMITED)
    if call.flag("usage"):
        used = _used(call, project_id)
        quotas = {name: {"limit": UNLIMITED, "in_use": used[name], "reserved": 0} for name in QUOTAS}
    return {"quota_set": {"id": project_id, **quotas}}


def show_default_quotas(call: Call) -> dict[str, Any]:
    return {"quota_set": {"id": call.params["project_id"], **dict.fromkeys(QUOTAS, UNLIMITED)}}


def list_extensions(call: Call) -> dict[str, Any]:
    return {
        "extensions": [
            {"alias": alias, "name": name, "description": name, "links": [], "updated": updated}
            for alias, name, updated in EXTENSIONS
        ]
    }


def list_filters(call: Call) -> dict[str, Any]:
    """What each list can be filtered by, for whoever is no admin."""
    found: dict[str, list[str]] = {"pool": ["name"]}
    for name, shape in (
        ("volume", volumes.SHAPE),
        ("snapshot", snapshots.SHAPE),
        ("attachment", attachments.SHAPE),
        ("backup", backups.SHAPE),
        ("volume_type", volume_types.SHAPE),
    ):
        found[name] = [_spell(key, entry) for key, entry in shape.filters.items() if not entry.admin_only]
        if shape.metadata_from is not None:
            found[name].append("metadata")
    wanted = call.query.get("resource")
    return {
        "resource_filters": [
            {"resource": name, "filters": filters}
            for name, filters in sorted(found.items())
            if wanted is None or wanted == name
        ]
    }


def show_server(call: Call) -> dict[str, Any]:
    """openstackclient looks a server up, at this endpoint, before it attaches a volume to it.

    Without a compute service a server is whatever the client says it is: any UUID.
    """
    server_id = call.params["id"]
    if not _UUID.match(server_id):
        raise exc.NotFound(resource="Server", id=server_id)
    return {"server": {"id": server_id, "name": server_id, "status": "ACTIVE"}}


def _spell(key: str, entry: lists.Filter) -> str:
    return f"{key}~" if entry.like else key


ROWS = (
    Row("GET", "/limits", show_limits, "volsvc:anyone"),
    Row("GET", "/os-quota-sets/{project_id}", show_quotas, "volume_extension:quotas:show"),
    Row("GET", "/os-quota-sets/{project_id}/defaults", show_default_quotas, "volume_extension:quotas:show"),
    Row("GET", "/extensions", list_extensions, "volsvc:anyone"),
    Row("GET", "/servers/{id}", show_server, "volsvc:anyone"),
    Row("GET", "/resource_filters", list_filters, "volsvc:anyone", first=mv.RESOURCE_FILTERS),
)
