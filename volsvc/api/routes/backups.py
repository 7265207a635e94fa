"""Backups: rows and handlers."""

from __future__ import annotations

from typing import Any

from volsvc.api import lists
from volsvc.api import microversions as mv
from volsvc.api.call import Call, parse_bool
from volsvc.api.routes import naming
from volsvc.api.schemas import backups as schemas
from volsvc.api.table import Row
from volsvc.api.views.backups import BackupView

SHAPE = lists.ListShape(
    kind="backup",
    filters={
        "name": lists.Filter("name", like=True),
        "description": lists.Filter("description", admin_only=True, like=True),
        "status": lists.Filter("status"),
        "volume_id": lists.Filter("volume_id"),
        "availability_zone": lists.Filter("availability_zone", admin_only=True),
        "container": lists.Filter("container", admin_only=True),
        "host": lists.Filter("host", admin_only=True),
        "id": lists.Filter("id", admin_only=True),
        "project_id": lists.Filter("project_id", admin_only=True),
        "size": lists.Filter("size_gb", lists.integer, admin_only=True),
        "snapshot_id": lists.Filter("snapshot_id", admin_only=True),
        "user_id": lists.Filter("user_id", admin_only=True),
    },
    sort={
        "id": "id",
        "name": "name",
        "display_name": "name",
        "status": "status",
        "size": "size_gb",
        "volume_id": "volume_id",
        "availability_zone": "availability_zone",
        "created_at": "created_at",
        "updated_at": "updated_at",
    },
)


def list_summaries(call: Call) -> dict[str, Any]:
    return _list(call, with_details=False)


def list_details(call: Call) -> dict[str, Any]:
    return _list(call, with_details=True)


def _list(call: Call, *, with_details: bool) -> dict[str, Any]:
    asked = lists.parse_list(call, SHAPE)
    page = lists.fetch(asked, call.api.list_backups, call)
    view = BackupView(call)
    render = view.detail if with_details else view.summary
    body: dict[str, Any] = {"backups": [render(backup) for backup in page.items]}
    links = lists.next_links(call, "backups/detail" if with_details else "backups", page.items, page.has_more)
    if links:
        body["backups_links"] = links
    if page.total is not None and asked.with_count:
        body["count"] = page.total
    return body


def show(call: Call) -> dict[str, Any]:
    return {"backup": BackupView(call).detail(call.api.get_backup(call.ctx, call.params["id"]))}


def create(call: Call) -> dict[str, Any]:
    body = call.body["backup"]
    backup = call.api.create_backup(
        call.ctx,
        body["volume_id"],
        snapshot_id=body.get("snapshot_id"),
        name=naming.text(body, "name"),
        description=naming.text(body, "description"),
        container=naming.text(body, "container"),
        force=parse_bool(body.get("force", False), "force"),
        incremental=parse_bool(body.get("incremental", False), "incremental"),
        metadata=body.get("metadata") or {},
        availability_zone=body.get("availability_zone") or None,
    )
    return {"backup": BackupView(call).summary(backup)}


def update(call: Call) -> dict[str, Any]:
    body = call.body["backup"]
    changes = naming.changes(body)
    if "metadata" in body:
        changes["metadata"] = dict(body["metadata"])
    backup_id = call.params["id"]
    if changes:
        backup = call.api.update_backup(call.ctx, backup_id, changes)
    else:
        backup = call.api.get_backup(call.ctx, backup_id)
    return {"backup": BackupView(call).summary(backup)}


def delete(call: Call) -> None:
    call.api.delete_backup(call.ctx, call.params["id"])


def force_delete(call: Call) -> None:
    call.api.delete_backup(call.ctx, call.params["id"], force=True)


def restore(call: Call) -> dict[str, Any]:
    body = call.body["restore"] or {}
    backup_id = call.params["id"]
    volume = call.api.restore_backup(
        call.ctx, backup_id, volume_id=body.get("volume_id"), name=naming.text(body, "name")
    )
    return {"restore": {"backup_id": backup_id, "volume_id": volume.id, "volume_name": volume.name}}


def export_record(call: Call) -> dict[str, Any]:
    service, url = call.api.export_backup(call.ctx, call.params["id"])
    return {"backup-record": {"backup_service": service, "backup_url": url}}


def import_record(call: Call) -> dict[str, Any]:
    body = call.body["backup-record"]
    backup = call.api.import_backup(call.ctx, body["backup_service"], body["backup_url"])
    return {"backup": BackupView(call).summary(backup)}


ROWS = (
    Row("GET", "/backups", list_summaries, "backup:get_all"),
    Row("POST", "/backups", create, "backup:create", success=202, schemas=schemas.CREATE),
    Row("GET", "/backups/detail", list_details, "backup:get_all"),
    Row("POST", "/backups/import_record", import_record, "backup:backup-import", success=201, schemas=schemas.IMPORT),
    Row("GET", "/backups/{id}", show, "backup:get"),
    Row("PUT", "/backups/{id}", update, "backup:update", first=mv.BACKUP_UPDATE, schemas=schemas.UPDATE),
    Row("DELETE", "/backups/{id}", delete, "backup:delete", success=202),
    Row("POST", "/backups/{id}/restore", restore, "backup:restore", success=202, schemas=schemas.RESTORE),
    Row("GET", "/backups/{id}/export_record", export_record, "backup:export-import"),
    Row(
        *("POST", "/backups/{id}/action", force_delete, "volume_extension:backup_admin_actions:force_delete"),
        action="os-force_delete",
        success=202,
        schemas=schemas.FORCE_DELETE,
    ),
)
