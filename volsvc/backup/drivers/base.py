"""The interface of a backup driver: a store of named objects that are whole or not there.

A driver is handed frozen options and never sees the database, RPC or oslo.config.  It knows
nothing of backups, only objects: the engine decides what they mean and in which order they
appear.  Every method may be called from several threads, and again after it was cut anywhere.

Which error to raise: ``BackendUnavailable`` when the store can't be reached or is not the one
it was (refused credentials too: they are as often mended at the store as in our file),
``StorageFull`` without room, ``BackupObjectMissing`` for an object that isn't there,
``BackupObjectExists`` from ``put_if_absent``; what only a change of the configuration mends is a
child of ``UnrecoverableDriverError``.  No call takes longer than a limit that is an option.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc.options import Options

MARKER_NAME = "volsvc-store.json"
MARKER_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_MAX_DEPTH = 6

Data = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class BackupDriverContext:
    """All a backup driver is built from.

    ``name`` is what ``backup_driver`` calls it; ``options`` holds the driver's declared options;
    ``state_path`` is the service's private directory, below which a driver may have its default place.
    """

    host: str
    options: Options
    state_path: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    name: str
    size_bytes: int


class BackupDriver:
    """Base of all backup drivers."""

    #: False makes the initialiser refuse it without ``enable_unsupported_driver``.
    supported: ClassVar[bool] = True
    #: True when two instances can't exist at a time on one store (a reload drains first).
    exclusive: ClassVar[bool] = False
    #: Objects that are best written at a time: 1 where one stream fills the disk, more over a network.
    parallel_puts: int = 1

    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        """The options this driver reads."""
        return ()

    def __init__(self, context: BackupDriverContext) -> None:
        self.context = context
        self.options = context.options
        self._identity: str | None = None

    # -- initialisation, in this order ------------------------------------------------

    def do_setup(self) -> None:
        """Connect; load libraries.  Creates no object."""

    def check(self) -> None:
        """Raise when the store can't be used now: unreachable, read-only, credentials refused.

        Called at start, and at any time to learn whether the store is still there.
        """
        raise NotImplementedError

    def read_identity(self) -> str | None:
        """The UUID in the store's marker, which from now on must not change; None without a marker.

        Raises ``BackendUnavailable`` when the store or its marker can't be read.
        """
        self._identity = self.find_identity()
        return self._identity

    @property
    def identity(self) -> str | None:
        """The UUID of the store that this driver was set up for; None before ``read_identity``."""
        return self._identity

    def write_identity(self, identity: str) -> None:
        """Write the marker; only ever called when ``read_identity`` gave None.

        Repeating it with the same identity succeeds.  Raises ``BackendUnavailable`` when
        somebody else marked the store meanwhile.
        """
        marker = {
            "format": MARKER_FORMAT,
            "uuid": str(uuid.UUID(identity)),
            "created_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        }
        try:
            self.put_if_absent(MARKER_NAME, json.dumps(marker).encode())
        except exc.BackupObjectExists:
            pass
        found = self.find_identity()
        if found != marker["uuid"]:
            raise exc.BackendUnavailable(reason=f"{self} was marked as store {found} while it was being set up")
        self._identity = found

    def find_identity(self) -> str | None:
        """The UUID in the marker as it is now, None without one."""
        try:
            text = self.get(MARKER_NAME)
        except exc.BackupObjectMissing:
            return None
        return parse_marker(text, str(self))

    def check_identity(self) -> None:
        """Raise ``BackendUnavailable`` when the marker isn't the one that ``read_identity`` saw."""
        require_identity(self.find_identity(), self._identity, str(self))

    # -- objects -----------------------------------------------------------------------------

    def put(self, name: str, data: Data) -> None:
        """Store an object durably, whole or not at all, replacing one of that name."""
        raise NotImplementedError

    def put_if_absent(self, name: str, data: Data) -> None:
        """Store an object durably if there is none of that name, in one step for all clients.

        Raises ``BackupObjectExists``, also where an earlier try of the same call stored it.
        """
        raise NotImplementedError

    def get(self, name: str) -> bytes:
        """A whole object.  Raises ``BackupObjectMissing``."""
        raise NotImplementedError

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """``length`` bytes of an object from ``offset``; fewer when it ends before.

        Raises ``BackupObjectMissing``; an ``offset`` at or behind the end gives no bytes.
        """
        raise NotImplementedError

    def list(self, prefix: str) -> Iterator[Sequence[ObjectInfo]]:
        """Pages of the objects whose names begin with ``prefix``, in any order.

        ``prefix`` is empty or ends with a slash.  What is stored or deleted meanwhile may be
        missing or not; everything else is there once.
        """
        raise NotImplementedError

    def delete(self, name: str) -> None:
        """Delete an object durably; deleting what is gone succeeds."""
        raise NotImplementedError

    def delete_many(self, names: Sequence[str]) -> None:
        """``delete`` for each of ``names``, in any order; drivers do better than one by one."""
        for name in names:
            self.delete(name)

    def free_bytes(self) -> int | None:
        """Room on the store; None when it can't tell."""
        return None

    # -- housekeeping ---------------------------------------------------------------------------

    def remove_leftovers(self) -> Sequence[str]:
        """Delete temporary files of puts that were cut; returns their names.  Called before work begins."""
        return ()

    def close(self) -> None:
        """Drop connections and caches; called once, after the last call."""

    def __str__(self) -> str:
        """What messages call this store; no secrets."""
        return type(self).__name__


def check_name(name: str) -> str:
    """``name`` if it may name an object: words of letters, digits and ``._-``, joined by slashes.

    Raises ``InvalidInput`` otherwise, so that no name leaves a directory or hides in one.
    """
    parts = name.split("/")
    if len(parts) > _MAX_DEPTH or not all(_NAME.fullmatch(part) for part in parts):
        raise exc.InvalidInput(reason=f"{name!r} can't name an object of a backup store")
    return name


def check_prefix(prefix: str) -> str:
    """``prefix`` if it may be listed.  Raises ``InvalidInput`` otherwise."""
    if prefix:
        if not prefix.endswith("/"):
            raise exc.InvalidInput(reason=f"{prefix!r} can't be listed: a prefix ends with a slash")
        check_name(prefix[:-1])
    return prefix


def parse_marker(text: bytes, store: str) -> str:
    """The UUID in a marker.

    Raises ``BackendUnavailable`` for one that can't be understood, and for a store that is laid out otherwise:
    there even what this program deletes might be another backup's.
    """
    try:
        marker = json.loads(text)
        identity, layout = str(uuid.UUID(marker["uuid"])), marker["format"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise exc.BackendUnavailable(
            reason=f"the marker {MARKER_NAME} of {store} is damaged; restore it from a copy of the store"
        ) from None
    if layout != MARKER_FORMAT:
        raise exc.BackendUnavailable(
            reason=f"{store} has the format {layout}, this program knows {MARKER_FORMAT}; upgrade it"
        )
    return identity


def require_identity(found: str | None, expected: str | None, store: str) -> None:
    """Raise ``BackendUnavailable`` unless the store is the expected one."""
    if found is None or found != expected:
        what = f"the marker of store {found}" if found else f"no marker {MARKER_NAME}"
        raise exc.BackendUnavailable(
            reason=f"{store} has {what}, expected {expected}; nothing was touched. Is the right store mounted or "
            "configured?"
        )
