"""Backups as Cinder shows them; the fields grow with the microversion."""

from __future__ import annotations

from typing import Any

from volsvc import models
from volsvc.api import microversions as mv
from volsvc.api.call import Call
from volsvc.api.views.times import iso


class BackupView:
    """One request's view: what depends on the caller and the microversion is settled once."""

    def __init__(self, call: Call) -> None:
        self._version = call.version
        self._shows_owner = call.allows("backup:backup_project_attribute")
        self._self_prefix = call.href("backups/")
        self._bookmark_prefix = call.href("backups/", version="")

    def summary(self, backup: models.Backup) -> dict[str, Any]:
        return {"id": backup.id, "name": backup.name, "links": self._links(backup.id)}

    def detail(self, backup: models.Backup) -> dict[str, Any]:
        body: dict[str, Any] = {
            "id": backup.id,
            "status": backup.status,
            "size": backup.size_gb,
            "object_count": backup.object_count,
            "availability_zone": backup.availability_zone,
            "container": backup.container,
            "created_at": iso(backup.created_at),
            "updated_at": iso(backup.updated_at),
            "name": backup.name,
            "description": backup.description,
            "fail_reason": backup.fail_reason,
            "volume_id": backup.volume_id,
            "links": self._links(backup.id),
            "is_incremental": backup.parent_id is not None,
            # Each backup is whole, so that none needs another.
            "has_dependent_backups": False,
            "snapshot_id": backup.snapshot_id,
            "data_timestamp": iso(backup.data_timestamp),
        }
        if self._version >= mv.BACKUP_METADATA:
            body["metadata"] = dict(backup.metadata)
        if self._shows_owner and self._version >= mv.BACKUP_PROJECT:
            body["os-backup-project-attr:project_id"] = backup.project_id
        if self._shows_owner and self._version >= mv.BACKUP_USER_ID:
            body["user_id"] = backup.user_id
        return body

    def _links(self, backup_id: str) -> list[dict[str, str]]:
        return [
            {"rel": "self", "href": self._self_prefix + backup_id},
            {"rel": "bookmark", "href": self._bookmark_prefix + backup_id},
        ]
