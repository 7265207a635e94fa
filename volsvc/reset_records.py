"""What a reset means for the records: which attachments it is about, what it writes, and the plan in words."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Correction, Situation
from volsvc.resets import CAN_NOT_SAY, Ask, Fate, Force, Plan, final_statuses


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


def planned_steps(plan: Plan, situation: Situation, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the daemon would call and write, in order, by what an inspection's ``report`` says.

    A step ``refused`` is the last one: nothing is severed or written after it.
    """
    storage = report["storage"]
    kind = type(situation.resource).__name__.lower()
    look = {"step": "call", "call": "check_backup" if kind == "backup" else f"inspect_{kind}"}
    steps: list[dict[str, Any]] = [
        {"step": "stop", "operation": operation.id, "action": operation.action, "state": operation.state}
        for operation in situation.open_operations
    ]
    steps.append(look)
    refusal = None if plan.force is Force.IGNORE else _find_refusal(situation, storage, report["storage_error"])
    if refusal is not None:
        return [*steps, {"step": "refused", "reason": refusal}]
    if plan.asks is Ask.SEVER:
        exports = list((storage or {}).get("exports", ()))
        recorded = [attachment.id for attachment in situation.attachments]
        found = [*recorded, *(export for export in exports if export not in recorded)]
        steps += [{"step": "call", "call": "detach_volume", "attachment_id": each} for each in found]
        if exports or (storage or {}).get("clients"):
            steps.append(look)
    elif plan.asks is Ask.CONNECT:
        steps += [
            {"step": "call", "call": "initialize_connection", "attachment_id": attachment.id}
            for attachment in connectable(situation.attachments)
        ]
    return steps + planned_writes(plan, situation, storage)


def _find_refusal(situation: Situation, storage: Mapping[str, Any] | None, error: str | None) -> str | None:
    """Why a look at the storage would be the end of a reset that is not forced."""
    resource = situation.resource
    if storage is None:
        return None if error == CAN_NOT_SAY else error
    if not storage["exists"]:
        return f"the storage has no such {type(resource).__name__.lower()}"
    if isinstance(resource, models.Volume):
        return why_too_small(resource, storage["size_bytes"])
    return None


def why_too_small(volume: models.Volume, size_bytes: int | None) -> str | None:
    """What is wrong when the storage has ``size_bytes`` of a volume (None: it can't tell), None if nothing is."""
    if size_bytes is None or size_bytes >= volume.size_bytes:
        return None
    return (
        f"the storage has {size_bytes} bytes of it and the record says {volume.size_gb} GiB; look at the storage first"
    )


def grown_columns(volume: models.Volume, size_bytes: int | None) -> dict[str, Any]:
    """A growth that was cut may have reached the storage; what is there now is the volume's size."""
    size_gb = 0 if size_bytes is None else size_bytes // models.GIB
    return {"size_gb": size_gb} if size_gb > volume.size_gb else {}


def planned_writes(plan: Plan, situation: Situation, storage: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """What one transaction would write; ``storage`` is what an inspection said, if it is to be asked."""
    resource, columns = situation.resource, {}
    if isinstance(resource, models.Volume) and storage is not None and storage["exists"]:
        columns = grown_columns(resource, storage["size_bytes"])
    correction = dataclasses.replace(correction_of(plan, situation), columns=columns)
    cancelled = [o.id for o in situation.open_operations if correction.cancels(o, resource.id)]
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
