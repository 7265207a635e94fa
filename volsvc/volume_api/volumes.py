"""Requests on volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc import models, placement
from volsvc.ports import CapacityClaim, Guards, Intent, Page, Query
from volsvc.volume_api.base import check_size, new_id, scope_of, scoped
from volsvc.volume_api.placing import PlacingBase, asks_multiattach, pool_of

Summary = tuple[int, int, dict[str, list[str]]]


class VolumeRequests(PlacingBase):
    def create(
        self,
        context: models.RequestContext,
        *,
        size_gb: int | None,
        name: str | None = None,
        description: str | None = None,
        volume_type: str | None = None,
        snapshot_id: str | None = None,
        source_volid: str | None = None,
        metadata: Mapping[str, str] | None = None,
        availability_zone: str | None = None,
        multiattach: bool = False,
    ) -> models.Volume:
        """Record a new volume on the best backend and return it as 'creating'.

        Raises ``InvalidInput``, the ``NotFound`` of what it refers to, ``NoBackendReady`` and
        ``CapacityExceeded``; nothing is recorded then.
        """
        if snapshot_id and source_volid:
            raise exc.InvalidInput(reason="snapshot_id and source_volid exclude each other; give one of them.")
        source = self._find_source(context, snapshot_id, source_volid)
        size = self._choose_size(size_gb, source)
        chosen_type = self._choose_type(context, volume_type, source)
        is_multiattach = multiattach or asks_multiattach(chosen_type)
        wish = placement.Wish(
            size_gb=size,
            extra_specs=chosen_type.extra_specs,
            availability_zone=availability_zone,
            is_multiattach=is_multiattach,
            only_host=models.backend_of(source.host) if source and source.host else None,
        )
        volume_id = new_id()
        action = "volume_create"
        if snapshot_id:
            action = "volume_create_from_snapshot"
        elif source_volid:
            action = "volume_clone"

        def make(service: models.Service, guards: Guards) -> list[Intent]:
            volume = models.Volume(
                id=volume_id,
                size_gb=size,
                status="creating",
                project_id=context.project_id,
                user_id=context.user_id,
                host=pool_of(service),
                name=name,
                description=description,
                volume_type_id=chosen_type.id,
                availability_zone=service.availability_zone,
                snapshot_id=snapshot_id,
                source_volid=source_volid,
                is_bootable=isinstance(source, models.Volume) and source.is_bootable,
                is_multiattach=is_multiattach,
                claimed_gb=size,
                metadata=dict(metadata or {}),
            )
            return [
                Intent(
                    action=action,
                    context=context,
                    resource_id=volume_id,
                    second_id=snapshot_id or source_volid,
                    host=service.host,
                    insert=volume,
                    guards=guards,
                )
            ]

        self._place(wish, make)
        return self._store.get_volume(volume_id)

    def get(self, context: models.RequestContext, volume_id: str) -> models.Volume:
        return self._get_volume(context, volume_id)

    def list(self, context: models.RequestContext, query: Query, with_count: bool = False) -> Page[models.Volume]:
        return self._store.list_volumes(scoped(context, query), with_count=with_count)

    def summary(self, context: models.RequestContext, query: Query) -> Summary:
        return self._store.summarise_volumes(scoped(context, query))

    def update(self, context: models.RequestContext, volume_id: str, changes: Mapping[str, Any]) -> models.Volume:
        """Write name, description, metadata or is_bootable."""
        self._get_volume(context, volume_id)
        return self._store.update_volume(volume_id, changes)

    def set_bootable(self, context: models.RequestContext, volume_id: str, bootable: bool) -> None:
        self.update(context, volume_id, {"is_bootable": bootable})

    def delete(
        self, context: models.RequestContext, volume_id: str, *, cascade: bool = False, force: bool = False
    ) -> None:
        """Record the deletion: with ``cascade`` its snapshots go first, with ``force`` whatever its status.

        A forced delete asks what is running on the volume to cancel.  Attachments always refuse it.
        """
        volume = self._get_volume(context, volume_id)
        self._require_enabled(volume.host)
        intents: list[Intent] = []
        host = models.backend_of(volume.host) if volume.host else None
        if cascade:
            snapshots = self._store.list_snapshots(Query(filters={"volume_id": volume_id})).items
            intents = [
                Intent(
                    action="snapshot_force_delete" if force else "snapshot_delete",
                    context=context,
                    resource_id=snapshot.id,
                    second_id=volume_id,
                    host=host,
                    cancel_open=force,
                )
                for snapshot in snapshots
                if snapshot.status != "deleting"
            ]
        intents.append(
            Intent(
                action="volume_force_delete" if force else "volume_delete",
                context=context,
                resource_id=volume_id,
                host=host,
                guards=Guards(no_snapshots=volume_id, no_attachments=volume_id),
                cancel_open=force,
            )
        )
        self._submit(*intents)

    def extend(self, context: models.RequestContext, volume_id: str, new_size_gb: int) -> None:
        """Record that the volume grows; the room is claimed at once."""
        volume = self._get_volume(context, volume_id)
        size = check_size(new_size_gb)
        if size <= volume.size_gb:
            raise exc.InvalidInput(
                reason=f"New size for extend must be greater than current size. (current: {volume.size_gb}, "
                f"extended: {size})."
            )
        service = placement.find_service(self._store.list_services(), volume.host or "")
        self._require_enabled(volume.host)
        limit = placement.limit_gb(service.capabilities) if service else None
        is_attached = volume.status == "in-use"
        if is_attached and service and not service.capabilities.get("online_extend_support", True):
            raise exc.AbilityMissing(
                backend=service.host,
                ability="extend an attached volume",
                reason="detach it, extend it, attach it again",
            )
        self._submit(
            Intent(
                action="volume_extend_attached" if is_attached else "volume_extend",
                context=context,
                resource_id=volume_id,
                host=models.backend_of(volume.host or ""),
                args={"new_size_gb": size},
                changes={"claimed_gb": size},
                guards=Guards(
                    capacity=CapacityClaim(models.backend_of(volume.host or ""), size - volume.size_gb, limit)
                ),
            )
        )

    # -- choosing ------------------------------------------------------------------------

    def _find_source(
        self, context: models.RequestContext, snapshot_id: str | None, source_volid: str | None
    ) -> models.Snapshot | models.Volume | None:
        if snapshot_id:
            return self._get_snapshot(context, snapshot_id)
        if source_volid:
            return self._store.get_volume(source_volid, project_id=scope_of(context))
        return None

    @staticmethod
    def _choose_size(size_gb: int | None, source: models.Snapshot | models.Volume | None) -> int:
        if size_gb is None:
            if source is None:
                raise exc.InvalidInput(
                    reason="size is needed (GiB) unless the volume is made from another or a snapshot."
                )
            return source.size_gb
        size = check_size(size_gb)
        if source is not None and size < source.size_gb:
            raise exc.InvalidInput(
                reason=f"Volume size '{size}' GiB cannot be smaller than the size of its source ({source.size_gb} GiB)."
            )
        return size
