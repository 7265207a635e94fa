"""Attachments: rows and handlers."""

from __future__ import annotations

from typing import Any

from volsvc.api import lists
from volsvc.api import microversions as mv
from volsvc.api.call import Call
from volsvc.api.schemas import attachments as schemas
from volsvc.api.table import Row
from volsvc.api.views import attachments as views

SHAPE = lists.ListShape(
    kind="attachment",
    filters={
        "volume_id": lists.Filter("volume_id"),
        "status": lists.Filter("status"),
        "attach_status": lists.Filter("status"),
        "instance_id": lists.Filter("instance_id"),
        "instance_uuid": lists.Filter("instance_id", admin_only=True),
        "attached_host": lists.Filter("attached_host", admin_only=True),
        "project_id": lists.Filter("project_id", admin_only=True),
        "id": lists.Filter("id", admin_only=True),
    },
    sort={
        "id": "id",
        "volume_id": "volume_id",
        "attach_status": "status",
        "status": "status",
        "created_at": "created_at",
        "updated_at": "updated_at",
    },
)


def list_summaries(call: Call) -> dict[str, Any]:
    return _list(call, with_details=False)


def list_details(call: Call) -> dict[str, Any]:
    return _list(call, with_details=True)


def _list(call: Call, *, with_details: bool) -> dict[str, Any]:
    page = lists.fetch(lists.parse_list(call, SHAPE), call.api.list_attachments, call)
    render = views.detail if with_details else views.summary
    body: dict[str, Any] = {"attachments": [render(attachment) for attachment in page.items]}
    path = "attachments/detail" if with_details else "attachments"
    links = lists.next_links(call, path, page.items, page.has_more)
    if links:
        body["attachments_links"] = links
    return body


def show(call: Call) -> dict[str, Any]:
    return {"attachment": views.detail(call.api.get_attachment(call.ctx, call.params["id"]))}


def create(call: Call) -> dict[str, Any]:
    body = call.body["attachment"]
    attachment = call.api.create_attachment(
        call.ctx,
        body["volume_uuid"],
        instance_id=body.get("instance_uuid"),
        connector=body.get("connector"),
        mode=body.get("mode"),
    )
    return {"attachment": views.detail(attachment)}


def update(call: Call) -> dict[str, Any]:
    connector = call.body["attachment"]["connector"]
    return {"attachment": views.detail(call.api.update_attachment(call.ctx, call.params["id"], connector))}


def delete(call: Call) -> dict[str, Any]:
    remaining = call.api.delete_attachment(call.ctx, call.params["id"])
    return {"attachments": [views.summary(attachment) for attachment in remaining]}


def complete(call: Call) -> None:
    call.api.complete_attachment(call.ctx, call.params["id"])


_FIRST = mv.ATTACHMENTS

ROWS = (
    Row("GET", "/attachments", list_summaries, "volume:get_all", first=_FIRST),
    Row("POST", "/attachments", create, "volume:attachment_create", first=_FIRST, schemas=schemas.CREATE),
    Row("GET", "/attachments/detail", list_details, "volume:get_all", first=_FIRST),
    Row("GET", "/attachments/{id}", show, "volume:get", first=_FIRST),
    Row("PUT", "/attachments/{id}", update, "volume:attachment_update", first=_FIRST, schemas=schemas.UPDATE),
    Row("DELETE", "/attachments/{id}", delete, "volume:attachment_delete", first=_FIRST),
    Row(
        *("POST", "/attachments/{id}/action", complete, "volume:attachment_complete"),
        action="os-complete",
        success=204,
        first=mv.COMPLETE_ATTACHMENT,
        schemas=schemas.COMPLETE,
    ),
)
