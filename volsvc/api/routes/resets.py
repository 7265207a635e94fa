"""Resetting a status, and inspecting what record and storage say: rows and handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volsvc.api.call import Call, parse_bool
from volsvc.api.schemas import resets as schemas
from volsvc.api.table import Reply, Row

#: What each ``force`` needs beyond the reset's own rule.
_FORCE_RULES = {"ignore": "volsvc:reset:ignore_driver", "skip": "volsvc:reset:skip_driver"}

_INSPECT_RULE = "volsvc:volume:inspect"


def _authorize_force(call: Call, body: Mapping[str, Any]) -> None:
    if body.get("force") is not None:
        call.authorize(_FORCE_RULES[body["force"]])


def _is_dry(body: Mapping[str, Any]) -> bool:
    return parse_bool(body.get("dry_run", False), "dry_run")


def _word(body: Mapping[str, Any], name: str) -> str | None:
    """As Cinder reads it: in any case of letters, and an empty one is none."""
    return str(body.get(name) or "").lower() or None


def reset_volume(call: Call) -> Reply | None:
    body = call.body["os-reset_status"]
    _authorize_force(call, body)
    is_dry = _is_dry(body)
    if is_dry:
        call.authorize(_INSPECT_RULE)  # its answer has an inspection
    plan = call.api.reset_status(
        call.ctx,
        call.params["id"],
        status=_word(body, "status"),
        attach_status=_word(body, "attach_status"),
        migration_status=_word(body, "migration_status"),
        force=body.get("force"),
        dry_run=is_dry,
    )
    return None if plan is None else Reply({"dry_run": plan}, status=200)


def reset_snapshot(call: Call) -> Reply | None:
    body = call.body["os-reset_status"]
    _authorize_force(call, body)
    plan = call.api.reset_snapshot_status(
        call.ctx,
        call.params["id"],
        status=_word(body, "status"),
        force=body.get("force"),
        dry_run=_is_dry(body),
    )
    return None if plan is None else Reply({"dry_run": plan}, status=200)


def reset_backup(call: Call) -> Reply | None:
    body = call.body["os-reset_status"]
    _authorize_force(call, body)
    plan = call.api.reset_backup_status(
        call.ctx,
        call.params["id"],
        status=_word(body, "status"),
        force=body.get("force"),
        dry_run=_is_dry(body),
    )
    return None if plan is None else Reply({"dry_run": plan}, status=200)


def inspect_volume(call: Call) -> dict[str, Any]:
    return {"inspection": call.api.inspect(call.ctx, call.params["id"])}


_RESETS = (
    Row(
        *("POST", "/volumes/{id}/action", reset_volume, "volume_extension:volume_admin_actions:reset_status"),
        action="os-reset_status",
        success=202,
        schemas=schemas.VOLUME,
    ),
    Row(
        *("POST", "/snapshots/{id}/action", reset_snapshot, "volume_extension:snapshot_admin_actions:reset_status"),
        action="os-reset_status",
        success=202,
        schemas=schemas.SNAPSHOT,
    ),
    Row(
        *("POST", "/backups/{id}/action", reset_backup, "volume_extension:backup_admin_actions:reset_status"),
        action="os-reset_status",
        success=202,
        schemas=schemas.BACKUP,
    ),
)

ROWS = (*_RESETS, Row("GET", "/volumes/{id}/inspect", inspect_volume, _INSPECT_RULE))

#: Below /v2 too, where old tools still ask for exactly this.
V2_ROWS = _RESETS
