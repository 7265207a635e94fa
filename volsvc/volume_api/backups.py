"""Requests on backups.

What reads or writes a store is recorded for a backup daemon and refused at once when none can do it;
a backup of which nothing reached a store needs none to be deleted.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Guards, Intent, Page, Query
from volsvc.states import OPEN_STATES, TRANSITIONS, BackupStatus, SnapshotStatus, VolumeStatus
from volsvc.volume_api import backup_daemons, backup_records
from volsvc.volume_api.base import RequestBase, new_id, scoped

_MAX_COUNTED = 1000


class BackupRequests(RequestBase):
    def create_backup(
        self,
        context: models.RequestContext,
        volume_id: str,
        *,
        snapshot_id: str | None = None,
        name: str | None = None,
        description: str | None = None,
        container: str | None = None,
        force: bool = False,
        incremental: bool = False,
        metadata: Mapping[str, str] | None = None,
        availability_zone: str | None = None,
    ) -> models.Backup:
        """Record a backup of a volume, or of a snapshot of it, and return it as 'creating'.

        ``force``: also of an attached volume; its bytes are those of one moment.  ``container`` is kept as a
        label: a daemon has one store.  Raises ``InvalidVolume``, ``InvalidSnapshot`` and ``InvalidInput``,
        the ``NotFound`` of what it refers to, and ``ServiceDown``; nothing is recorded then.
        """
        if incremental:
            raise exc.InvalidInput(
                reason="incremental backups are not there yet: each backup is whole; ask without incremental"
            )
        volume = self._get_volume(context, volume_id)
        snapshot = self._find_snapshot(context, volume_id, snapshot_id)
        if snapshot is None:
            _require_readable(volume, force)
        self._require_enabled(volume.host)
        service = self._choose_daemon(volume, availability_zone)
        backup = models.Backup(
            id=new_id(),
            volume_id=volume_id,
            size_gb=volume.size_gb if snapshot is None else snapshot.size_gb,
            status=BackupStatus.CREATING,
            project_id=context.project_id,
            user_id=context.user_id,
            snapshot_id=snapshot_id,
            host=service.host,
            name=name,
            description=description,
            container=container or None,
            availability_zone=service.availability_zone,
            volume_name=volume.name,
            data_timestamp=None if snapshot is None else snapshot.created_at,
            metadata=dict(metadata or {}),
        )
        self._submit(
            Intent(
                action="backup_create" if snapshot is None else "backup_create_from_snapshot",
                context=context,
                resource_id=backup.id,
                second_id=volume_id if snapshot is None else snapshot.id,
                host=service.host,
                insert=backup,
            )
        )
        return self._store.get_backup(backup.id)

    def get_backup(self, context: models.RequestContext, backup_id: str) -> models.Backup:
        return self._get_backup(context, backup_id)

    def list_backups(
        self, context: models.RequestContext, query: Query, with_count: bool = False
    ) -> Page[models.Backup]:
        return self._store.list_backups(scoped(context, query), with_count=with_count)

    def summarise_backups(self, context: models.RequestContext, query: Query) -> tuple[int, int]:
        """How many, and GiB in all."""
        return self._store.summarise_backups(scoped(context, query))

    def update_backup(
        self, context: models.RequestContext, backup_id: str, changes: Mapping[str, Any]
    ) -> models.Backup:
        """Write name, description or metadata."""
        self._get_backup(context, backup_id)
        return self._store.update_backup(backup_id, changes)

    def delete_backup(self, context: models.RequestContext, backup_id: str, *, force: bool = False) -> None:
        """Record the deletion; with ``force`` whatever the status, and what runs on it is asked to cancel.

        One in error of which nothing was stored is gone at once, also while every daemon is down.
        Raises ``BackupNotFound``, ``InvalidBackup`` and ``ServiceDown``.
        """
        backup = self._get_backup(context, backup_id)
        if not backup.is_stored and TRANSITIONS["backup_forget"].first.may_start_from(backup.status):
            forget = Intent("backup_forget", context, backup_id, guards=Guards(never_stored=backup_id))
            self._submit(*self._give_back(context, backup), forget)
            return
        action = "backup_force_delete" if force else "backup_delete"
        if not TRANSITIONS[action].first.may_start_from(backup.status):
            raise exc.InvalidBackup(
                reason=f"Backup status must be available or error, and that of {backup_id} is {backup.status}"
            )
        service = backup_daemons.find_for_backup(self._store.list_services(), backup)
        self._submit(Intent(action, context, backup_id, host=service.host, cancel_open=force))

    def _give_back(self, context: models.RequestContext, backup: models.Backup) -> list[Intent]:
        """The deletion of a temporary snapshot that a daemon which was cut has left: its only trace is the record."""
        if backup.temp_snapshot_id is None:
            return []
        try:
            snapshot = self._store.get_snapshot(backup.temp_snapshot_id)
        except exc.SnapshotNotFound:
            return []
        return [
            Intent(
                "backup_snapshot_delete",
                context,
                snapshot.id,
                second_id=snapshot.volume_id,
                host=models.backend_of(snapshot.host or ""),
                cancel_open=True,
            )
        ]

    # -- records that travel ----------------------------------------------------------------

    def export_backup(self, context: models.RequestContext, backup_id: str) -> tuple[str, str]:
        """The driver's name and the record as text; raises ``InvalidBackup`` unless the backup is available."""
        backup = self._get_backup(context, backup_id)
        if backup.status != BackupStatus.AVAILABLE:
            raise exc.InvalidBackup(reason=f"Backup status must be available and not {backup.status}.")
        return backup.service or "", backup_records.encode(backup)

    def import_backup(self, context: models.RequestContext, backup_service: str, backup_url: str) -> models.Backup:
        """Record a backup that a store has already; a daemon then looks whether it is there.

        Raises ``InvalidInput`` for what is no record, ``InvalidBackup`` for a backup that is here already, and
        ``ServiceDown``.
        """
        fields = backup_records.decode(backup_url)
        if self._exists(fields["id"]):
            raise exc.InvalidBackup(reason=f"Backup {fields['id']} already exists in database.")
        usable = backup_daemons.usable_for_new(self._store.list_services())
        service = backup_daemons.choose_for_store(usable, fields["store_uuid"])
        backup = models.Backup(
            **fields,
            status=BackupStatus.CREATING,
            project_id=context.project_id,
            user_id=context.user_id,
            host=service.host,
            availability_zone=service.availability_zone,
        )
        record = {**fields, "data_timestamp": fields["data_timestamp"] and fields["data_timestamp"].isoformat()}
        self._submit(
            Intent(
                action="backup_import",
                context=context,
                resource_id=backup.id,
                host=service.host,
                args={"record": record, "backup_service": backup_service},
                insert=backup,
            )
        )
        return self._store.get_backup(backup.id)

    def _exists(self, backup_id: str) -> bool:
        try:
            self._store.get_backup(backup_id)
        except exc.BackupNotFound:
            return False
        return True

    # -- looking up ------------------------------------------------------------------------

    def _find_snapshot(
        self, context: models.RequestContext, volume_id: str, snapshot_id: str | None
    ) -> models.Snapshot | None:
        if snapshot_id is None:
            return None
        snapshot = self._get_snapshot(context, snapshot_id)
        if snapshot.volume_id != volume_id:
            raise exc.InvalidVolume(
                reason=f"Volume {volume_id} does not match with snapshot.volume_id {snapshot.volume_id}."
            )
        if snapshot.status != SnapshotStatus.AVAILABLE:
            raise exc.InvalidSnapshot(
                reason=f"Snapshot to be backed up must be available, but the current status is {snapshot.status}."
            )
        return snapshot

    def _choose_daemon(self, volume: models.Volume, zone: str | None) -> models.Service:
        usable = backup_daemons.usable_for_new(self._store.list_services(), zone)
        counts = self._count_open([service.host for service in usable]) if len(usable) > 1 else {}
        return backup_daemons.choose_for_volume(usable, volume, counts)

    def _count_open(self, hosts: Sequence[str]) -> Mapping[str, int]:
        query = Query(filters={"host": hosts, "state": sorted(OPEN_STATES)}, sort=(("seq", "asc"),), limit=_MAX_COUNTED)
        return collections.Counter(operation.host or "" for operation in self._store.list_operations(query).items)


def _require_readable(volume: models.Volume, force: bool) -> None:
    if volume.status not in (VolumeStatus.AVAILABLE, VolumeStatus.IN_USE):
        raise exc.InvalidVolume(
            reason="Volume to be backed up must be available or in-use, "
            f"but the current status of {volume.id} is {volume.status}."
        )
    if volume.status == VolumeStatus.IN_USE and not force:
        raise exc.InvalidVolume(reason=f"Backing up an in-use volume must use the force flag, and {volume.id} is that.")
