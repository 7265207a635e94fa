"""Requests on snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Intent, Page, Query
from volsvc.volume_api.base import RequestBase, new_id, scoped


class SnapshotRequests(RequestBase):
    def create_snapshot(
        self,
        context: models.RequestContext,
        volume_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, str] | None = None,
        force: bool = False,
    ) -> models.Snapshot:
        """Record a snapshot; an attached volume needs ``force`` (the API sets it from microversion 3.66 on)."""
        volume = self._get_volume(context, volume_id)
        if volume.status == "in-use" and not force:
            raise exc.InvalidVolume(
                reason=f"Volume {volume_id} status must be available, but current status is: in-use. "
                "Detach it, or ask with force."
            )
        self._require_enabled(volume.host)
        snapshot = models.Snapshot(
            id=new_id(),
            volume_id=volume_id,
            size_gb=volume.size_gb,
            status="creating",
            project_id=context.project_id,
            user_id=context.user_id,
            host=volume.host,
            name=name,
            description=description,
            volume_type_id=volume.volume_type_id,
            metadata=dict(metadata or {}),
        )
        self._submit(
            Intent(
                action="snapshot_create",
                context=context,
                resource_id=snapshot.id,
                second_id=volume_id,
                host=models.backend_of(volume.host or ""),
                insert=snapshot,
            )
        )
        return self._store.get_snapshot(snapshot.id)

    def get_snapshot(self, context: models.RequestContext, snapshot_id: str) -> models.Snapshot:
        return self._get_snapshot(context, snapshot_id)

    def list_snapshots(
        self, context: models.RequestContext, query: Query, with_count: bool = False
    ) -> Page[models.Snapshot]:
        return self._store.list_snapshots(scoped(context, query), with_count=with_count)

    def update_snapshot(
        self, context: models.RequestContext, snapshot_id: str, changes: Mapping[str, Any]
    ) -> models.Snapshot:
        """Write name, description or metadata."""
        self._get_snapshot(context, snapshot_id)
        return self._store.update_snapshot(snapshot_id, changes)

    def delete_snapshot(self, context: models.RequestContext, snapshot_id: str, *, force: bool = False) -> None:
        snapshot = self._get_snapshot(context, snapshot_id)
        self._require_enabled(snapshot.host)
        self._submit(
            Intent(
                action="snapshot_force_delete" if force else "snapshot_delete",
                context=context,
                resource_id=snapshot_id,
                second_id=snapshot.volume_id,
                host=models.backend_of(snapshot.host or ""),
                cancel_open=force,
            )
        )
