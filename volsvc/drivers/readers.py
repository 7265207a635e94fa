"""Who reads a volume's or a snapshot's blocks beside its attachments, and the way on the same host.

A backup reads the storage itself, and a restore writes it.  Neither is an attachment: no record
shows it, it changes no status, and it never shares a volume with clients.  A reader is named by
the operation that it works for, so that what is left of it can be ended when that is over.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from volsvc import exceptions as exc
from volsvc import models

Source = models.Volume | models.Snapshot

#: ``driver_volume_type`` of the two ways that the service itself knows.
LOCAL = "local"
NBD_TLS = "nbd+tls"


@dataclass(frozen=True, slots=True)
class Reader:
    """One reader, or with ``is_read_only`` False one writer, of one volume or snapshot.

    ``id``: UUID of its operation.  ``connector``: what it says of itself; ``"local": False`` in it means
    that it can't use a path of this host, because it runs on another or couldn't open the path there.
    """

    id: str
    is_read_only: bool = True
    connector: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return bool(self.connector.get("local", True))

    @property
    def access_mode(self) -> str:
        return "ro" if self.is_read_only else "rw"


def kind_of(source: Source) -> str:
    """``volume`` or ``snapshot``, as names on the storage begin."""
    return "volume" if isinstance(source, models.Volume) else "snapshot"


def refuse_to_write_snapshots(source: Source, reader: Reader) -> None:
    """Raise ``InvalidSnapshot`` for a writer of a snapshot, which is a point in time."""
    if isinstance(source, models.Snapshot) and not reader.is_read_only:
        raise exc.InvalidSnapshot(reason=f"snapshot {source.id} can't be written; make a volume of it and write that")


def local_connection(path: str, reader: Reader) -> dict[str, Any]:
    """The connection_info of a raw file or block device at ``path`` of this host.

    The reader compares ``device`` and ``inode`` with what it has opened: on another host there may be
    another file, or none.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise exc.DriverError(reason=f"can't look at {path}: {exc.describe(error)}") from error
    return {
        "driver_volume_type": LOCAL,
        "data": {
            "device_path": path,
            "device": found.st_dev,
            "inode": found.st_ino,
            "format": "raw",
            "access_mode": reader.access_mode,
        },
    }
