"""The table of resets: what an admin may set a status to, whom that asks, and what it makes of the rest.

Each target may be come to from every status, because whoever resets is stuck somewhere.  What keeps a
reset from lying is its target's row: before a record says that a volume is free or in use, the
storage is asked to make it so.  Every other target is the admin's own word about the record.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from volsvc import exceptions as exc
from volsvc.states import (
    ATTACHMENT_DERIVED,
    AttachStatus,
    BackupStatus,
    SnapshotStatus,
    VolumeStatus,
    compute_attach_status,
    compute_volume_status,
)


class Ask(enum.StrEnum):
    """What the driver is asked to do first."""

    NOTHING = "nothing"
    SEVER = "sever every connection"
    CONNECT = "connect every attachment again"
    LOOK = "say whether it is there"


class Fate(enum.StrEnum):
    """What becomes of the volume's attachments."""

    KEPT = "kept as they are"
    DELETED = "deleted"
    ATTACHED = "attached, with what the driver answered"


class Force(enum.StrEnum):
    IGNORE = "ignore"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Target:
    """One row: what a reset to some status asks and does."""

    asks: Ask = Ask.NOTHING
    attachments: Fate = Fate.KEPT


_RECORD = Target()
_FREE = Target(Ask.SEVER, Fate.DELETED)
_USED = Target(Ask.CONNECT, Fate.ATTACHED)

VOLUME_TARGETS: dict[str, Target] = {
    VolumeStatus.AVAILABLE: _FREE,
    VolumeStatus.IN_USE: _USED,
    VolumeStatus.ERROR: _RECORD,
    VolumeStatus.CREATING: _RECORD,
    VolumeStatus.DELETING: _RECORD,
    VolumeStatus.ERROR_DELETING: _RECORD,
    VolumeStatus.ATTACHING: _RECORD,
    VolumeStatus.DETACHING: _RECORD,
    VolumeStatus.RESERVED: _RECORD,
    VolumeStatus.MAINTENANCE: _RECORD,
}

ATTACH_TARGETS: dict[str, Target] = {AttachStatus.DETACHED: _FREE, AttachStatus.ATTACHED: _USED}

SNAPSHOT_TARGETS: dict[str, Target] = {
    SnapshotStatus.AVAILABLE: Target(Ask.LOOK),
    SnapshotStatus.ERROR: _RECORD,
    SnapshotStatus.CREATING: _RECORD,
    SnapshotStatus.DELETING: _RECORD,
    SnapshotStatus.ERROR_DELETING: _RECORD,
}

BACKUP_TARGETS: dict[str, Target] = {BackupStatus.AVAILABLE: Target(Ask.LOOK), BackupStatus.ERROR: _RECORD}

#: What an inspection says of a driver that has no method for it; a reset goes on then.
CAN_NOT_SAY = "the driver can't say what its storage holds"

NO_MIGRATION = "none"
MIGRATION_STATUSES = ("migrating", "error", "success", "completing", NO_MIGRATION, "starting")

#: These say something about attachments themselves, so that an attach_status beside them must agree.
_SAYS_ATTACHMENTS: dict[str, frozenset[str]] = {
    VolumeStatus.AVAILABLE: frozenset({AttachStatus.DETACHED}),
    VolumeStatus.IN_USE: frozenset({AttachStatus.ATTACHED}),
    VolumeStatus.ATTACHING: frozenset(),
    VolumeStatus.DETACHING: frozenset(),
    VolumeStatus.RESERVED: frozenset(),
}

#: Statuses that say "something goes on": without an operation that does it they are stuck.
GOING_ON = frozenset(
    {
        VolumeStatus.CREATING,
        VolumeStatus.DELETING,
        VolumeStatus.EXTENDING,
        VolumeStatus.MANAGING,
        VolumeStatus.RETYPING,
        VolumeStatus.DOWNLOADING,
        VolumeStatus.UPLOADING,
        VolumeStatus.BACKING_UP,
        VolumeStatus.RESTORING_BACKUP,
    }
)
SNAPSHOT_GOING_ON = frozenset(
    {
        SnapshotStatus.CREATING,
        SnapshotStatus.DELETING,
        SnapshotStatus.UPDATING,
        SnapshotStatus.UNMANAGING,
        SnapshotStatus.BACKING_UP,
        SnapshotStatus.RESTORING,
    }
)
BACKUP_GOING_ON = frozenset({BackupStatus.CREATING, BackupStatus.DELETING, BackupStatus.RESTORING})


@dataclass(frozen=True, slots=True)
class Plan:
    """What one request asks for, read off the table."""

    status: str | None
    attach_status: str | None
    migration_status: str | None
    asks: Ask
    attachments: Fate
    force: Force | None = None

    @property
    def needs_daemon(self) -> bool:
        return self.asks is not Ask.NOTHING and self.force is not Force.SKIP

    @property
    def needs_attachments(self) -> bool:
        return self.attachments is Fate.ATTACHED

    def arguments(self) -> dict[str, Any]:
        """As an operation keeps it; ``plan_of`` reads it."""
        return {
            "status": self.status,
            "attach_status": self.attach_status,
            "migration_status": self.migration_status,
            "force": None if self.force is None else str(self.force),
        }


def plan_volume(
    status: str | None,
    attach_status: str | None = None,
    migration_status: str | None = None,
    force: str | None = None,
) -> Plan:
    """Raises ``InvalidInput`` for a word that isn't in the table, for nothing at all, and for a contradiction."""
    if status is None and attach_status is None and migration_status is None:
        raise exc.InvalidInput(reason="a reset must name at least one of: status, attach_status, migration_status")
    _require_known("status", status, VOLUME_TARGETS)
    _require_known("attach_status", attach_status, ATTACH_TARGETS)
    _require_known("migration_status", migration_status, MIGRATION_STATUSES)
    by_status = VOLUME_TARGETS[status] if status is not None else _RECORD
    target = by_status
    if attach_status is not None:
        if status is not None and attach_status not in _SAYS_ATTACHMENTS.get(status, ATTACH_TARGETS):
            raise exc.InvalidInput(
                reason=f"status {status!r} and attach_status {attach_status!r} contradict each other; give one of them"
            )
        target = ATTACH_TARGETS[attach_status]
    return Plan(status, attach_status, migration_status, target.asks, target.attachments, _force(force))


def plan_snapshot(status: str | None, force: str | None = None) -> Plan:
    """Raises ``InvalidInput``."""
    return _plan_by_status("snapshot", SNAPSHOT_TARGETS, status, force)


def plan_backup(status: str | None, force: str | None = None) -> Plan:
    """Raises ``InvalidInput``."""
    return _plan_by_status("backup", BACKUP_TARGETS, status, force)


def _plan_by_status(kind: str, targets: Mapping[str, Target], status: str | None, force: str | None) -> Plan:
    if status is None:
        raise exc.InvalidInput(reason=f"a reset of a {kind} must name its status")
    _require_known("status", status, targets)
    target = targets[status]
    return Plan(status, None, None, target.asks, target.attachments, _force(force))


def plan_of(resource_type: str, arguments: Mapping[str, Any]) -> Plan:
    """The plan that an operation's arguments keep."""
    if resource_type == "snapshot":
        return plan_snapshot(arguments["status"], arguments["force"])
    if resource_type == "backup":
        return plan_backup(arguments["status"], arguments["force"])
    return plan_volume(
        arguments["status"], arguments["attach_status"], arguments["migration_status"], arguments["force"]
    )


def _require_known(name: str, value: str | None, known: Iterable[str]) -> None:
    if value is not None and value not in set(known):
        raise exc.InvalidInput(reason=f"{name} {value[:40]!r} can't be reset to; known are: {', '.join(known)}")


def _force(value: str | None) -> Force | None:
    _require_known("force", value, list(Force))
    return None if value is None else Force(value)


def final_statuses(
    asked_status: str | None, asked_attach_status: str | None, status: str, attach_statuses: Sequence[str]
) -> tuple[str, str]:
    """A volume's (status, attach_status) after a reset, when it has ``status`` and will have such attachments.

    Without a word about its status it follows from the attachments, if it is one that they decide.
    """
    final = asked_status
    if final is None:
        final = compute_volume_status(attach_statuses) if status in ATTACHMENT_DERIVED else status
    return str(final), str(asked_attach_status or compute_attach_status(attach_statuses))
