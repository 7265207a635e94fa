"""An example of a driver in a package of its own: one file for each volume, copied by reading.

It keeps the contracts (see the tests beside it in the guide) and has no abilities beyond the
required, "clone" and what its target gives.  What it leans on is public: the store directory checks the marker before
each use and gives files their names only when they are whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers import sparse
from volsvc.drivers.base import DriverContext, VolumeDriver, Work
from volsvc.drivers.directory import OpenStore, StoreDirectory, file_name
from volsvc.drivers.readers import Source, kind_of


class PlainFilesDriver(VolumeDriver):
    abilities = frozenset({"clone"})

    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        return [cfg.StrOpt("plain_files_path", help="Directory of the volumes; it must exist.")]

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self._directory = StoreDirectory(self.options.plain_files_path or "", context.backend)
        if self.target.can_open_remotely:
            self.abilities = self.abilities | {"remote_blocks"}

    # -- initialisation: what no retry mends is told apart from what may pass ----------------

    def do_setup(self) -> None:
        if not os.path.isabs(self._directory.path):
            raise exc.DriverConfigurationError(reason=f"[{self.context.backend}] plain_files_path is not absolute")

    def check_for_setup_error(self) -> None:
        self.target.check_for_setup_error()
        with self._directory.opened("set the backend up", any_identity=True) as store, store.part("probe") as part:
            os.fsync(part.fd)
            store.delete(part.name)

    def read_identity(self) -> str | None:
        return self._directory.read_identity()

    def write_identity(self, identity: str) -> None:
        self._directory.write_identity(identity)

    def get_volume_stats(self) -> models.BackendStats:
        with self._directory.opened("measure the capacity") as store:
            found = os.fstatvfs(store.fd)
            sizes = [os.stat(name, dir_fd=store.fd).st_size for name in store.names("volume-", "snapshot-")]
        return models.BackendStats(
            total_capacity_gb=found.f_blocks * found.f_frsize / models.GIB,
            free_capacity_gb=found.f_bavail * found.f_frsize / models.GIB,
            multiattach=False,
            online_extend_support=False,
            storage_protocol=self.target.storage_protocol,
            abilities=tuple(sorted(self.abilities)),
            extra={"provisioned_capacity_gb": sum(sizes) / models.GIB},
        )

    def close(self) -> None:
        self.target.close()

    # -- volumes and snapshots: whole or not there, and repeating is harmless ----------------

    def create_volume(self, volume: models.Volume) -> None:
        name = file_name("volume", volume.id)
        with self._directory.opened(f"create {name}") as store:
            if not store.has(name, volume.size_bytes):
                with store.part(name) as part:
                    part.grow(volume.size_bytes)
                    part.publish(name)

    def create_volume_from_snapshot(self, volume: models.Volume, snapshot: models.Snapshot, work: Work) -> None:
        self._copy(file_name("snapshot", snapshot.id), file_name("volume", volume.id), volume.size_bytes, work)

    def create_cloned_volume(self, volume: models.Volume, source: models.Volume, work: Work) -> None:
        self._refuse_if_exported(source, "clone")
        self._copy(file_name("volume", source.id), file_name("volume", volume.id), volume.size_bytes, work)

    def create_snapshot(self, snapshot: models.Snapshot, volume: models.Volume, work: Work) -> None:
        self._refuse_if_exported(volume, "snapshot")
        self._copy(file_name("volume", volume.id), file_name("snapshot", snapshot.id), snapshot.size_bytes, work)

    def _copy(self, source: str, name: str, size_bytes: int, work: Work) -> None:
        with self._directory.opened(f"copy {source} to {name}") as store:
            if not store.has(name, size_bytes):
                self._write_copy(store, source, name, size_bytes, work)

    def _write_copy(self, store: OpenStore, source: str, name: str, size_bytes: int, work: Work) -> None:
        with store.opened(source) as source_fd, store.part(name) as part:
            length = os.fstat(source_fd).st_size
            sparse.copy_data(source_fd, part.fd, length, work.checkpoint)
            part.grow(max(size_bytes, length))
            work.checkpoint(length, length)
            part.publish(name)

    def _refuse_if_exported(self, volume: models.Volume, verb: str) -> None:
        if self.target.is_exporting(volume):
            raise exc.AbilityMissing(
                backend=self.context.backend, ability=f"{verb} an attached volume", reason="detach it first"
            )

    def delete_volume(self, volume: models.Volume) -> None:
        name = file_name("volume", volume.id)
        with self._directory.opened(f"delete {name}") as store:
            self.target.remove(volume.id)
            self.target.close_readers_of(os.path.join(store.path, name))
            store.delete(name)

    def delete_snapshot(self, snapshot: models.Snapshot) -> None:
        name = file_name("snapshot", snapshot.id)
        with self._directory.opened(f"delete {name}") as store:
            self.target.close_readers_of(os.path.join(store.path, name))
            store.delete(name)

    def extend_volume(self, volume: models.Volume, new_size_gb: int) -> None:
        name, size = file_name("volume", volume.id), new_size_gb * models.GIB
        self._refuse_if_exported(volume, "extend")
        with self._directory.opened(f"extend {name}") as store, store.opened(name, os.O_RDWR) as fd:
            if os.fstat(fd).st_size < size:
                os.ftruncate(fd, size)
            os.fsync(fd)

    # -- connections: the target's business ------------------------------------------------------

    def initialize_connection(self, volume: models.Volume, attachment: models.Attachment) -> Mapping[str, Any]:
        info: Mapping[str, Any] = self.target.connect(volume, self.local_path(volume), attachment)
        return info

    def terminate_connection(self, volume: models.Volume, attachment: models.Attachment) -> None:
        self.target.disconnect(volume, attachment)

    def detach_volume(self, volume: models.Volume, attachment: models.Attachment) -> None:
        self.target.sever(volume, attachment)

    def inspect_volume(self, volume: models.Volume) -> models.StorageView:
        name = file_name("volume", volume.id)
        with self._directory.opened(f"look at {name}") as store:
            size_bytes = store.size_of(name)
        exports, clients = self.target.inspect(volume, os.path.join(self._directory.path, name))
        return models.StorageView(size_bytes is not None, size_bytes, exports, clients)

    def inspect_snapshot(self, snapshot: models.Snapshot) -> models.StorageView:
        name = file_name("snapshot", snapshot.id)
        with self._directory.opened(f"look at {name}") as store:
            size_bytes = store.size_of(name)
        return models.StorageView(size_bytes is not None, size_bytes)

    def ensure_export(self, volume: models.Volume, attachments: Sequence[models.Attachment]) -> None:
        self.target.ensure(volume, self.local_path(volume), attachments)

    def list_exported(self) -> frozenset[str]:
        exported: frozenset[str] = self.target.list_exported()
        return exported

    def remove_stale_exports(self, attached_volume_ids: frozenset[str]) -> list[str]:
        stale = sorted(self.list_exported() - attached_volume_ids)
        for volume_id in stale:
            self.target.remove(volume_id)
        return stale

    # -- blocks, for backups: a raw file needs no more than this ------------------------------------

    def local_path(self, source: Source) -> str:
        name = file_name(kind_of(source), source.id)
        with self._directory.opened(f"export {name}") as store, store.opened(name):
            return os.path.join(store.path, name)

    # -- looking after the storage ------------------------------------------------------------------

    def remove_leftovers(self) -> list[str]:
        with self._directory.opened("remove leftovers") as store:
            return store.sweep()

    def list_stored(self) -> frozenset[str]:
        with self._directory.opened("list the files") as store:
            return frozenset(store.names("volume-", "snapshot-"))
