"""Volume types and their extra specs: rows and handlers."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.api import lists
from volsvc.api import microversions as mv
from volsvc.api.call import Call, parse_bool
from volsvc.api.schemas import volume_types as schemas
from volsvc.api.table import Row
from volsvc.api.views.volume_types import VISIBLE_TO_USERS, VolumeTypeView


def _is_public(value: str, name: str) -> Any:
    """'none' is how clients say that they want both kinds."""
    return None if value.strip().lower() == "none" else parse_bool(value, name)


SHAPE = lists.ListShape(
    kind="volume type",
    filters={
        "is_public": lists.Filter("is_public", _is_public),
        "name": lists.Filter("name", admin_only=True),
        "description": lists.Filter("description", admin_only=True),
        "extra_specs": lists.Filter("extra_specs", first=mv.TYPE_FILTERS),
    },
    sort={"id": "id", "name": "name", "created_at": "created_at", "updated_at": "updated_at"},
    is_per_project=False,
)


def list_all(call: Call) -> dict[str, Any]:
    asked = lists.parse_list(call, SHAPE)
    filters = dict(asked.query.filters)
    specs = _wanted_specs(call, filters.pop("extra_specs", None))
    if not call.ctx.is_admin:
        filters["is_public"] = True
    elif filters.get("is_public", True) is None:
        del filters["is_public"]
    query = lists.with_filters(asked.query, filters)
    page = lists.fetch(lists.Asked(query, with_count=False), call.api.list_types, call, counts=False)
    types = [found for found in page.items if specs.items() <= dict(found.extra_specs).items()]
    view = VolumeTypeView(call)
    body: dict[str, Any] = {"volume_types": [view.detail(found) for found in types]}
    links = lists.next_links(call, "types", page.items, page.has_more)
    if links:
        body["volume_type_links"] = links
    return body


def _wanted_specs(call: Call, text: str | None) -> Mapping[str, str]:
    if text is None:
        return {}
    try:
        found = ast.literal_eval(text) if len(text) <= 4096 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise exc.InvalidInput(reason="the extra_specs filter must look like {'key': 'value'}")
    hidden = set(found) - VISIBLE_TO_USERS
    if hidden and not call.allows("volume_extension:types_extra_specs:read_sensitive"):
        raise exc.InvalidInput(reason="the extra_specs filter names keys that only admins see")
    return {str(key): str(value) for key, value in found.items()}


def _get(call: Call) -> models.VolumeType:
    type_id = call.params["id"]
    found = call.api.get_type(call.ctx, type_id)
    if not found.is_public and not call.ctx.is_admin:
        raise exc.VolumeTypeNotFound(id=type_id)
    return found


def show(call: Call) -> dict[str, Any]:
    return {"volume_type": VolumeTypeView(call).detail(_get(call))}


def show_default(call: Call) -> dict[str, Any]:
    return {"volume_type": VolumeTypeView(call).detail(call.api.default_type(call.ctx))}


def create(call: Call) -> dict[str, Any]:
    body = call.body["volume_type"]
    created = call.api.create_type(
        call.ctx,
        name=body["name"].strip(),
        description=body.get("description"),
        is_public=parse_bool(body.get("os-volume-type-access:is_public", True), "os-volume-type-access:is_public"),
        extra_specs=_without_nulls(body.get("extra_specs") or {}),
    )
    return {"volume_type": VolumeTypeView(call).detail(created)}


def update(call: Call) -> dict[str, Any]:
    body = call.body["volume_type"]
    changes: dict[str, Any] = {}
    if body.get("name") is not None:
        changes["name"] = body["name"].strip()
        if not changes["name"]:
            raise exc.InvalidInput(reason="Volume type name can not be empty.")
    if body.get("description") is not None:
        changes["description"] = body["description"]
    if "is_public" in body:
        changes["is_public"] = parse_bool(body["is_public"], "is_public")
    if not changes:
        raise exc.InvalidInput(reason="Specify volume type name, description, is_public or a combination thereof.")
    changed = call.api.update_type(call.ctx, _get(call).id, changes)
    call.parts.type_names.forget()
    return {"volume_type": VolumeTypeView(call).detail(changed)}


def delete(call: Call) -> None:
    call.api.delete_type(call.ctx, _get(call).id)
    call.parts.type_names.forget()


def list_specs(call: Call) -> dict[str, Any]:
    return {"extra_specs": VolumeTypeView(call).extra_specs(_get(call))}


def set_specs(call: Call) -> dict[str, Any]:
    specs = _without_nulls(call.body["extra_specs"])
    call.api.set_extra_specs(call.ctx, _get(call).id, specs)
    return {"extra_specs": specs}


def show_spec(call: Call) -> dict[str, Any]:
    key = call.params["key"]
    specs = VolumeTypeView(call).extra_specs(_get(call))
    if key not in specs:
        raise exc.MetadataNotFound(f"Volume type {call.params['id']} has no extra specs with key {key}.")
    return {key: specs[key]}


def update_spec(call: Call) -> dict[str, Any]:
    if call.params["key"] not in call.body:
        raise exc.InvalidInput("Request body and URI mismatch: the key in both must be the same")
    specs = _without_nulls(call.body)
    call.api.set_extra_specs(call.ctx, _get(call).id, specs)
    return specs


def delete_spec(call: Call) -> None:
    call.api.delete_extra_spec(call.ctx, _get(call).id, call.params["key"])


def show_encryption(call: Call) -> dict[str, Any]:
    """No type is encrypted; clients ask when they show one."""
    _get(call)
    return {}


def _without_nulls(specs: Mapping[str, str | None]) -> dict[str, str]:
    """Cinder takes null for an empty value."""
    return {key: value or "" for key, value in specs.items()}


_SPECS = "volume_extension:types_extra_specs"

ROWS = (
    Row("GET", "/types", list_all, "volume_extension:type_get_all"),
    Row("POST", "/types", create, "volume_extension:type_create", schemas=schemas.CREATE),
    Row("GET", "/types/default", show_default, "volume_extension:type_get"),
    Row("GET", "/types/{id}", show, "volume_extension:type_get"),
    Row("PUT", "/types/{id}", update, "volume_extension:type_update", schemas=schemas.UPDATE),
    Row("DELETE", "/types/{id}", delete, "volume_extension:type_delete", success=202),
    Row("GET", "/types/{id}/extra_specs", list_specs, f"{_SPECS}:index"),
    Row("POST", "/types/{id}/extra_specs", set_specs, f"{_SPECS}:create", schemas=schemas.EXTRA_SPECS),
    Row("GET", "/types/{id}/extra_specs/{key}", show_spec, f"{_SPECS}:show"),
    Row("PUT", "/types/{id}/extra_specs/{key}", update_spec, f"{_SPECS}:update", schemas=schemas.ONE_EXTRA_SPEC),
    Row("DELETE", "/types/{id}/extra_specs/{key}", delete_spec, f"{_SPECS}:delete", success=202),
    Row("GET", "/types/{id}/encryption", show_encryption, "volume_extension:volume_type_encryption:get"),
)
