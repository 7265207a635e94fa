"""The file driver: each volume and each snapshot is one raw sparse file in a directory.

Files are independent of each other, so anything may be deleted in any order.  Snapshots and
clones share extents at once where the file system can, else the data is copied; a volume that
an exporter may be writing to is then copied by the exporter, which alone can freeze a point
in time.  How clients reach a volume is the target's business.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers import capacity, sparse
from volsvc.drivers.base import DriverContext, VolumeDriver, Work
from volsvc.drivers.directory import OpenStore, StoreDirectory, file_name
from volsvc.drivers.readers import Source, kind_of
from volsvc.drivers.storage_errors import FULL, translated

LOG = logging.getLogger(__name__)

_PROBE_BYTES = 64 * 1024

OPTS = [
    cfg.StrOpt(
        "file_store_path",
        sample_default="$state_path/volumes/<backend>",
        help="Directory that holds one file per volume and snapshot, an absolute path. Unset, a private directory is "
        "made below state_path; a configured one must exist, so that an unmounted disk is noticed. "
        "A reload applies it to a directory with the same marker.",
    ),
    cfg.StrOpt(
        "file_allocation",
        default="thin",
        choices=[
            ("thin", "a volume takes room as it is written"),
            ("thick", "a volume's room is reserved when it is created or extended"),
        ],
        help="How volumes take room. A reload applies it to volumes created afterwards.",
    ),
    *capacity.OPTS,
]


class FileDriver(VolumeDriver):
    abilities = frozenset({"clone", "snapshot_attached", "extend_attached", "multiattach"})

    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        return OPTS

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self._is_default_path = not self.options.file_store_path
        path = self.options.file_store_path or os.path.join(context.state_path, "volumes", context.backend)
        self._directory = StoreDirectory(path, context.backend)
        self._is_thick = self.options.file_allocation == "thick"

    @property
    def path(self) -> str:
        """The directory that holds the files."""
        return self._directory.path

    # -- initialisation ----------------------------------------------------------------

    def do_setup(self) -> None:
        backend = self.context.backend
        if not os.path.isabs(self.path):
            raise exc.DriverConfigurationError(reason=f"[{backend}] file_store_path {self.path!r} is not absolute")
        if os.path.basename(backend) != backend or backend.startswith("."):
            raise exc.DriverConfigurationError(reason=f"the backend name {backend!r} can't name a directory")
        capacity.check_ratio(self.options)
        if self._is_default_path:
            with translated("make it", self.path):
                os.makedirs(self.path, mode=0o700, exist_ok=True)

    def check_for_setup_error(self) -> None:
        if self.target is not None:
            self.target.check_for_setup_error()
        with self._directory.opened("set the backend up", any_identity=True) as store:
            can_reflink = self._probe(store)
        abilities = set(FileDriver.abilities)
        if can_reflink:
            abilities.add("reflink")
        elif not getattr(self.target, "can_copy_point_in_time", True):
            abilities.discard("snapshot_attached")
        if getattr(self.target, "can_open_remotely", False):
            abilities.add("remote_blocks")
        self.abilities = frozenset(abilities)

    def _probe(self, store: OpenStore) -> bool:
        """Write a file and clone it: shows a read-only file system, and whether extents can be shared."""
        try:
            with store.part("probe-source") as source, store.part("probe-copy") as copy:
                os.pwrite(source.fd, b"\1" * _PROBE_BYTES, 0)
                os.fsync(source.fd)
                can_reflink = sparse.try_reflink(source.fd, copy.fd)
                store.delete(source.name)
                store.delete(copy.name)
        except OSError as error:
            if error.errno not in FULL:
                raise
            # Room is made by deleting volumes, which needs the backend.
            LOG.warning("%s: there is no room in %s; only what needs none can be done", self.context.host, self.path)
            return False
        return can_reflink

    def read_identity(self) -> str | None:
        return self._directory.read_identity()

    def write_identity(self, identity: str) -> None:
        self._directory.write_identity(identity)

    def get_volume_stats(self) -> models.BackendStats:
        with self._directory.opened("measure the capacity") as store:
            found = os.fstatvfs(store.fd)
            promised = allocated = 0
            for name in store.names("volume-", "snapshot-"):
                try:
                    entry = os.stat(name, dir_fd=store.fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                promised += entry.st_size
                allocated += entry.st_blocks * 512
        return models.BackendStats(
            total_capacity_gb=found.f_blocks * found.f_frsize / models.GIB,
            free_capacity_gb=found.f_bavail * found.f_frsize / models.GIB,
            reserved_percentage=self.options.reserved_percentage,
            max_over_subscription_ratio=capacity.ratio_of(self.options, promised, allocated),
            thin_provisioning_support=not self._is_thick,
            multiattach="multiattach" in self.abilities,
            online_extend_support="extend_attached" in self.abilities,
            storage_protocol=getattr(self.target, "storage_protocol", "file"),
            abilities=tuple(sorted(self.abilities)),
            extra={
                "provisioned_capacity_gb": promised / models.GIB,
                "allocated_capacity_gb": allocated / models.GIB,
            },
        )

    def close(self) -> None:
        if self.target is not None:
            self.target.close()

    # -- volumes and snapshots ---------------------------------------------------------------

    def create_volume(self, volume: models.Volume) -> None:
        name = file_name("volume", volume.id)
        with self._directory.opened(f"create {name}") as store:
            if store.has(name, volume.size_bytes):
                return
            with store.part(name) as part:
                part.grow(volume.size_bytes, allocate=self._is_thick)
                part.publish(name)

    def create_volume_from_snapshot(self, volume: models.Volume, snapshot: models.Snapshot, work: Work) -> None:
        name, source = file_name("volume", volume.id), file_name("snapshot", snapshot.id)
        with self._directory.opened(f"create {name} from {source}") as store:
            self._copy(store, source, None, name, volume.size_bytes, self._is_thick, work)

    def create_cloned_volume(self, volume: models.Volume, source: models.Volume, work: Work) -> None:
        name, source_name = file_name("volume", volume.id), file_name("volume", source.id)
        with self._directory.opened(f"clone {source_name} to {name}") as store:
            self._copy(store, source_name, source, name, volume.size_bytes, self._is_thick, work)

    def create_snapshot(self, snapshot: models.Snapshot, volume: models.Volume, work: Work) -> None:
        name, source = file_name("snapshot", snapshot.id), file_name("volume", volume.id)
        with self._directory.opened(f"snapshot {source} as {name}") as store:
            self._copy(store, source, volume, name, snapshot.size_bytes, False, work)

    def _copy(
        self,
        store: OpenStore,
        source_name: str,
        source_volume: models.Volume | None,
        name: str,
        size_bytes: int,
        is_thick: bool,
        work: Work,
    ) -> None:
        """Make ``name`` a point in time of ``source_name``, at least ``size_bytes`` long.

        ``source_volume`` is given when clients may be writing to the source.
        """
        if store.has(name, size_bytes):
            return
        with store.opened(source_name) as source_fd, store.part(name) as part:
            length = os.fstat(source_fd).st_size
            if not sparse.try_reflink(source_fd, part.fd):
                store.require_room(sparse.allocated_bytes(source_fd), f"copy {source_name}")
                if source_volume is not None and self._is_exporting(source_volume):
                    part.grow(length)
                    self.target.copy_point_in_time(source_volume, part.path, work)
                else:
                    sparse.copy_data(source_fd, part.fd, length, work.checkpoint)
            part.grow(max(size_bytes, length), allocate=is_thick)
            # The last chance to learn that this claim was superseded, before the name appears.
            work.checkpoint(length, length)
            part.publish(name)

    def delete_volume(self, volume: models.Volume) -> None:
        name = file_name("volume", volume.id)
        with self._directory.opened(f"delete {name}") as store:
            if self._is_exporting(volume):
                self.target.remove(volume.id)
            self._close_readers_of(name)
            store.delete(name)

    def delete_snapshot(self, snapshot: models.Snapshot) -> None:
        name = file_name("snapshot", snapshot.id)
        with self._directory.opened(f"delete {name}") as store:
            self._close_readers_of(name)
            store.delete(name)

    def extend_volume(self, volume: models.Volume, new_size_gb: int) -> None:
        name, new_size = file_name("volume", volume.id), new_size_gb * models.GIB
        with self._directory.opened(f"extend {name}") as store, store.opened(name, os.O_RDWR) as fd:
            old_size = os.fstat(fd).st_size
            if old_size < new_size:
                self._grow(fd, old_size, new_size)
            os.fsync(fd)
        if self._is_exporting(volume):
            self.target.resize(volume, new_size)

    def _grow(self, fd: int, old_size: int, new_size: int) -> None:
        if not self._is_thick:
            os.ftruncate(fd, new_size)
            return
        try:
            os.posix_fallocate(fd, old_size, new_size - old_size)
        except OSError:
            # A failed reservation may have grown the file part of the way; nobody has seen that yet.
            os.ftruncate(fd, old_size)
            raise

    # -- connections --------------------------------------------------------------------------

    def initialize_connection(self, volume: models.Volume, attachment: models.Attachment) -> Mapping[str, Any]:
        path = self.local_path(volume)
        info: Mapping[str, Any] = self.target.connect(volume, path, attachment)
        return info

    def terminate_connection(self, volume: models.Volume, attachment: models.Attachment) -> None:
        self.target.disconnect(volume, attachment)

    def detach_volume(self, volume: models.Volume, attachment: models.Attachment) -> None:
        self.target.sever(volume, attachment)

    def inspect_volume(self, volume: models.Volume) -> models.StorageView:
        view = self._inspect(file_name("volume", volume.id))
        if self.target is None:
            return view
        exports, clients = self.target.inspect(volume, os.path.join(self.path, file_name("volume", volume.id)))
        return dataclasses.replace(view, exports=exports, clients=clients)

    def inspect_snapshot(self, snapshot: models.Snapshot) -> models.StorageView:
        return self._inspect(file_name("snapshot", snapshot.id))

    def _inspect(self, name: str) -> models.StorageView:
        with self._directory.opened(f"look at {name}") as store:
            size_bytes = store.size_of(name)
        return models.StorageView(exists=size_bytes is not None, size_bytes=size_bytes)

    def ensure_export(self, volume: models.Volume, attachments: Sequence[models.Attachment]) -> None:
        if attachments:
            self.target.ensure(volume, self.local_path(volume), attachments)
        elif self.target is not None:
            self.target.remove(volume.id)

    def remove_stale_exports(self, attached_volume_ids: frozenset[str]) -> list[str]:
        stale = sorted(self.list_exported() - attached_volume_ids)
        for volume_id in stale:
            LOG.warning("volume %s: ending an export that no attachment asks for", volume_id)
            self.target.remove(volume_id)
        return stale

    def list_exported(self) -> frozenset[str]:
        if self.target is None:
            return frozenset()
        exported: frozenset[str] = self.target.list_exported()
        return exported

    def _is_exporting(self, volume: models.Volume) -> bool:
        return self.target is not None and bool(self.target.is_exporting(volume))

    # -- blocks, for backups ------------------------------------------------------------------

    def local_path(self, source: Source) -> str:
        name = file_name(kind_of(source), source.id)
        with self._directory.opened(f"export {name}") as store, store.opened(name):
            return os.path.join(store.path, name)

    def _close_readers_of(self, name: str) -> None:
        if self.target is not None:
            self.target.close_readers_of(os.path.join(self.path, name))

    # -- looking after the storage -------------------------------------------------------------

    def remove_leftovers(self) -> list[str]:
        if self.target is not None:
            # A copy that a killed daemon left running would go on writing to a deleted file.
            self.target.end_abandoned_copies()
        with self._directory.opened("remove leftovers") as store:
            return store.sweep()

    def remove_abandoned(self) -> list[str]:
        return self.remove_leftovers()  # both go by locks

    def list_stored(self) -> frozenset[str]:
        with self._directory.opened("list the files") as store:
            return frozenset(name for name in store.names("volume-", "snapshot-") if _is_ours(name))


def _is_ours(name: str) -> bool:
    kind, _, identifier = name.partition("-")
    try:
        return file_name(kind, identifier) == name
    except exc.InvalidInput:
        return False
