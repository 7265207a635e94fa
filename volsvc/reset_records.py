"""What a reset means for the records: which attachments it is about, what it writes, and the plan in words."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Correction, Situation
from volsvc.resets import Ask, Fate, Plan, final_statuses


def connectable(attachments: Sequence[models.Attachment]) -> list[models.Attachment]:
    """Those that a client has connected, or asked to."""
    return [attachment for attachment in attachments if attachment.connector or attachment.connection_info]


def attached_columns(attachment: models.Attachment) -> dict[str, Any]:
    """What is written to an attachment that a reset to in-use attaches."""
    columns: dict[str, Any] = {"status": "attached"}
    if attachment.attached_at is None:
        columns["attached_at"] = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    return columns


def nothing_to_connect(volume_id: str) -> exc.Conflict:
    return exc.Conflict(
        reason=f"volume {volume_id} has no attachment that a client has connected, so it can't be in use; attach it"
    )


def written_by(situation: Situation, correction: Correction) -> dict[str, Any]:
    """A correction as an operation's result keeps it."""
    resource = situation.resource
    if not isinstance(resource, models.Volume):
        return {"status": correction.status}
    left = [
        str(correction.attachments.get(attachment.id, {}).get("status", attachment.status))
        for attachment in situation.attachments
        if not correction.deletes_attachments
    ]
    status, attach_status = final_statuses(correction.status, correction.attach_status, resource.status, left)
    return {
        "status": status,
        "attach_status": attach_status,
        "migration_status": correction.migration_status,
        "attachments_deleted": [a.id for a in situation.attachments] if correction.deletes_attachments else [],
        **correction.columns,
    }


def planned_calls(plan: Plan, situation: Situation, storage: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What the daemon would do before it writes, in order; ``storage`` is what an inspection said."""
    steps: list[dict[str, Any]] = [
        {"step": "stop", "operation": operation.id, "action": operation.action, "state": operation.state}
        for operation in situation.open_operations
    ]
    kind = type(situation.resource).__name__.lower()
    steps.append({"step": "call", "call": f"inspect_{kind}"})
    if storage is not None and not storage["exists"]:
        steps.append({"step": "refused", "reason": f"the storage has no such {kind}"})
    if plan.asks is Ask.SEVER:
        ids = [attachment.id for attachment in situation.attachments]
        ids += [export for export in (storage or {}).get("exports", ()) if export not in ids]
        steps += [{"step": "call", "call": "detach_volume", "attachment_id": found} for found in ids]
        if ids:
            steps.append({"step": "call", "call": f"inspect_{kind}"})
    elif plan.asks is Ask.CONNECT:
        steps += [
            {"step": "call", "call": "initialize_connection", "attachment_id": attachment.id}
            for attachment in connectable(situation.attachments)
        ]
    return steps


def planned_writes(plan: Plan, situation: Situation) -> list[dict[str, Any]]:
    """What one transaction would write."""
    correction = correction_of(plan, situation)
    cancelled = [o.id for o in situation.open_operations if correction.cancels(o, situation.resource.id)]
    return [
        *({"step": "write", "cancel_operation": operation_id} for operation_id in cancelled),
        {"step": "write", **written_by(situation, correction)},
    ]


def correction_of(plan: Plan, situation: Situation) -> Correction:
    """What a reset writes when the storage is not asked."""
    attached = connectable(situation.attachments) if plan.attachments is Fate.ATTACHED else []
    return Correction(
        status=plan.status,
        attach_status=plan.attach_status,
        migration_status=plan.migration_status,
        deletes_attachments=plan.attachments is Fate.DELETED,
        attachments={attachment.id: attached_columns(attachment) for attachment in attached},
    )
