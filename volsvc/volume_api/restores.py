"""Requests to write a backup into a volume: one that exists, or a new one.

A new volume and the operation that fills it are recorded in one transaction, on the hosts of two daemons:
there is no moment in which somebody else could take the volume, and no request that waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from volsvc import exceptions as exc
from volsvc import models, placement
from volsvc.ports import Guards, Intent
from volsvc.states import BackupStatus, VolumeStatus
from volsvc.volume_api import backup_daemons
from volsvc.volume_api.base import check_size, new_id
from volsvc.volume_api.placing import PlacingBase, asks_multiattach, pool_of

#: Cinder's description of a volume that a restore makes.
RESTORED = "auto-created_from_restore_from_backup"


class RestoreRequests(PlacingBase):
    def restore_backup(
        self,
        context: models.RequestContext,
        backup_id: str,
        *,
        volume_id: str | None = None,
        name: str | None = None,
    ) -> models.Volume:
        """Record a restore over a volume, or to a new one; returns the volume as 'restoring-backup'.

        ``name`` is the new volume's.  Raises ``InvalidBackup``, ``InvalidVolume``, the ``NotFound`` of either,
        ``ServiceDown``, and for a new volume ``NoBackendReady`` and ``CapacityExceeded``.
        """
        backup, service = self._find_restorable(context, backup_id)
        if volume_id is None:
            return self._restore_to_new(context, backup, service, name or f"restore_backup_{backup_id}", RESTORED)
        volume = self._get_volume(context, volume_id)
        if volume.status != VolumeStatus.AVAILABLE:
            raise exc.InvalidVolume(
                reason=f"Volume to be restored to must be available, but the status of {volume_id} is {volume.status}"
            )
        if volume.size_gb < backup.size_gb:
            raise exc.InvalidVolume(
                reason=f"volume size {volume.size_gb} is too small to restore backup of size {backup.size_gb} (GiB); "
                "extend it, or restore to another one"
            )
        self._require_enabled(volume.host)
        self._submit(
            Intent(
                action="backup_restore",
                context=context,
                resource_id=backup_id,
                second_id=volume_id,
                host=service.host,
                changes={"restore_volume_id": volume_id},
            )
        )
        return self._store.get_volume(volume_id)

    def create_from_backup(
        self,
        context: models.RequestContext,
        backup_id: str,
        *,
        size_gb: int | None = None,
        name: str | None = None,
        description: str | None = None,
        volume_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        availability_zone: str | None = None,
        multiattach: bool = False,
    ) -> models.Volume:
        """A new volume with a backup's bytes, of another size or type if asked; raises as ``restore_backup`` does."""
        backup, service = self._find_restorable(context, backup_id)
        if size_gb is not None and check_size(size_gb) < backup.size_gb:
            raise exc.InvalidInput(
                reason=f"Volume size {size_gb} GiB cannot be smaller than the backup's size ({backup.size_gb} GiB)."
            )
        return self._restore_to_new(
            *(context, backup, service, name, description),
            size_gb=size_gb,
            volume_type=volume_type,
            metadata=metadata,
            availability_zone=availability_zone,
            multiattach=multiattach,
        )

    def _find_restorable(self, context: models.RequestContext, backup_id: str) -> tuple[models.Backup, models.Service]:
        backup = self._get_backup(context, backup_id)
        if backup.status != BackupStatus.AVAILABLE:
            raise exc.InvalidBackup(
                reason=f"Backup status must be available, and that of {backup_id} is {backup.status}"
            )
        return backup, backup_daemons.find_for_backup(self._store.list_services(), backup)

    def _restore_to_new(
        self,
        context: models.RequestContext,
        backup: models.Backup,
        daemon: models.Service,
        name: str | None,
        description: str | None,
        *,
        size_gb: int | None = None,
        volume_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        availability_zone: str | None = None,
        multiattach: bool = False,
    ) -> models.Volume:
        """The volume and what fills it are recorded together; type and zone are the origin's if it still exists."""
        origin = self._find_origin(context, backup)
        chosen_type = self._choose_type(context, volume_type, origin)
        is_multiattach = multiattach or asks_multiattach(chosen_type)
        size = size_gb or backup.size_gb
        wish = placement.Wish(
            size_gb=size,
            extra_specs=chosen_type.extra_specs,
            availability_zone=availability_zone or (origin.availability_zone if origin else None),
            is_multiattach=is_multiattach,
        )
        volume_id = new_id()

        def make(backend: models.Service, guards: Guards) -> Sequence[Intent]:
            volume = models.Volume(
                id=volume_id,
                size_gb=size,
                status=VolumeStatus.RESTORING_BACKUP,
                project_id=context.project_id,
                user_id=context.user_id,
                host=pool_of(backend),
                name=name,
                description=description,
                volume_type_id=chosen_type.id,
                availability_zone=backend.availability_zone,
                is_bootable=origin is not None and origin.is_bootable,
                is_multiattach=is_multiattach,
                claimed_gb=size,
                metadata=dict(metadata or {}),
            )
            return (
                Intent("volume_create_to_restore", context, volume_id, host=backend.host, insert=volume, guards=guards),
                Intent(
                    action="backup_restore_to_new",
                    context=context,
                    resource_id=backup.id,
                    second_id=volume_id,
                    host=daemon.host,
                    changes={"restore_volume_id": volume_id},
                ),
            )

        try:
            self._place(wish, make)
        except (exc.NoBackendReady, exc.CapacityExceeded) as error:
            way_out = "Or make a volume that another backend has room for, and restore to that one"
            raise type(error)(f"{error}. {way_out}.") from error
        return self._store.get_volume(volume_id)

    def _find_origin(self, context: models.RequestContext, backup: models.Backup) -> models.Volume | None:
        try:
            return self._get_volume(context, backup.volume_id)
        except exc.VolumeNotFound:
            return None
