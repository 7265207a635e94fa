"""The local target: clients on this host open the volume's own path.

Nothing runs between a client and the storage, so an attachment is only a note in the runtime
directory.  A client that keeps the path open after its attachment ended can't be cut, and a
point in time beside a writer needs storage that can share extents.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers.base import Work
from volsvc.targets import clients
from volsvc.targets.base import BaseTarget, TargetContext


class LocalTarget(BaseTarget):
    growth = "live"
    storage_protocol = "local"
    can_copy_point_in_time = False

    def __init__(self, context: TargetContext) -> None:
        super().__init__(context)
        tag = hashlib.sha256(context.host.encode()).hexdigest()[:6]
        self._notes = os.path.join(context.runtime_path, f"local-{tag}")

    def check_for_setup_error(self) -> None:
        with self._noting():
            os.makedirs(self._notes, mode=0o700, exist_ok=True)

    def connect(self, volume: models.Volume, path: str, attachment: models.Attachment) -> Mapping[str, Any]:
        with self._noting():
            os.makedirs(self._note(volume.id), mode=0o700, exist_ok=True)
            with open(self._note(volume.id, attachment.id), "w") as note:
                note.write(path)
        return {
            "driver_volume_type": "local",
            "data": {"device_path": path, "access_mode": "ro" if attachment.is_read_only else "rw"},
        }

    def disconnect(self, volume: models.Volume, attachment: models.Attachment) -> None:
        with self._noting():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._note(volume.id, attachment.id))
            with contextlib.suppress(OSError):
                os.rmdir(self._note(volume.id))

    def sever(self, volume: models.Volume, attachment: models.Attachment) -> None:
        """Nothing stands between a client and the file, so one that still has it open is told of, not cut."""
        with self._noting(), contextlib.suppress(FileNotFoundError):
            with open(self._note(volume.id, attachment.id)) as note:
                path = note.read()
            if found := clients.of_file(path):
                raise exc.DriverError(
                    reason=f"volume {volume.id} can't be taken away from {', '.join(found)}: the local target has "
                    "nothing between a client and the file. End that process, then ask again"
                )
        self.disconnect(volume, attachment)

    def inspect(self, volume: models.Volume, path: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
        try:
            exported = tuple(sorted(os.listdir(self._note(volume.id))))
        except FileNotFoundError:
            exported = ()
        return exported, clients.of_file(path)

    def ensure(self, volume: models.Volume, path: str, attachments: Sequence[models.Attachment]) -> None:
        self.remove(volume.id)
        for attachment in attachments:
            self.connect(volume, path, attachment)

    def is_exporting(self, volume: models.Volume) -> bool:
        return os.path.isdir(self._note(volume.id))

    def list_exported(self) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self._notes))
        except FileNotFoundError:
            return frozenset()

    def remove(self, volume_id: str) -> None:
        directory = self._note(volume_id)
        with self._noting():
            try:
                names = os.listdir(directory)
            except FileNotFoundError:
                return
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, name))
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(directory)

    def copy_point_in_time(self, volume: models.Volume, destination: str, work: Work) -> None:
        raise exc.AbilityMissing(
            backend=self.context.backend,
            ability="copy a volume while clients write to it",
            reason="the local target has nothing between a client and the file; detach it first, use the nbd target, "
            "or a file system that shares extents (XFS, btrfs)",
        )

    def resize(self, volume: models.Volume, new_size_bytes: int) -> None:
        """Nothing to tell: clients see the file itself."""

    def _note(self, volume_id: str, attachment_id: str | None = None) -> str:
        try:
            names = [str(uuid.UUID(name)) for name in (volume_id, attachment_id) if name is not None]
        except ValueError:
            raise exc.InvalidInput(reason=f"{volume_id!r} or {attachment_id!r} is not a UUID") from None
        return os.path.join(self._notes, *names)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise exc.DriverError(reason=f"can't note attachments in {self._notes}: {exc.describe(error)}") from error
