"""The one table of statuses: what may start from where, and where it leads.

Every change of a status in this service is a row here.  The API's validation, the gate
in the store, resume after a crash, the drawn diagram and the tests read this table;
nothing else decides a status.  The words are Cinder's (cinder/objects/fields.py).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Resource(enum.StrEnum):
    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    ATTACHMENT = "attachment"
    BACKUP = "backup"
    SERVICE = "service"


class VolumeStatus(enum.StrEnum):
    CREATING = "creating"
    AVAILABLE = "available"
    DELETING = "deleting"
    ERROR = "error"
    ERROR_DELETING = "error_deleting"
    ERROR_MANAGING = "error_managing"
    MANAGING = "managing"
    ATTACHING = "attaching"
    IN_USE = "in-use"
    DETACHING = "detaching"
    MAINTENANCE = "maintenance"
    RESTORING_BACKUP = "restoring-backup"
    ERROR_RESTORING = "error_restoring"
    RESERVED = "reserved"
    AWAITING_TRANSFER = "awaiting-transfer"
    BACKING_UP = "backing-up"
    ERROR_BACKING_UP = "error_backing-up"
    ERROR_EXTENDING = "error_extending"
    DOWNLOADING = "downloading"
    UPLOADING = "uploading"
    RETYPING = "retyping"
    EXTENDING = "extending"


class SnapshotStatus(enum.StrEnum):
    CREATING = "creating"
    AVAILABLE = "available"
    DELETING = "deleting"
    ERROR = "error"
    ERROR_DELETING = "error_deleting"
    UPDATING = "updating"
    UNMANAGING = "unmanaging"
    BACKING_UP = "backing-up"
    RESTORING = "restoring"
    DELETED = "deleted"


class AttachStatus(enum.StrEnum):
    RESERVED = "reserved"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    DETACHED = "detached"
    ERROR_ATTACHING = "error_attaching"
    ERROR_DETACHING = "error_detaching"
    DELETED = "deleted"


class BackupStatus(enum.StrEnum):
    CREATING = "creating"
    AVAILABLE = "available"
    DELETING = "deleting"
    DELETED = "deleted"
    RESTORING = "restoring"
    ERROR = "error"
    ERROR_DELETING = "error_deleting"


class OperationState(enum.StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN_STATES = frozenset({OperationState.QUEUED, OperationState.RUNNING})


class Becomes(enum.Enum):
    """A status that is not a word but a rule."""

    UNCHANGED = "unchanged"
    PREVIOUS = "back to what it was when the operation was recorded"
    COMPUTED = "computed from the attachments"
    GONE = "the row is deleted"


class Standing(enum.Enum):
    """How an operation stands to the other open ones of the resource it is about."""

    IN_LINE = "it waits for those before it, and those after it wait for it"
    AHEAD = "it waits only for others that stand ahead; everything else of the resource waits for it"
    ASIDE = "it waits for nobody and nobody waits for it"


class From(enum.Enum):
    """Where a row of the table may start when that is not a set of statuses."""

    NEW = "the row does not exist yet"
    ANY = "any status"


Status = str | Becomes
Sources = frozenset[str] | From


@dataclass(frozen=True, slots=True)
class Change:
    """What one operation does to the status of one resource.

    ``shared``: other operations that share this resource may run at the same time;
    one that doesn't share it waits for its turn.  ``is_held`` False: it owns the status, but nothing of
    the resource that was recorded later waits for it.
    """

    resource: Resource
    sources: Sources
    during: Status
    success: Status
    failure: Status
    shared: bool = False
    is_held: bool = True

    @property
    def owns_status(self) -> bool:
        """Whether the resource shows that this goes on."""
        return not isinstance(self.during, Becomes)

    def may_start_from(self, status: str) -> bool:
        return self.sources is From.ANY or (self.sources is not From.NEW and status in self.sources)


@dataclass(frozen=True, slots=True)
class Transition:
    """One row: an action, the resource it is about, and the second one it touches.

    ``waits``: the request that asks for it answers with its result.
    ``record_only``: the storage has nothing to do, so the store does it in one transaction
    and no daemon is needed.
    ``standing``: one that isn't in line owns no status: it is no heir to one, changes none when it is
    recorded or fails, and is claimed past the queue (``models.express_host``).
    ``expires`` False: nobody would ask for it again, so it waits for its daemon however long that takes.
    """

    action: str
    first: Change
    second: Change | None = None
    waits: bool = False
    record_only: bool = False
    standing: Standing = Standing.IN_LINE
    expires: bool = True


def _of(*statuses: str) -> frozenset[str]:
    return frozenset(str(s) for s in statuses)


V, S, A, B = VolumeStatus, SnapshotStatus, AttachStatus, BackupStatus

_SOURCE_VOLUME = Change(
    Resource.VOLUME, _of(V.AVAILABLE, V.IN_USE), Becomes.UNCHANGED, Becomes.UNCHANGED, Becomes.UNCHANGED, shared=True
)
_SOURCE_SNAPSHOT = Change(
    Resource.SNAPSHOT, _of(S.AVAILABLE), Becomes.UNCHANGED, Becomes.UNCHANGED, Becomes.UNCHANGED, shared=True
)
_PARENT_VOLUME = Change(Resource.VOLUME, From.ANY, Becomes.UNCHANGED, Becomes.UNCHANGED, Becomes.UNCHANGED, shared=True)
# What is asked of a daemon: its row has no status of this kind, the operation is all there is.
_SERVICE = Change(Resource.SERVICE, From.ANY, Becomes.UNCHANGED, Becomes.UNCHANGED, Becomes.UNCHANGED)
# A reset's statuses are not in this table but in the one of ``resets``.
_ANY_VOLUME = Change(Resource.VOLUME, From.ANY, Becomes.UNCHANGED, Becomes.UNCHANGED, Becomes.UNCHANGED)
_ANY_SNAPSHOT = Change(Resource.SNAPSHOT, From.ANY, Becomes.UNCHANGED, Becomes.UNCHANGED, Becomes.UNCHANGED)
_ANY_BACKUP = Change(Resource.BACKUP, From.ANY, Becomes.UNCHANGED, Becomes.UNCHANGED, Becomes.UNCHANGED)
_NEW_VOLUME = Change(Resource.VOLUME, From.NEW, V.CREATING, V.AVAILABLE, V.ERROR)
_ATTACHED_VOLUME = Change(Resource.VOLUME, From.ANY, Becomes.COMPUTED, Becomes.COMPUTED, Becomes.COMPUTED)
_NEW_BACKUP = Change(Resource.BACKUP, From.NEW, B.CREATING, B.AVAILABLE, B.ERROR)
_RESTORED_BACKUP = Change(Resource.BACKUP, _of(B.AVAILABLE), B.RESTORING, B.AVAILABLE, B.AVAILABLE)

_TABLE: tuple[Transition, ...] = (
    Transition("volume_create", _NEW_VOLUME),
    Transition("volume_create_from_snapshot", _NEW_VOLUME, _SOURCE_SNAPSHOT),
    Transition("volume_clone", _NEW_VOLUME, _SOURCE_VOLUME),
    Transition(
        "volume_delete",
        Change(
            Resource.VOLUME,
            _of(V.AVAILABLE, V.ERROR, V.ERROR_DELETING, V.ERROR_EXTENDING, V.ERROR_RESTORING, V.ERROR_MANAGING),
            V.DELETING,
            Becomes.GONE,
            V.ERROR_DELETING,
        ),
    ),
    Transition(
        "volume_force_delete",
        Change(Resource.VOLUME, From.ANY, V.DELETING, Becomes.GONE, V.ERROR_DELETING),
    ),
    Transition(
        "volume_extend",
        Change(Resource.VOLUME, _of(V.AVAILABLE), V.EXTENDING, V.AVAILABLE, V.ERROR_EXTENDING),
    ),
    Transition(
        "volume_extend_attached",
        Change(Resource.VOLUME, _of(V.IN_USE), V.EXTENDING, Becomes.PREVIOUS, Becomes.PREVIOUS),
    ),
    Transition(
        "snapshot_create",
        Change(Resource.SNAPSHOT, From.NEW, S.CREATING, S.AVAILABLE, S.ERROR),
        _SOURCE_VOLUME,
    ),
    Transition(
        "snapshot_delete",
        Change(
            Resource.SNAPSHOT,
            _of(S.AVAILABLE, S.ERROR, S.ERROR_DELETING),
            S.DELETING,
            Becomes.GONE,
            S.ERROR_DELETING,
        ),
        _PARENT_VOLUME,
    ),
    Transition(
        "snapshot_force_delete",
        Change(Resource.SNAPSHOT, From.ANY, S.DELETING, Becomes.GONE, S.ERROR_DELETING),
        _PARENT_VOLUME,
    ),
    Transition(
        "attachment_reserve",
        Change(Resource.ATTACHMENT, From.NEW, A.RESERVED, A.RESERVED, Becomes.GONE),
        Change(
            Resource.VOLUME,
            _of(V.AVAILABLE, V.IN_USE, V.RESERVED, V.ATTACHING),
            Becomes.COMPUTED,
            Becomes.COMPUTED,
            Becomes.COMPUTED,
        ),
        record_only=True,
    ),
    Transition(
        "attachment_create",
        Change(Resource.ATTACHMENT, From.NEW, A.ATTACHING, A.ATTACHING, Becomes.GONE),
        Change(
            Resource.VOLUME,
            _of(V.AVAILABLE, V.IN_USE, V.RESERVED, V.ATTACHING),
            Becomes.COMPUTED,
            Becomes.COMPUTED,
            Becomes.COMPUTED,
        ),
        waits=True,
    ),
    Transition(
        "attachment_connect",
        Change(
            Resource.ATTACHMENT,
            _of(A.RESERVED, A.ATTACHING, A.ERROR_ATTACHING),
            A.ATTACHING,
            A.ATTACHING,
            A.ERROR_ATTACHING,
        ),
        _ATTACHED_VOLUME,
        waits=True,
    ),
    Transition(
        "attachment_complete",
        Change(Resource.ATTACHMENT, _of(A.ATTACHING, A.ATTACHED), A.ATTACHED, A.ATTACHED, Becomes.PREVIOUS),
        _ATTACHED_VOLUME,
        record_only=True,
    ),
    Transition(
        "attachment_release",
        Change(Resource.ATTACHMENT, _of(A.RESERVED), Becomes.GONE, Becomes.GONE, Becomes.PREVIOUS),
        _ATTACHED_VOLUME,
        record_only=True,
    ),
    Transition(
        "attachment_disconnect",
        Change(
            Resource.ATTACHMENT,
            _of(A.ATTACHED, A.ATTACHING, A.DETACHING, A.ERROR_ATTACHING, A.ERROR_DETACHING),
            A.DETACHING,
            Becomes.GONE,
            A.ERROR_DETACHING,
        ),
        _ATTACHED_VOLUME,
        waits=True,
    ),
    # -- backups -----------------------------------------------------------------------------------
    # A long backup must not keep a client from detaching, so the volume isn't held; its temporary
    # snapshot is, by a status of its own.
    Transition(
        "backup_create",
        _NEW_BACKUP,
        Change(
            Resource.VOLUME,
            _of(V.AVAILABLE, V.IN_USE),
            V.BACKING_UP,
            Becomes.PREVIOUS,
            Becomes.PREVIOUS,
            shared=True,
            is_held=False,
        ),
    ),
    Transition(
        "backup_create_from_snapshot",
        _NEW_BACKUP,
        Change(Resource.SNAPSHOT, _of(S.AVAILABLE), S.BACKING_UP, Becomes.PREVIOUS, Becomes.PREVIOUS, shared=True),
    ),
    Transition("backup_import", _NEW_BACKUP),
    Transition(
        "backup_delete",
        Change(
            Resource.BACKUP, _of(B.AVAILABLE, B.ERROR, B.ERROR_DELETING), B.DELETING, Becomes.GONE, B.ERROR_DELETING
        ),
    ),
    Transition("backup_force_delete", Change(Resource.BACKUP, From.ANY, B.DELETING, Becomes.GONE, B.ERROR_DELETING)),
    # Of a backup that never reached its store (``Guards.never_stored``), so that no daemon is needed.
    Transition(
        "backup_forget",
        Change(Resource.BACKUP, _of(B.ERROR, B.ERROR_DELETING), Becomes.GONE, Becomes.GONE, Becomes.PREVIOUS),
        record_only=True,
    ),
    Transition(
        "backup_restore",
        _RESTORED_BACKUP,
        Change(Resource.VOLUME, _of(V.AVAILABLE), V.RESTORING_BACKUP, V.AVAILABLE, V.ERROR_RESTORING),
    ),
    # These two are recorded together: the volume is the restore's from its first moment on.
    Transition(
        "volume_create_to_restore",
        Change(Resource.VOLUME, From.NEW, V.RESTORING_BACKUP, V.RESTORING_BACKUP, V.ERROR),
    ),
    Transition(
        "backup_restore_to_new",
        _RESTORED_BACKUP,
        Change(Resource.VOLUME, _of(V.RESTORING_BACKUP), V.RESTORING_BACKUP, V.AVAILABLE, V.ERROR_RESTORING),
    ),
    # What a backup reads while the volume is written to.
    Transition(
        "backup_snapshot_create",
        Change(Resource.SNAPSHOT, From.NEW, S.CREATING, S.BACKING_UP, S.ERROR),
        Change(
            Resource.VOLUME,
            _of(V.AVAILABLE, V.IN_USE, V.BACKING_UP),
            Becomes.UNCHANGED,
            Becomes.UNCHANGED,
            Becomes.UNCHANGED,
            shared=True,
        ),
    ),
    Transition(
        "backup_snapshot_delete",
        Change(Resource.SNAPSHOT, From.ANY, S.DELETING, Becomes.GONE, S.ERROR_DELETING),
        _PARENT_VOLUME,
        expires=False,
    ),
    # How a backup daemon reaches a volume's blocks; asked for by an operation that owns the status already.
    Transition("volume_connect", _ANY_VOLUME, waits=True, standing=Standing.ASIDE),
    Transition("volume_disconnect", _ANY_VOLUME, waits=True, standing=Standing.ASIDE),
    Transition("snapshot_connect", _ANY_SNAPSHOT, waits=True, standing=Standing.ASIDE),
    Transition("snapshot_disconnect", _ANY_SNAPSHOT, waits=True, standing=Standing.ASIDE),
    Transition("backup_reset", _ANY_BACKUP, waits=True, standing=Standing.AHEAD),
    Transition("volume_reset", _ANY_VOLUME, waits=True, standing=Standing.AHEAD),
    Transition("snapshot_reset", _ANY_SNAPSHOT, waits=True, standing=Standing.AHEAD),
    Transition("volume_inspect", _ANY_VOLUME, waits=True, standing=Standing.ASIDE),
    Transition("service_reinit", _SERVICE, waits=True),
    Transition("service_reload", _SERVICE, waits=True),
    Transition("service_describe", _SERVICE, waits=True),
)

TRANSITIONS: dict[str, Transition] = {row.action: row for row in _TABLE}
AHEAD = frozenset(row.action for row in _TABLE if row.standing is Standing.AHEAD)
ASIDE = frozenset(row.action for row in _TABLE if row.standing is Standing.ASIDE)
#: Actions whose end another daemon may wait for, because they are about what is another's too.
SHOWN_TO_OTHERS = frozenset(
    row.action for row in _TABLE if row.second is not None and row.second.owns_status
) | frozenset({"volume_create_to_restore"})
#: Actions whose second resource nobody waits for.
UNHELD = frozenset(row.action for row in _TABLE if row.second is not None and not row.second.is_held)

# A volume's status while attachments decide it, by the attachment that weighs most.
# An attachment in error_detaching may still be connected, so the volume counts as in use.
_ATTACHMENT_WEIGHT: tuple[tuple[frozenset[str], VolumeStatus], ...] = (
    (_of(A.ATTACHED, A.ERROR_DETACHING), V.IN_USE),
    (_of(A.DETACHING), V.DETACHING),
    (_of(A.ATTACHING), V.ATTACHING),
    (_of(A.RESERVED, A.ERROR_ATTACHING), V.RESERVED),
)

# The statuses that attachments decide.  Any other (extending, error, ...) is somebody else's word
# and is not overwritten by what happens to an attachment meanwhile.
ATTACHMENT_DERIVED = frozenset({str(VolumeStatus.AVAILABLE)} | {str(status) for _, status in _ATTACHMENT_WEIGHT})


def compute_volume_status(attach_statuses: Iterable[str]) -> VolumeStatus:
    """The status that a volume's attachments give it; ``available`` without any."""
    statuses = frozenset(attach_statuses)
    for group, status in _ATTACHMENT_WEIGHT:
        if statuses & group:
            return status
    return VolumeStatus.AVAILABLE


def compute_attach_status(attach_statuses: Iterable[str]) -> AttachStatus:
    """A volume's ``attach_status``: ``attached`` while any attachment is or may be connected."""
    statuses = frozenset(attach_statuses)
    for status in (A.ATTACHED, A.ERROR_DETACHING, A.DETACHING, A.ATTACHING, A.RESERVED):
        if status in statuses:
            return A.ATTACHED if status in (A.ERROR_DETACHING,) else status
    return AttachStatus.DETACHED
