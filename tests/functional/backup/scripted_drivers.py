"""The file driver and the posix store, which keep what they did when the daemon is killed, steered by a file.

A daemon of a test loads them by their dotted names; ``fake_script.py`` says how they are steered.  A method
of the store is called by what it does to which kind of object: ``put_root``, ``get_pack``, ``delete_data``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oslo_config import cfg

from volsvc import models
from volsvc.backup.drivers.base import MARKER_NAME, BackupDriverContext, Data, ObjectInfo
from volsvc.backup.drivers.posix import PosixBackupDriver
from volsvc.drivers.base import DriverContext, Work
from volsvc.drivers.fake_script import Script
from volsvc.drivers.file import FileDriver
from volsvc.drivers.readers import Reader, Source

STORE = f"{__name__}.ScriptedStore"
VOLUMES = f"{__name__}.ScriptedVolumes"


class ScriptedStore(PosixBackupDriver):
    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        return [*super().declared_options(), cfg.StrOpt("store_script")]

    def __init__(self, context: BackupDriverContext) -> None:
        super().__init__(context)
        self.script = Script(path=self.options.store_script)

    def put(self, name: str, data: Data) -> None:
        with self.script.applied(f"put_{kind_of(name)}"):
            super().put(name, data)

    def put_if_absent(self, name: str, data: Data) -> None:
        with self.script.applied(f"put_{kind_of(name)}"):
            super().put_if_absent(name, data)

    def get(self, name: str) -> bytes:
        with self.script.applied(f"get_{kind_of(name)}"):
            return super().get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        with self.script.applied(f"get_{kind_of(name)}"):
            return super().get_range(name, offset, length)

    def list(self, prefix: str) -> Iterator[Sequence[ObjectInfo]]:
        with self.script.applied(f"list_{kind_of(prefix)}"):
            yield from super().list(prefix)

    def delete_many(self, names: Sequence[str]) -> None:
        kind = kind_of(names[0])
        # A page of a listing, in any order.
        with self.script.applied("delete_data" if kind in ("pack", "pages") else f"delete_{kind}"):
            super().delete_many(names)


def kind_of(name: str) -> str:
    """``root``, ``start``, ``pack`` or ``pages`` (``data`` when it is listed), or ``marker``."""
    if name == MARKER_NAME:
        return "marker"
    if name.startswith("data/"):
        return {"d": "pack", "m": "pages"}.get(name.rpartition("/")[2][:1], "data")
    return {"roots": "root", "started": "start"}.get(name.partition("/")[0], "any")


class ScriptedVolumes(FileDriver):
    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        return [*super().declared_options(), cfg.StrOpt("volumes_script")]

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self.script = Script(path=self.options.volumes_script)

    def create_volume(self, volume: models.Volume) -> None:
        with self.script.applied("create_volume"):
            super().create_volume(volume)

    def extend_volume(self, volume: models.Volume, new_size_gb: int) -> None:
        with self.script.applied("extend_volume"):
            super().extend_volume(volume, new_size_gb)

    def delete_volume(self, volume: models.Volume) -> None:
        with self.script.applied("delete_volume"):
            super().delete_volume(volume)

    def create_snapshot(self, snapshot: models.Snapshot, volume: models.Volume, work: Work) -> None:
        with self.script.applied("create_snapshot", work):
            super().create_snapshot(snapshot, volume, work)

    def delete_snapshot(self, snapshot: models.Snapshot) -> None:
        with self.script.applied("delete_snapshot"):
            super().delete_snapshot(snapshot)

    def open_blocks(self, source: Source, reader: Reader) -> Mapping[str, Any]:
        with self.script.applied("open_blocks"):
            return super().open_blocks(source, reader)

    def close_blocks(self, reader_id: str) -> None:
        with self.script.applied("close_blocks"):
            super().close_blocks(reader_id)
