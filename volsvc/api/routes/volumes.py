"""Volumes: rows and handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.api import lists
from volsvc.api import microversions as mv
from volsvc.api.call import Call, parse_bool
from volsvc.api.routes import metadata, naming
from volsvc.api.schemas import volumes as schemas
from volsvc.api.table import Row
from volsvc.api.views.volumes import VolumeView, summary_of_all
from volsvc.states import AttachStatus


def _bootable(value: str, name: str) -> Any:
    return parse_bool(value, name)


SHAPE = lists.ListShape(
    kind="volume",
    filters={
        "name": lists.Filter("name", like=True),
        "description": lists.Filter("description", admin_only=True, like=True),
        "status": lists.Filter("status"),
        "bootable": lists.Filter("is_bootable", _bootable),
        "migration_status": lists.Filter("migration_status"),
        "availability_zone": lists.Filter("availability_zone"),
        "size": lists.Filter("size_gb", lists.integer),
        "host": lists.Filter("host", admin_only=True, choose_column=lists.host_column),
        "project_id": lists.Filter("project_id", admin_only=True),
        "user_id": lists.Filter("user_id", admin_only=True),
        "id": lists.Filter("id", admin_only=True),
        "snapshot_id": lists.Filter("snapshot_id", admin_only=True),
        "source_volid": lists.Filter("source_volid", admin_only=True),
        "volume_type_id": lists.Filter("volume_type_id", admin_only=True),
        "attach_status": lists.Filter("attach_status", admin_only=True),
        "multiattach": lists.Filter("is_multiattach", lists.boolean, admin_only=True),
    },
    sort={
        "id": "id",
        "name": "name",
        "display_name": "name",
        "status": "status",
        "size": "size_gb",
        "created_at": "created_at",
        "updated_at": "updated_at",
        "availability_zone": "availability_zone",
        "bootable": "is_bootable",
        "host": "host",
        "user_id": "user_id",
        "project_id": "project_id",
    },
    metadata_from=mv.MIN,
)

# What a body may ask for and this service has nothing of.
_UNAVAILABLE = {
    "imageRef": "images",
    "image_id": "images",
    "consistencygroup_id": "consistency groups",
    "group_id": "volume groups",
}


def list_summaries(call: Call) -> dict[str, Any]:
    return _list(call, with_details=False)


def list_details(call: Call) -> dict[str, Any]:
    return _list(call, with_details=True)


def _list(call: Call, *, with_details: bool) -> dict[str, Any]:
    asked = lists.parse_list(call, SHAPE)
    page = lists.fetch(asked, call.api.list, call)
    view = VolumeView(call)
    if with_details:
        attachments = _attachments(call, page.items)
        volumes = [view.detail(volume, attachments.get(volume.id, ())) for volume in page.items]
    else:
        volumes = [view.summary(volume) for volume in page.items]
    body: dict[str, Any] = {"volumes": volumes}
    links = lists.next_links(call, "volumes/detail" if with_details else "volumes", page.items, page.has_more)
    if links:
        body["volumes_links"] = links
    if page.total is not None and asked.with_count:
        body["count"] = page.total
    return body


def _attachments(call: Call, volumes: tuple[models.Volume, ...]) -> Mapping[str, list[models.Attachment]]:
    """Only volumes that say so have attachments to show, which most don't."""
    wanted = [volume.id for volume in volumes if volume.attach_status != AttachStatus.DETACHED]
    return call.api.attachments_of(call.ctx, wanted) if wanted else {}


def _detail(call: Call, volume: models.Volume) -> dict[str, Any]:
    attachments = _attachments(call, (volume,))
    return {"volume": VolumeView(call).detail(volume, attachments.get(volume.id, ()))}


def show(call: Call) -> dict[str, Any]:
    return _detail(call, call.api.get(call.ctx, call.params["id"]))


def summarise(call: Call) -> dict[str, Any]:
    asked = lists.parse_list(call, SHAPE)
    if asked.is_empty:
        return summary_of_all(call, 0, 0, {})
    count, size_gb, distinct = call.api.summary(call.ctx, asked.query)
    return summary_of_all(call, count, size_gb, distinct)


def create(call: Call) -> dict[str, Any]:
    body = call.body["volume"]
    for field, what in _UNAVAILABLE.items():
        if body.get(field):
            raise exc.InvalidInput(reason=f"{field}: this service has no {what}; leave {field} out")
    if call.body.get("OS-SCH-HNT:scheduler_hints"):
        raise exc.InvalidInput(reason="scheduler hints are not supported; leave them out")
    size = body.get("size")
    asked: dict[str, Any] = {
        "size_gb": None if size is None else int(size),
        "name": naming.text(body, "name"),
        "description": naming.text(body, "description"),
        "volume_type": body.get("volume_type") or None,
        "metadata": body.get("metadata") or {},
        "availability_zone": body.get("availability_zone"),
        "multiattach": parse_bool(body.get("multiattach") or False, "multiattach"),
    }
    snapshot_id, source_volid = body.get("snapshot_id"), body.get("source_volid")
    if body.get("backup_id"):
        _check_backup_source(call, snapshot_id or source_volid)
        volume = call.api.create_from_backup(call.ctx, body["backup_id"], **asked)
    else:
        volume = call.api.create(call.ctx, snapshot_id=snapshot_id, source_volid=source_volid, **asked)
    return {"volume": VolumeView(call).detail(volume, ())}


def _check_backup_source(call: Call, other_source: str | None) -> None:
    if call.version < mv.CREATE_FROM_BACKUP:
        raise exc.InvalidInput(
            reason=f"a volume is made from a backup since microversion {mv.text(mv.CREATE_FROM_BACKUP)}; "
            "use that, or restore the backup"
        )
    if other_source:
        raise exc.InvalidInput(reason="backup_id excludes snapshot_id and source_volid; give one of them")
    call.authorize("backup:restore")


def update(call: Call) -> dict[str, Any]:
    body = call.body["volume"]
    changes = naming.changes(body)
    if "metadata" in body:
        changes["metadata"] = dict(body["metadata"])
    volume_id = call.params["id"]
    volume = call.api.update(call.ctx, volume_id, changes) if changes else call.api.get(call.ctx, volume_id)
    return _detail(call, volume)


def delete(call: Call) -> None:
    force = call.version >= mv.FORCE_DELETE_PARAMETER and call.flag("force")
    if force:
        call.authorize("volume:force_delete")
    call.api.delete(call.ctx, call.params["id"], cascade=call.flag("cascade"), force=force)


def extend(call: Call) -> None:
    volume_id, new_size = call.params["id"], int(call.body["os-extend"]["new_size"])
    if call.version < mv.EXTEND_ATTACHED and call.api.get(call.ctx, volume_id).status == "in-use":
        raise exc.InvalidVolume(
            reason=f"volume {volume_id} is in-use; extending it attached needs microversion "
            f"{mv.text(mv.EXTEND_ATTACHED)} or later"
        )
    call.api.extend(call.ctx, volume_id, new_size)


def set_bootable(call: Call) -> None:
    bootable = parse_bool(call.body["os-set_bootable"]["bootable"], "bootable")
    call.api.set_bootable(call.ctx, call.params["id"], bootable)


def force_delete(call: Call) -> None:
    call.api.delete(call.ctx, call.params["id"], force=True)


def _read_metadata(call: Call, volume_id: str) -> Mapping[str, str]:
    return call.api.get(call.ctx, volume_id).metadata


def _write_metadata(call: Call, volume_id: str, edit: metadata.Edit) -> Mapping[str, str]:
    return call.api.update(call.ctx, volume_id, {"metadata": edit}).metadata


ROWS = (
    Row("GET", "/volumes", list_summaries, "volume:get_all"),
    Row("POST", "/volumes", create, "volume:create", success=202, schemas=schemas.CREATE),
    Row("GET", "/volumes/detail", list_details, "volume:get_all"),
    Row("GET", "/volumes/summary", summarise, "volume:get_all", first=mv.VOLUME_SUMMARY),
    Row("GET", "/volumes/{id}", show, "volume:get"),
    Row("PUT", "/volumes/{id}", update, "volume:update", schemas=schemas.UPDATE),
    Row("DELETE", "/volumes/{id}", delete, "volume:delete", success=202),
    Row(
        *("POST", "/volumes/{id}/action", extend, "volume:extend"),
        action="os-extend",
        success=202,
        schemas=schemas.EXTEND,
    ),
    Row(
        *("POST", "/volumes/{id}/action", set_bootable, "volume:update"),
        action="os-set_bootable",
        schemas=schemas.SET_BOOTABLE,
    ),
    Row(
        *("POST", "/volumes/{id}/action", force_delete, "volume_extension:volume_admin_actions:force_delete"),
        action="os-force_delete",
        success=202,
        schemas=schemas.FORCE_DELETE,
    ),
    *metadata.rows(
        "/volumes/{id}",
        _read_metadata,
        _write_metadata,
        {
            "get": "volume:get_volume_metadata",
            "create": "volume:create_volume_metadata",
            "update": "volume:update_volume_metadata",
            "delete": "volume:delete_volume_metadata",
        },
    ),
)
