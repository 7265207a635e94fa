"""The interface of a target: exporting a volume's storage to clients.

One target object belongs to one driver generation; what it exports outlives it (and the
daemon), and is found again by the next.  Paths are the driver's; a target does not know
how volumes are stored beyond "a raw image at this path".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from oslo_config import cfg

from volsvc import models
from volsvc.drivers.base import Work
from volsvc.drivers.readers import Reader
from volsvc.options import Options


@dataclass(frozen=True, slots=True)
class TargetContext:
    """``backend``: the group's name; ``runtime_path``: a short private directory for sockets."""

    backend: str
    host: str
    options: Options
    runtime_path: str


class BaseTarget:
    #: How an attached volume grows: "live" under the client, "reconnect" when clients are cut and come back.
    growth: ClassVar[str] = "live"
    storage_protocol: ClassVar[str] = "unknown"
    #: False when ``copy_point_in_time`` is impossible: then only shared extents make snapshots of attached volumes.
    can_copy_point_in_time: ClassVar[bool] = True
    #: True when ``open_remotely`` works: a backup service on another host can then read and write volumes.
    can_open_remotely: ClassVar[bool] = False

    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        return ()

    def __init__(self, context: TargetContext) -> None:
        self.context = context
        self.options = context.options

    def check_for_setup_error(self) -> None:
        """Raise ``MissingDriverLibrary`` naming the package when a tool is missing."""

    def connect(self, volume: models.Volume, path: str, attachment: models.Attachment) -> Mapping[str, Any]:
        """Export ``path`` for this attachment; the same answer when it is exported already."""
        raise NotImplementedError

    def disconnect(self, volume: models.Volume, attachment: models.Attachment) -> None:
        """Cut this attachment's clients and end the exporter with the last one.  Repeatable."""
        raise NotImplementedError

    def sever(self, volume: models.Volume, attachment: models.Attachment) -> None:
        """Cut this attachment's clients for good, also when they or the exporter don't answer.  Repeatable.

        Raises when it isn't certain that they are cut; used by reset.
        """
        raise NotImplementedError

    def inspect(self, volume: models.Volume, path: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
        """Ids of the attachments that are exported, and addresses of connected clients (None: can't tell).

        ``path``: the image, exported or not.  Changes nothing.
        """
        raise NotImplementedError

    def ensure(self, volume: models.Volume, path: str, attachments: Sequence[models.Attachment]) -> None:
        """Adopt or restart the exporter so that exactly these attachments are served."""
        raise NotImplementedError

    def is_exporting(self, volume: models.Volume) -> bool:
        """True while an exporter may write to the volume's storage."""
        raise NotImplementedError

    def list_exported(self) -> frozenset[str]:
        raise NotImplementedError

    def remove(self, volume_id: str) -> None:
        """End the volume's exporter, whoever is connected.  Repeatable."""
        raise NotImplementedError

    def copy_point_in_time(self, volume: models.Volume, destination: str, work: Work) -> None:
        """Fill the existing file ``destination`` with the volume as it is at one instant.

        Only for an exported volume.  Sparse where the source is.  The clients' writes go on.
        """
        raise NotImplementedError

    def end_abandoned_copies(self) -> None:
        """End copies that a killed daemon left running; those of living threads go on.  Repeatable."""

    def resize(self, volume: models.Volume, new_size_bytes: int) -> None:
        """Tell the exporter that the storage has grown; does nothing when it knows."""
        raise NotImplementedError

    # -- readers on other hosts: backups, beside all attachments ---------------------------
    # One target that has ``can_open_remotely`` writes all of these, another none.

    def open_remotely(self, path: str, reader: Reader) -> Mapping[str, Any]:
        """Serve the raw image at ``path`` to this reader alone, over the network and encrypted.

        Returns its connection_info (``nbd+tls``), the same one while what it speaks of lives.
        """
        raise NotImplementedError

    def close_reader(self, reader_id: str) -> None:
        """Cut this reader and forget its key.  Repeatable, and done for one that never was."""

    def close_readers_of(self, path: str) -> None:
        """Cut every reader of that image: it is going."""

    def list_readers(self) -> frozenset[str]:
        """Ids of the readers that something is left of, served or not."""
        return frozenset()

    def close(self) -> None:
        """Forget connections to exporters; the exporters go on."""
