"""Snapshots: rows and handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc.api import lists
from volsvc.api import microversions as mv
from volsvc.api.call import Call, parse_bool
from volsvc.api.routes import metadata, naming
from volsvc.api.schemas import snapshots as schemas
from volsvc.api.table import Row
from volsvc.api.views.snapshots import SnapshotView

SHAPE = lists.ListShape(
    kind="snapshot",
    filters={
        "name": lists.Filter("name", like=True),
        "description": lists.Filter("description", admin_only=True, like=True),
        "status": lists.Filter("status"),
        "volume_id": lists.Filter("volume_id"),
        "host": lists.Filter("host", admin_only=True, choose_column=lists.host_column),
        "project_id": lists.Filter("project_id", admin_only=True),
        "user_id": lists.Filter("user_id", admin_only=True),
        "id": lists.Filter("id", admin_only=True),
        "volume_size": lists.Filter("size_gb", lists.integer, admin_only=True),
    },
    sort={
        "id": "id",
        "name": "name",
        "display_name": "name",
        "status": "status",
        "volume_id": "volume_id",
        "volume_size": "size_gb",
        "created_at": "created_at",
        "updated_at": "updated_at",
    },
    metadata_from=mv.SNAPSHOT_METADATA_FILTER,
)


def list_summaries(call: Call) -> dict[str, Any]:
    return _list(call, with_details=False)


def list_details(call: Call) -> dict[str, Any]:
    return _list(call, with_details=True)


def _list(call: Call, *, with_details: bool) -> dict[str, Any]:
    asked = lists.parse_list(call, SHAPE)
    page = lists.fetch(asked, call.api.list_snapshots, call)
    view = SnapshotView(call)
    render = view.detail if with_details else view.summary
    body: dict[str, Any] = {"snapshots": [render(snapshot) for snapshot in page.items]}
    links = lists.next_links(call, "snapshots/detail" if with_details else "snapshots", page.items, page.has_more)
    if links:
        body["snapshots_links"] = links
    if page.total is not None and asked.with_count:
        body["count"] = page.total
    return body


def show(call: Call) -> dict[str, Any]:
    return {"snapshot": SnapshotView(call).detail(call.api.get_snapshot(call.ctx, call.params["id"]))}


def create(call: Call) -> dict[str, Any]:
    body = call.body["snapshot"]
    asked_force = body.get("force")
    force = False if asked_force is None else parse_bool(asked_force, "force")
    if call.version >= mv.SNAPSHOT_WITHOUT_FORCE:
        if asked_force is not None and not force:
            raise exc.InvalidInput(
                reason=f"since microversion {mv.text(mv.SNAPSHOT_WITHOUT_FORCE)} attached volumes are snapshotted "
                "without 'force', and 'force' can only be true; leave it out"
            )
        force = True
    snapshot = call.api.create_snapshot(
        call.ctx,
        body["volume_id"],
        name=naming.text(body, "name"),
        description=naming.text(body, "description"),
        metadata=body.get("metadata") or {},
        force=force,
    )
    return {"snapshot": SnapshotView(call).detail(snapshot)}


def update(call: Call) -> dict[str, Any]:
    snapshot = call.api.update_snapshot(call.ctx, call.params["id"], naming.changes(call.body["snapshot"]))
    return {"snapshot": SnapshotView(call).detail(snapshot)}


def delete(call: Call) -> None:
    call.api.delete_snapshot(call.ctx, call.params["id"])


def force_delete(call: Call) -> None:
    call.api.delete_snapshot(call.ctx, call.params["id"], force=True)


def _read_metadata(call: Call, snapshot_id: str) -> Mapping[str, str]:
    return call.api.get_snapshot(call.ctx, snapshot_id).metadata


def _write_metadata(call: Call, snapshot_id: str, edit: metadata.Edit) -> Mapping[str, str]:
    return call.api.update_snapshot(call.ctx, snapshot_id, {"metadata": edit}).metadata


ROWS = (
    Row("GET", "/snapshots", list_summaries, "volume:get_all_snapshots"),
    Row("POST", "/snapshots", create, "volume:create_snapshot", success=202, schemas=schemas.CREATE),
    Row("GET", "/snapshots/detail", list_details, "volume:get_all_snapshots"),
    Row("GET", "/snapshots/{id}", show, "volume:get_snapshot"),
    Row("PUT", "/snapshots/{id}", update, "volume:update_snapshot", schemas=schemas.UPDATE),
    Row("DELETE", "/snapshots/{id}", delete, "volume:delete_snapshot", success=202),
    Row(
        *("POST", "/snapshots/{id}/action", force_delete, "volume_extension:snapshot_admin_actions:force_delete"),
        action="os-force_delete",
        success=202,
        schemas=schemas.FORCE_DELETE,
    ),
    *metadata.rows(
        "/snapshots/{id}",
        _read_metadata,
        _write_metadata,
        {
            "get": "volume:get_snapshot_metadata",
            "create": "volume:update_snapshot_metadata",
            "update": "volume:update_snapshot_metadata",
            "delete": "volume:delete_snapshot_metadata",
        },
    ),
)
