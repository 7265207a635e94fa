"""Volumes as Cinder shows them; the fields grow with the microversion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from volsvc import models
from volsvc.api import microversions as mv
from volsvc.api.call import Call
from volsvc.api.views.times import iso
from volsvc.states import AttachStatus

# Cinder doesn't show users that a volume is being managed.
_SHOWN_STATUS = {"managing": "creating", "error_managing": "error"}


class VolumeView:
    """One request's view: what depends on the caller and the microversion is settled once."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._version = call.version
        self._is_admin = call.ctx.is_admin
        self._shows_host = call.allows("volume_extension:volume_host_attribute")
        self._shows_tenant = call.allows("volume_extension:volume_tenant_attribute")
        self._shows_migration = call.allows("volume_extension:volume_mig_status_attribute")
        self._self_prefix = call.href("volumes/")
        self._bookmark_prefix = call.href("volumes/", version="")

    def summary(self, volume: models.Volume) -> dict[str, Any]:
        return {"id": volume.id, "name": volume.name, "links": self._links(volume.id)}

    def detail(self, volume: models.Volume, attachments: Sequence[models.Attachment]) -> dict[str, Any]:
        """``attachments``: all of the volume's; only those in place are shown."""
        version = self._version
        type_name = self._call.parts.type_names.name_of(self._call.ctx, volume.volume_type_id)
        body: dict[str, Any] = {
            "id": volume.id,
            "status": _SHOWN_STATUS.get(volume.status, volume.status),
            "size": volume.size_gb,
            "availability_zone": volume.availability_zone,
            "created_at": iso(volume.created_at),
            "updated_at": iso(volume.updated_at),
            "name": volume.name,
            "description": volume.description,
            "volume_type": type_name,
            "snapshot_id": volume.snapshot_id,
            "source_volid": volume.source_volid,
            "metadata": dict(volume.metadata),
            "links": self._links(volume.id),
            "user_id": volume.user_id,
            "bootable": "true" if volume.is_bootable else "false",
            "encrypted": False,
            "replication_status": None,
            "consistencygroup_id": None,
            "multiattach": volume.is_multiattach,
            "attachments": [self._attachment(a) for a in attachments if a.status == AttachStatus.ATTACHED],
        }
        if self._is_admin:
            body["migration_status"] = volume.migration_status
        if self._shows_host:
            body["os-vol-host-attr:host"] = volume.host
        if self._shows_tenant:
            body["os-vol-tenant-attr:tenant_id"] = volume.project_id
        if self._shows_migration:
            body["os-vol-mig-status-attr:migstat"] = volume.migration_status
            body["os-vol-mig-status-attr:name_id"] = None
        if version >= mv.GROUP_ID:
            body["group_id"] = None
        if version >= mv.PROVIDER_ID and self._is_admin:
            body["provider_id"] = None
        if version >= mv.SHARED_TARGETS:
            # A target serves one volume here, so that clients need no lock among volumes.
            body["shared_targets"] = False
            body["service_uuid"] = None
        if version >= mv.CLUSTER_NAME and self._is_admin:
            body["cluster_name"] = None
        if version >= mv.VOLUME_TYPE_ID:
            body["volume_type_id"] = volume.volume_type_id
        if version >= mv.CONSUMES_QUOTA:
            body["consumes_quota"] = True
        return body

    def _attachment(self, attachment: models.Attachment) -> dict[str, Any]:
        return {
            "id": attachment.volume_id,
            "attachment_id": attachment.id,
            "volume_id": attachment.volume_id,
            "server_id": attachment.instance_id,
            "host_name": attachment.attached_host if self._is_admin else None,
            "device": attachment.mountpoint,
            "attached_at": iso(attachment.attached_at),
        }

    def _links(self, volume_id: str) -> list[dict[str, str]]:
        return [
            {"rel": "self", "href": self._self_prefix + volume_id},
            {"rel": "bookmark", "href": self._bookmark_prefix + volume_id},
        ]


def summary_of_all(call: Call, count: int, size_gb: int, metadata: dict[str, list[str]]) -> dict[str, Any]:
    """How many volumes there are, how large, and with which metadata."""
    body: dict[str, Any] = {"total_count": count, "total_size": size_gb}
    if call.version >= mv.SUMMARY_METADATA:
        body["metadata"] = metadata
    return {"volume-summary": body}
