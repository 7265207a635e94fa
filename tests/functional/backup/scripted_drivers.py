"""The file driver and the posix store, which keep what they did when the daemon is killed, steered by a file.

A daemon of a test loads them by their dotted names; ``fake_script.py`` says how they are steered.  The
store's marker and the marker's checks are left alone, so that a script counts only what backups do.
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
        with self.script.applied("put"):
            super().put(name, data)

    def put_if_absent(self, name: str, data: Data) -> None:
        if name == MARKER_NAME:
            super().put_if_absent(name, data)
            return
        with self.script.applied("put_if_absent"):
            super().put_if_absent(name, data)

    def get(self, name: str) -> bytes:
        if name == MARKER_NAME:
            return super().get(name)
        with self.script.applied("get"):
            return super().get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        with self.script.applied("get_range"):
            return super().get_range(name, offset, length)

    def list(self, prefix: str) -> Iterator[Sequence[ObjectInfo]]:
        with self.script.applied("list"):
            yield from super().list(prefix)

    def delete_many(self, names: Sequence[str]) -> None:
        with self.script.applied("delete"):
            super().delete_many(names)


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
