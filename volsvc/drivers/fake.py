"""The fake driver: volumes without storage, and failures to order.

It keeps the whole contract of a driver (``testing/driver_contract.py``), so that managers and
daemons are tested with it, and does wrong exactly what its script says (``fake_script.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers import capacity
from volsvc.drivers.base import DriverContext, VolumeDriver, Work
from volsvc.drivers.directory import file_name
from volsvc.drivers.fake_script import Script
from volsvc.drivers.fake_store import BLOCK_BYTES, open_store, store_key
from volsvc.drivers.fake_store import OPTS as STORE_OPTS
from volsvc.drivers.readers import Reader, Source, kind_of, refuse_to_write_snapshots

_FULL = frozenset({"clone", "snapshot_attached", "extend_attached", "multiattach", "remote_blocks"})


class FakeDriver(VolumeDriver):
    abilities = _FULL

    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        return [
            *STORE_OPTS,
            *capacity.OPTS,
            cfg.IntOpt("fake_capacity_gb", default=1000, min=0, help="Capacity that the fake driver claims, in GiB."),
            cfg.ListOpt("fake_missing_abilities", default=[], help="Abilities that the fake driver denies."),
        ]

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self._key = store_key(self.options.fake_state_path, context.runtime_path, context.host)
        self.store = open_store(self._key)
        self.script: Script = context.extra.get("script") or Script(path=self.options.fake_script_path)
        self.abilities = _FULL - set(self.options.fake_missing_abilities)
        self._identity: str | None = None
        self.is_closed = False

    # -- initialisation ----------------------------------------------------------------

    def do_setup(self) -> None:
        with self.script.applied("do_setup"):
            capacity.check_ratio(self.options)

    def check_for_setup_error(self) -> None:
        with self.script.applied("check_for_setup_error"):
            if self.target is not None:
                self.target.check_for_setup_error()

    def read_identity(self) -> str | None:
        with self.script.applied("read_identity"), self.store.transaction() as state:
            self._identity = state["identity"]
            return self._identity

    def write_identity(self, identity: str) -> None:
        with self.script.applied("write_identity"), self.store.transaction() as state:
            if state["identity"] not in (None, identity):
                raise exc.BackendUnavailable(reason=f"the fake store belongs to backend {state['identity']}")
            state["identity"] = self._identity = identity

    def get_volume_stats(self) -> models.BackendStats:
        with self.script.applied("get_volume_stats"), self._files() as files:
            promised = sum(file["size"] for file in files.values())
            allocated = sum(len(file["blocks"]) for file in files.values()) * BLOCK_BYTES
        total = float(self.options.fake_capacity_gb)
        return models.BackendStats(
            total_capacity_gb=total,
            free_capacity_gb=max(0.0, total - allocated / models.GIB),
            reserved_percentage=self.options.reserved_percentage,
            max_over_subscription_ratio=capacity.ratio_of(self.options, promised, allocated),
            multiattach="multiattach" in self.abilities,
            online_extend_support="extend_attached" in self.abilities,
            storage_protocol=getattr(self.target, "storage_protocol", "fake"),
            abilities=tuple(sorted(self.abilities)),
            extra={"provisioned_capacity_gb": promised / models.GIB, "allocated_capacity_gb": allocated / models.GIB},
        )

    def close(self) -> None:
        with self.script.applied("close"):
            self.is_closed = True
            if self.target is not None:
                self.target.close()

    # -- volumes and snapshots ---------------------------------------------------------------

    def create_volume(self, volume: models.Volume) -> None:
        name = file_name("volume", volume.id)
        with self.script.applied("create_volume"), self._files() as files:
            files.setdefault(name, {"size": volume.size_bytes, "blocks": {}})

    def create_volume_from_snapshot(self, volume: models.Volume, snapshot: models.Snapshot, work: Work) -> None:
        with self.script.applied("create_volume_from_snapshot", work, volume.size_bytes):
            source = file_name("snapshot", snapshot.id)
            self._copy(source, file_name("volume", volume.id), volume.size_bytes, work)

    def create_cloned_volume(self, volume: models.Volume, source: models.Volume, work: Work) -> None:
        with self.script.applied("create_cloned_volume", work, volume.size_bytes):
            self._copy(file_name("volume", source.id), file_name("volume", volume.id), volume.size_bytes, work)

    def create_snapshot(self, snapshot: models.Snapshot, volume: models.Volume, work: Work) -> None:
        with self.script.applied("create_snapshot", work, volume.size_bytes):
            self._copy(file_name("volume", volume.id), file_name("snapshot", snapshot.id), snapshot.size_bytes, work)

    def _copy(self, source_name: str, name: str, size_bytes: int, work: Work) -> None:
        work.checkpoint(0, size_bytes)
        with self._files() as files:
            if name in files:
                return
            if source_name not in files:
                raise exc.DriverError(reason=f"{source_name} is not in the fake store")
            source = files[source_name]
            size = max(size_bytes, source["size"])
            work.checkpoint(size, size)
            files[name] = {"size": size, "blocks": dict(source["blocks"])}

    def delete_volume(self, volume: models.Volume) -> None:
        name = file_name("volume", volume.id)
        with self.script.applied("delete_volume"):
            with self._files():
                pass  # only the marker is looked at
            if self.target is not None:
                self.target.remove(volume.id)
            self._forget(name)

    def delete_snapshot(self, snapshot: models.Snapshot) -> None:
        name = file_name("snapshot", snapshot.id)
        with self.script.applied("delete_snapshot"):
            self._forget(name)

    def _forget(self, name: str) -> None:
        with self._state() as state:
            state["files"].pop(name, None)
            state["readers"] = {key: reader for key, reader in state["readers"].items() if reader["name"] != name}

    def extend_volume(self, volume: models.Volume, new_size_gb: int) -> None:
        name, size = file_name("volume", volume.id), new_size_gb * models.GIB
        with self.script.applied("extend_volume"):
            with self._files() as files:
                if name not in files:
                    raise exc.DriverError(reason=f"{name} is not in the fake store")
                files[name]["size"] = max(size, files[name]["size"])
            if self.target is not None and self.target.is_exporting(volume):
                self.target.resize(volume, size)

    @contextmanager
    def _files(self) -> Iterator[dict[str, Any]]:
        with self._state() as state:
            yield state["files"]

    @contextmanager
    def _state(self) -> Iterator[dict[str, Any]]:
        """Everything the store has, when it is ours."""
        with self.store.transaction() as state:
            if state["identity"] is None or state["identity"] != self._identity:
                raise exc.BackendUnavailable(
                    reason=f"the fake store has the marker {state['identity']}, expected {self._identity}; "
                    "nothing was touched"
                )
            yield state

    # -- connections --------------------------------------------------------------------------

    def initialize_connection(self, volume: models.Volume, attachment: models.Attachment) -> Mapping[str, Any]:
        name = file_name("volume", volume.id)
        with self.script.applied("initialize_connection"):
            with self._files() as files:
                if name not in files:
                    raise exc.DriverError(reason=f"{name} is not in the fake store")
            info: Mapping[str, Any] = self.target.connect(volume, name, attachment)
            return info

    def terminate_connection(self, volume: models.Volume, attachment: models.Attachment) -> None:
        with self.script.applied("terminate_connection"):
            self.target.disconnect(volume, attachment)

    def detach_volume(self, volume: models.Volume, attachment: models.Attachment) -> None:
        with self.script.applied("detach_volume"):
            self.target.sever(volume, attachment)

    def inspect_volume(self, volume: models.Volume) -> models.StorageView:
        with self.script.applied("inspect_volume"):
            view = self._inspect(file_name("volume", volume.id))
            if self.target is None:
                return view
            exports, clients = self.target.inspect(volume, file_name("volume", volume.id))
            return dataclasses.replace(view, exports=exports, clients=clients)

    def inspect_snapshot(self, snapshot: models.Snapshot) -> models.StorageView:
        with self.script.applied("inspect_snapshot"):
            return self._inspect(file_name("snapshot", snapshot.id))

    def _inspect(self, name: str) -> models.StorageView:
        with self._files() as files:
            found = files.get(name)
        return models.StorageView(exists=found is not None, size_bytes=found["size"] if found else None)

    def ensure_export(self, volume: models.Volume, attachments: Sequence[models.Attachment]) -> None:
        with self.script.applied("ensure_export"):
            self.target.ensure(volume, file_name("volume", volume.id), attachments)

    def remove_stale_exports(self, attached_volume_ids: frozenset[str]) -> list[str]:
        with self.script.applied("remove_stale_exports"):
            stale = sorted(self.list_exported() - attached_volume_ids)
            for volume_id in stale:
                self.target.remove(volume_id)
            return stale

    def list_exported(self) -> frozenset[str]:
        with self.script.applied("list_exported"):
            if self.target is None:
                return frozenset()
            exported: frozenset[str] = self.target.list_exported()
            return exported

    # -- blocks, for backups: a reader sees the store itself, from this host or another -----------

    def open_blocks(self, source: Source, reader: Reader) -> Mapping[str, Any]:
        refuse_to_write_snapshots(source, reader)
        name = file_name(kind_of(source), source.id)
        file_name("reader", reader.id)  # as strict as those that name files so
        with self.script.applied("open_blocks"), self._state() as state:
            if not reader.is_local and "remote_blocks" not in self.abilities:
                raise exc.AbilityMissing(
                    backend=self.context.backend, ability="serve another host", reason="the fake denies it"
                )
            if name not in state["files"]:
                raise exc.DriverError(reason=f"{name} is not in the fake store")
            state["readers"][reader.id] = {"name": name, "mode": reader.access_mode}
        return {
            "driver_volume_type": "fake",
            "data": {"store": self._key, "reader": reader.id, "access_mode": reader.access_mode},
        }

    def close_blocks(self, reader_id: str) -> None:
        with self.script.applied("close_blocks"), self.store.transaction() as state:
            state["readers"].pop(reader_id, None)

    def list_readers(self) -> frozenset[str]:
        with self.script.applied("list_readers"), self.store.transaction() as state:
            return frozenset(state["readers"])

    # -- looking after the storage -------------------------------------------------------------

    def remove_leftovers(self) -> list[str]:
        with self.script.applied("remove_leftovers"):
            if self.target is not None:
                self.target.end_abandoned_copies()
            return []

    def remove_abandoned(self) -> list[str]:
        with self.script.applied("remove_abandoned"):
            return []

    def list_stored(self) -> frozenset[str]:
        with self.script.applied("list_stored"), self._files() as files:
            return frozenset(files)
