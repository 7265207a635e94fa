"""Snapshots as Cinder shows them."""

from __future__ import annotations

from typing import Any

from volsvc import models
from volsvc.api import microversions as mv
from volsvc.api.call import Call
from volsvc.api.views.times import iso
from volsvc.states import SnapshotStatus


class SnapshotView:
    def __init__(self, call: Call) -> None:
        self._version = call.version
        self._shows_attributes = call.allows("volume_extension:extended_snapshot_attributes")

    def summary(self, snapshot: models.Snapshot) -> dict[str, Any]:
        return {
            "id": snapshot.id,
            "created_at": iso(snapshot.created_at),
            "updated_at": iso(snapshot.updated_at),
            "name": snapshot.name,
            "description": snapshot.description,
            "volume_id": snapshot.volume_id,
            "status": snapshot.status,
            "size": snapshot.size_gb,
            "metadata": dict(snapshot.metadata),
        }

    def detail(self, snapshot: models.Snapshot) -> dict[str, Any]:
        body = self.summary(snapshot)
        if self._shows_attributes:
            body["os-extended-snapshot-attributes:project_id"] = snapshot.project_id
            is_whole = snapshot.status == SnapshotStatus.AVAILABLE
            body["os-extended-snapshot-attributes:progress"] = "100%" if is_whole else snapshot.progress
        if self._version >= mv.GROUP_SNAPSHOT_ID:
            body["group_snapshot_id"] = None
        if self._version >= mv.SNAPSHOT_USER_ID:
            body["user_id"] = snapshot.user_id
        if self._version >= mv.CONSUMES_QUOTA:
            body["consumes_quota"] = True
        return body
