"""The fake target: exports are notes in the fake store, clients read and write the store.

An export has no process, but it can be made to die (``kill_exporter``) as one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers import fake_store
from volsvc.drivers.base import Work
from volsvc.drivers.fake_script import Script
from volsvc.targets.base import BaseTarget, TargetContext


class FakeTarget(BaseTarget):
    growth: ClassVar[str] = "live"
    storage_protocol = "fake"
    can_copy_point_in_time = False

    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        return fake_store.OPTS

    def __init__(self, context: TargetContext) -> None:
        super().__init__(context)
        self._key = fake_store.store_key(self.options.fake_state_path, context.runtime_path, context.host)
        self.store = fake_store.open_store(self._key)
        self.script = Script(path=self.options.fake_script_path)

    def check_for_setup_error(self) -> None:
        with self.script.applied("target.check_for_setup_error"):
            pass

    def connect(self, volume: models.Volume, path: str, attachment: models.Attachment) -> Mapping[str, Any]:
        mode = "ro" if attachment.is_read_only else "rw"
        with self.script.applied("target.connect"), self.store.transaction() as state:
            export = state["exports"].setdefault(volume.id, {"name": path, "attachments": {}})
            export["attachments"][attachment.id] = mode
        return {
            "driver_volume_type": "fake",
            "data": {"store": self._key, "volume": volume.id, "attachment": attachment.id, "access_mode": mode},
        }

    def disconnect(self, volume: models.Volume, attachment: models.Attachment) -> None:
        with self.script.applied("target.disconnect"), self.store.transaction() as state:
            attachments = state["exports"].get(volume.id, {}).get("attachments", {})
            attachments.pop(attachment.id, None)
            if not attachments:
                state["exports"].pop(volume.id, None)

    def sever(self, volume: models.Volume, attachment: models.Attachment) -> None:
        with self.script.applied("target.sever"):
            self.disconnect(volume, attachment)

    def inspect(self, volume: models.Volume, path: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
        with self.script.applied("target.inspect"), self.store.transaction() as state:
            export = state["exports"].get(volume.id, {})
            return tuple(sorted(export.get("attachments", {}))), tuple(export.get("clients", ()))

    def ensure(self, volume: models.Volume, path: str, attachments: Sequence[models.Attachment]) -> None:
        with self.script.applied("target.ensure"), self.store.transaction() as state:
            state["exports"].pop(volume.id, None)
            if attachments:
                modes = {a.id: "ro" if a.is_read_only else "rw" for a in attachments}
                state["exports"][volume.id] = {"name": path, "attachments": modes}

    def is_exporting(self, volume: models.Volume) -> bool:
        with self.store.transaction() as state:
            return volume.id in state["exports"]

    def list_exported(self) -> frozenset[str]:
        with self.store.transaction() as state:
            return frozenset(state["exports"])

    def remove(self, volume_id: str) -> None:
        with self.script.applied("target.remove"), self.store.transaction() as state:
            state["exports"].pop(volume_id, None)

    def kill_exporter(self, volume_id: str) -> None:
        """The exporter dies: its clients are cut, the records know nothing of it."""
        with self.store.transaction() as state:
            state["exports"].pop(volume_id, None)

    def copy_point_in_time(self, volume: models.Volume, destination: str, work: Work) -> None:
        raise exc.AbilityMissing(
            backend=self.context.backend, ability="copy an exported volume", reason="the fake store copies at once"
        )

    def resize(self, volume: models.Volume, new_size_bytes: int) -> None:
        """Clients of the fake see the store itself."""


class FakeClient:
    """A client of a fake export; ``data`` is the connection's."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self._store = fake_store.open_store(data["store"])
        _ = self.size_bytes

    @property
    def size_bytes(self) -> int:
        with self._store.transaction() as state:
            return int(self._file(state)["size"])

    def read(self, offset: int, length: int) -> bytes:
        with self._store.transaction() as state:
            return fake_store.read_file(self._file(state), offset, length)

    def write(self, offset: int, data: bytes) -> None:
        if self._data["access_mode"] == "ro":
            raise PermissionError("the fake export is read-only")
        with self._store.transaction() as state:
            fake_store.write_file(self._file(state), offset, data)

    def flush(self) -> None:
        """Nothing is cached."""

    def close(self) -> None:
        """Nothing is open."""

    def _file(self, state: dict[str, Any]) -> dict[str, Any]:
        export = state["exports"].get(self._data["volume"], {})
        if self._data["attachment"] not in export.get("attachments", {}) or export["name"] not in state["files"]:
            raise ConnectionResetError("the fake export is gone")
        file: dict[str, Any] = state["files"][export["name"]]
        return file
