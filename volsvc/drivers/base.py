"""The interface of a volume driver, and what every driver may rely on.

A driver is handed frozen options, records and a target.  It never sees the database, RPC or
oslo.config.  Each method may be called again after it was cut anywhere (the process killed
between two of its lines): it then completes or redoes the work, and deleting what is gone
succeeds.  What it copies is written under a temporary name, synced and renamed.

Which error to raise: anything that may pass is any exception (``BackendUnavailable`` when the
storage can't be reached, ``StorageFull`` without room); what no retry mends is a child of
``UnrecoverableDriverError``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers.readers import Reader, Source, local_connection, refuse_to_write_snapshots
from volsvc.options import Options


class Work(Protocol):
    """What a long method is given to report by and to be stopped by."""

    def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
        """Report progress; call it at least every second of work.

        Raises ``OperationCancelled``, ``OperationInterrupted`` or ``OperationSuperseded``: let
        it pass.  On the first two, remove temporary files on the way; on ``OperationSuperseded``
        touch nothing.
        """


class NoWork:
    """A ``Work`` that is never stopped, for short calls and for tests."""

    def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
        return None


class Target(Protocol):
    """How clients reach a volume; see ``targets/base.py`` for the real interface."""

    def is_exporting(self, volume: models.Volume) -> bool: ...

    def copy_point_in_time(self, volume: models.Volume, destination: str, work: Work) -> None: ...

    def resize(self, volume: models.Volume, new_size_bytes: int) -> None: ...


@dataclass(frozen=True, slots=True)
class DriverContext:
    """All a driver is built from.

    ``backend`` is the group's name in ``enabled_backends``; ``host`` is ``host@backend``;
    ``options`` holds the driver's declared options; ``state_path`` is the service's private
    directory; ``runtime_path`` a short private directory for sockets.
    """

    backend: str
    host: str
    options: Options
    state_path: str
    runtime_path: str
    target: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class VolumeDriver:
    """Base of all volume drivers; every method that a driver must write raises here."""

    #: False makes the initialiser refuse it without ``enable_unsupported_driver``.
    supported: ClassVar[bool] = True
    #: True when two instances can't exist at a time on one storage (a reload drains first).
    exclusive: ClassVar[bool] = False
    #: What this driver can do beyond the required; refused by name when absent.
    #: Known: "clone", "snapshot_attached", "extend_attached", "multiattach", "reflink", "remote_blocks".
    abilities: frozenset[str] = frozenset()

    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        """The options this driver reads from its backend's group."""
        return ()

    def __init__(self, context: DriverContext) -> None:
        self.context = context
        self.options = context.options
        self.target = context.target

    # -- initialisation, in this order --------------------------------------------

    def do_setup(self) -> None:
        """Connect, look at what is there.  Creates nothing that a user would see."""

    def check_for_setup_error(self) -> None:
        """Raise when the storage can't serve: unreachable, read-only, a tool is missing."""
        raise NotImplementedError

    def read_identity(self) -> str | None:
        """The UUID in the marker on the storage, None without a marker.

        Raises ``BackendUnavailable`` when the storage isn't there to be read.
        """
        raise NotImplementedError

    def write_identity(self, identity: str) -> None:
        """Write the marker, durably; only ever called when ``read_identity`` gave None."""
        raise NotImplementedError

    def get_volume_stats(self) -> models.BackendStats:
        """Capacity and abilities now.  Raises ``BackendUnavailable``."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop connections, threads, caches.  Exporters go on; called once, after the last operation."""

    # -- volumes and snapshots ------------------------------------------------------
    # Those that return a mapping return the record's new ``provider`` notes, or None to leave them.

    def create_volume(self, volume: models.Volume) -> Mapping[str, Any] | None:
        raise NotImplementedError

    def create_volume_from_snapshot(
        self, volume: models.Volume, snapshot: models.Snapshot, work: Work
    ) -> Mapping[str, Any] | None:
        """The volume may be larger than the snapshot; the rest reads as zeros."""
        raise NotImplementedError

    def create_cloned_volume(
        self, volume: models.Volume, source: models.Volume, work: Work
    ) -> Mapping[str, Any] | None:
        """A point in time of ``source``, which may be attached and written to."""
        raise NotImplementedError

    def delete_volume(self, volume: models.Volume) -> None:
        raise NotImplementedError

    def extend_volume(self, volume: models.Volume, new_size_gb: int) -> None:
        """Grow; an attached volume grows under its clients, or they reconnect, as the target declares."""
        raise NotImplementedError

    def create_snapshot(self, snapshot: models.Snapshot, volume: models.Volume, work: Work) -> Mapping[str, Any] | None:
        """A point in time of ``volume``, which may be attached and written to."""
        raise NotImplementedError

    def delete_snapshot(self, snapshot: models.Snapshot) -> None:
        raise NotImplementedError

    # -- connections -------------------------------------------------------------------

    def initialize_connection(self, volume: models.Volume, attachment: models.Attachment) -> Mapping[str, Any]:
        """Make the volume reachable for ``attachment.connector``.

        Returns ``{"driver_volume_type": str, "data": {...}}``.  Calling it again for the same
        attachment gives the same answer and cuts nobody.
        """
        raise NotImplementedError

    def terminate_connection(self, volume: models.Volume, attachment: models.Attachment) -> None:
        """Undo ``initialize_connection``; the client's next I/O fails.  Undoing twice succeeds."""
        raise NotImplementedError

    def detach_volume(self, volume: models.Volume, attachment: models.Attachment) -> None:
        """Sever a connection whatever its client thinks of it; used by reset.

        When it returns, the client's next request fails and nobody can connect so again.  Raise when
        that isn't certain; a driver that can't do it at all leaves ``NotImplementedError``.
        """
        raise NotImplementedError

    def inspect_volume(self, volume: models.Volume) -> models.StorageView:
        """What the storage says of a volume now; changes nothing.

        A driver that can't say leaves ``NotImplementedError``; anything else that is raised means
        that the storage can't be asked.
        """
        raise NotImplementedError

    def inspect_snapshot(self, snapshot: models.Snapshot) -> models.StorageView:
        """The same of a snapshot."""
        raise NotImplementedError

    def ensure_export(self, volume: models.Volume, attachments: Sequence[models.Attachment]) -> None:
        """After a restart: adopt the exporter of an attached volume, or start it again.

        Exactly these attachments are served then; without any the export ends.
        """
        raise NotImplementedError

    def remove_stale_exports(self, attached_volume_ids: frozenset[str]) -> list[str]:
        """End this backend's exporters of volumes that no record says are attached; returns their ids."""
        return []

    def list_exported(self) -> frozenset[str]:
        """Ids of the volumes of this backend that have a living export."""
        return frozenset()

    # -- blocks, for backups ------------------------------------------------------------
    # A driver whose volumes and snapshots are raw files or block devices writes ``local_path`` only, and has its
    # target ``close_readers_of`` what it deletes; one that reaches them otherwise writes the three others.

    def local_path(self, source: Source) -> str | None:
        """Path of the raw file or block device of this host that holds a volume or a snapshot.

        None when there is no such thing.  Raises ``DriverError`` when it is not on the storage.
        May be repeated; changes nothing that its users would see.
        """
        return None

    def open_blocks(self, source: Source, reader: Reader) -> Mapping[str, Any]:
        """Make a volume without clients, or a snapshot, readable (or a volume writable) for ``reader``.

        Returns a connection_info: ``local`` with a path of this host (``readers.local_connection``) for a reader
        that is local, else a way over the network that nobody but this reader can use (``nbd+tls``).  Its
        ``data`` may hold secrets: only the reader sees it.  Again for the same reader: the same answer
        while what it speaks of is alive, and nobody is cut; for another source the old access ends.

        Raises ``AbilityMissing`` when there is no way for this reader, ``InvalidSnapshot`` for a writer of a
        snapshot, ``DriverError`` when the source is not on the storage.
        """
        refuse_to_write_snapshots(source, reader)
        path = self.local_path(source)
        if path is not None and reader.is_local:
            return local_connection(path, reader)
        if path is None or self.target is None or not self.target.can_open_remotely:
            raise exc.AbilityMissing(
                backend=self.context.backend,
                ability="give its blocks to this reader",
                reason="it has no path here for them, or the reader can't open that, and its target has no way over "
                "the network; run the backup service on its host and as its user, or set target_helper = nbd",
            )
        info: Mapping[str, Any] = self.target.open_remotely(path, reader)
        return info

    def close_blocks(self, reader_id: str) -> None:
        """End all that ``open_blocks`` did for this reader; a remote one's next I/O fails.  Repeatable."""
        if self.target is not None:
            self.target.close_reader(reader_id)

    def list_readers(self) -> frozenset[str]:
        """Ids of the readers for whom something of this backend is open, alive or not, and must be closed.

        Those that were given a local path only needn't be among them.
        """
        return frozenset() if self.target is None else frozenset(self.target.list_readers())

    # -- looking after the storage ---------------------------------------------------------

    def remove_leftovers(self) -> list[str]:
        """Delete temporary files that no running operation owns; called before operations resume."""
        return []

    def remove_abandoned(self) -> list[str]:
        """The same while operations run, now and then: a handler that was superseded has left its own where they were.

        A driver that can't tell them from those of living handlers deletes none.
        """
        return []

    def list_stored(self) -> frozenset[str]:
        """Names on the storage (``volume-UUID``, ``snapshot-UUID``) that belong to this service."""
        return frozenset()
