"""Attachments as Cinder shows them."""

from __future__ import annotations

from typing import Any

from volsvc import models
from volsvc.api.views.times import iso_or_empty


def summary(attachment: models.Attachment) -> dict[str, Any]:
    return {
        "id": attachment.id,
        "status": attachment.status,
        "instance": attachment.instance_id,
        "volume_id": attachment.volume_id,
    }


def detail(attachment: models.Attachment) -> dict[str, Any]:
    return {
        **summary(attachment),
        "attached_at": iso_or_empty(attachment.attached_at),
        "detached_at": iso_or_empty(attachment.detached_at),
        "attach_mode": attachment.attach_mode,
        "connection_info": _flatten(attachment),
    }


def _flatten(attachment: models.Attachment) -> dict[str, Any]:
    """Clients expect the data's keys beside ``driver_volume_type``; empty while nothing is connected."""
    info = attachment.connection_info
    if not info:
        return {}
    return {
        **dict(info.get("data") or {}),
        "driver_volume_type": info.get("driver_volume_type"),
        "attachment_id": attachment.id,
        "volume_id": attachment.volume_id,
        "access_mode": attachment.attach_mode,
        "encrypted": False,
        "qos_specs": None,
    }
