"""Operations, which Cinder doesn't have: what is being done, how far, and how it ended."""

from __future__ import annotations

from typing import Any

from volsvc.api import lists
from volsvc.api.call import Call
from volsvc.api.schemas import operations as schemas
from volsvc.api.table import Row
from volsvc.api.views.operations import operation as view

SHAPE = lists.ListShape(
    kind="operation",
    filters={
        "state": lists.Filter("state"),
        "action": lists.Filter("action"),
        "resource_type": lists.Filter("resource_type"),
        "resource_id": lists.Filter("resource_id"),
        "request_id": lists.Filter("request_id"),
        "host": lists.Filter("host", admin_only=True),
        "project_id": lists.Filter("project_id", admin_only=True),
    },
    sort={
        "created_at": "seq",
        "started_at": "started_at",
        "finished_at": "finished_at",
        "updated_at": "updated_at",
        "state": "state",
        "action": "action",
    },
)


def list_all(call: Call) -> dict[str, Any]:
    page = lists.fetch(lists.parse_list(call, SHAPE), call.api.list_operations, call, counts=False)
    body: dict[str, Any] = {"operations": [view(found, call) for found in page.items]}
    links = lists.next_links(call, "operations", page.items, page.has_more)
    if links:
        body["operations_links"] = links
    return body


def show(call: Call) -> dict[str, Any]:
    return {"operation": view(call.api.get_operation(call.ctx, call.params["id"]), call)}


def cancel(call: Call) -> dict[str, Any]:
    """A queued operation ends at once, a running one at its next step: look again until it has ended."""
    return {"operation": view(call.api.cancel_operation(call.ctx, call.params["id"]), call)}


ROWS = (
    Row("GET", "/operations", list_all, "volsvc:operation:get_all"),
    Row("GET", "/operations/{id}", show, "volsvc:operation:get"),
    Row(
        *("POST", "/operations/{id}/action", cancel, "volsvc:operation:cancel"),
        action="os-cancel",
        success=202,
        schemas=schemas.CANCEL,
    ),
)
