"""Every error this service raises on purpose, in one tree.

Each class says what happened, to what, and what to do now; carries the HTTP code
that the API answers with; and says by its type whether trying again can help.
Nothing of ours is imported here, so that every layer may raise these.
"""

from __future__ import annotations

import re
from typing import Any

_USER_AND_PASSWORD = re.compile(r"(://[^/@\s:]*):[^/@\s]+@")


class VolsvcError(Exception):
    """Base of the tree.

    ``template`` is filled from keyword arguments; a ready message may be given
    instead.  Both are kept in ``args`` and ``kwargs`` so that the error can be
    rebuilt from a message on the wire or from an operation's record.
    """

    template = "An unexpected error happened: {reason}"
    code = 500
    is_recoverable = True

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        if message is None:
            try:
                message = self.template.format(**kwargs)
            except (KeyError, IndexError):
                message = self.template
        super().__init__(message)
        self.message = message
        self.kwargs: dict[str, Any] = {}

    def __str__(self) -> str:
        return self.message


# -- what the caller did ----------------------------------------------------


class InvalidInput(VolsvcError):
    template = "Invalid input received: {reason}"
    code = 400


class InvalidVolume(InvalidInput):
    template = "Invalid volume: {reason}"


class InvalidSnapshot(InvalidInput):
    template = "Invalid snapshot: {reason}"


class InvalidBackup(InvalidInput):
    template = "Invalid backup: {reason}"


class InvalidAttachment(InvalidInput):
    template = "Invalid attachment: {reason}"


class InvalidVolumeType(InvalidInput):
    template = "Invalid volume type: {reason}"


class Unauthorized(VolsvcError):
    template = "Authentication is required: {reason}"
    code = 401


class PolicyNotAuthorized(VolsvcError):
    template = "Policy doesn't allow {action} to be performed."
    code = 403


class NotFound(VolsvcError):
    template = "{resource} {id} could not be found."
    code = 404


class VolumeNotFound(NotFound):
    template = "Volume {id} could not be found."


class SnapshotNotFound(NotFound):
    template = "Snapshot {id} could not be found."


class AttachmentNotFound(NotFound):
    template = "Volume attachment could not be found with filter: attachment_id = {id}."


class VolumeTypeNotFound(NotFound):
    template = "Volume type {id} could not be found."


class ServiceNotFound(NotFound):
    template = "Service {id} could not be found; 'volsvc-manage service list' shows those that exist."


class OperationNotFound(NotFound):
    template = "Operation {id} could not be found; finished ones are kept for operation_retention_days."


class MetadataNotFound(NotFound):
    template = "Metadata has no key {id}."


class BackupNotFound(NotFound):
    template = "Backup {id} could not be found."


class BackupObjectMissing(NotFound):
    template = "{store} has no object {id}."


class Conflict(VolsvcError):
    template = "Conflict: {reason}"
    code = 409


class VolumeTypeExists(Conflict):
    template = "Volume type {name} already exists; choose another name."


class VolumeTypeInUse(InvalidVolumeType):
    template = "Volume type {id} is used by volumes and can't be deleted; delete or retype them first."


class StatusConflict(VolsvcError):
    """A compare-and-set found another status than those the action may start from."""

    template = "{resource} {id} is {status!r}; {action} needs it to be one of: {allowed}. {remedy}."
    code = 400

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        self.status: str = kwargs.get("status", "")
        super().__init__(message, remedy=_remedy_for(self.status), **kwargs)


def _remedy_for(status: str) -> str:
    """What whoever meets a resource in this status can do about it."""
    if status == "attaching":
        return "Complete its attachment, or delete it, first"
    if status in ("in-use", "reserved", "attached"):
        return "Delete its attachment first"
    if status.startswith("error"):
        return "Its last operation says why it is so ('volsvc operation list'); mend that or delete it"
    if status.endswith("ing") or status in ("backing-up", "restoring-backup"):
        return "Try again when that is over ('volsvc operation list' shows how far it is)"
    return "Bring it there first"


class CapacityExceeded(VolsvcError):
    template = "{reason}"
    code = 413


class BadMicroversion(VolsvcError):
    template = "Version {version} is not supported by the API. Minimum is {minimum} and maximum is {maximum}."
    code = 406


# -- the storage and its drivers ---------------------------------------------


class DriverError(VolsvcError):
    """Something went wrong in a driver or a target; a later attempt may succeed."""

    template = "The storage driver failed: {reason}"


class BackendUnavailable(DriverError):
    """The storage can't be reached, or is not the storage it was.

    Raised from an operation it takes the backend down; the operation goes back to the
    queue and runs again when the backend is ready.
    """

    template = "The backend is unavailable: {reason}"
    code = 503
    is_of_current_driver = True  # False when a driver raised it that a reload had replaced


class StorageFull(DriverError):
    """No room on the storage; nothing partial is left behind."""

    template = "The storage is full: {reason}. Free some room, then ask again."


class UnrecoverableDriverError(VolsvcError):
    """Base of what no retry can mend: somebody must change a file or install something.

    The initialiser never retries one by itself; SIGHUP, ``reinit`` or a restart do.
    """

    template = "The driver can't be initialised: {reason}"
    is_recoverable = False


class DriverConfigurationError(UnrecoverableDriverError):
    template = "The driver's configuration is wrong: {reason}"


class DriverNotSupported(UnrecoverableDriverError):
    template = "The driver {driver} is not supported: {reason}"


class MissingDriverLibrary(UnrecoverableDriverError):
    template = "{library} is missing: {remedy}, then reload"


class AbilityMissing(VolsvcError):
    """The driver says that it can't do this at all."""

    template = "The backend {backend} can't {ability}: {reason}"
    code = 400


_WAYS_ON = (
    'Two ways on: "force": "ignore" asks the driver and goes on whatever it says, "force": "skip" writes the record '
    "without asking."
)


class ResetFailed(VolsvcError):
    """The storage was not brought to what the reset asked for; the record was left as it was."""

    template = "{resource} {id} was not reset and its record is as it was: {reason}. " + _WAYS_ON


class DetachNotSupported(VolsvcError):
    template = (
        "{resource} {id} was not reset and its record is as it was: the driver of {backend} can't {ability}. "
        + _WAYS_ON
    )
    code = 501


# -- backups -------------------------------------------------------------------


class BackupObjectExists(Conflict):
    template = "{store} already has an object {id}; it was not replaced"


class VolumeAccessError(DriverError):
    """A volume's blocks can't be read or written: its backend's trouble, not the backup store's."""

    template = "The volume's data can't be reached: {reason}"


class NotThisHost(VolumeAccessError):
    """A local path doesn't lead to the volume here; ask for its blocks over the network."""

    template = "The volume's data is not at {path} of this host: {reason}"


class BackupDamaged(VolsvcError):
    """What the store gave back is not what was stored: truncated, changed, or of another backup."""

    template = "{what} is damaged: {reason}"


class BackupNotReadable(VolsvcError):
    """The backup may be whole, but this program can't read it: a newer format, or another key."""

    template = "{what} can't be read by this program: {reason}"


# -- operations ----------------------------------------------------------------


class NoBackendReady(VolsvcError):
    template = "No backend can take this request: {reason}"
    code = 503


class ServiceDown(VolsvcError):
    """The daemon that has to do the work is not there or not ready."""

    template = "The service {host} is down: {reason}"
    code = 503


class BackendBusy(VolsvcError):
    """So many requests wait for backends that another would take a thread that others need."""

    template = "{waiting} requests wait for {what} already; try again when they are answered"
    code = 503


class OperationTimeout(VolsvcError):
    template = "Operation {id} did not end in time: {reason}"
    code = 504


class OperationFailed(VolsvcError):
    """Carries the recorded error of an operation whose own class is not known here."""

    template = "Operation {id} failed: {reason}"


class OperationSuperseded(VolsvcError):
    """This handler's claim is no longer the current one: stop, touch nothing, undo nothing."""

    template = "Operation {id} was claimed again; this handler stops and touches nothing"


class OperationCancelled(VolsvcError):
    """The operation was asked to cancel and its handler has stopped."""

    template = "Operation {id} was cancelled on request"
    code = 409


class OperationInterrupted(VolsvcError):
    """The daemon is stopping: the operation goes back to the queue."""

    template = "Operation {id} was interrupted because the daemon stops; it runs again at the next start"


class TooManyAttempts(VolsvcError):
    template = (
        "Operation {id} was started {attempts} times and each time the daemon ended before it did; "
        "it is not tried again. The daemon's log of those times says why"
    )


# -- the service itself ----------------------------------------------------------


class ConfigurationError(VolsvcError):
    """A configuration file that can't be used: names the file, the option and the value."""

    template = "{reason}"
    is_recoverable = False


class SchemaMismatch(VolsvcError):
    template = "The database at {url} has schema {found}, this program needs {needed}; run '{command}' and start again"
    is_recoverable = False

    def __init__(self, message: str | None = None, *, command: str = "volsvc-manage db sync", **kwargs: Any) -> None:
        super().__init__(message, command=command, **kwargs)


class StoreUnavailable(VolsvcError):
    template = "The database can't be reached: {reason}"
    code = 503


class AlreadyRunning(VolsvcError):
    template = "{what} is already served by the process {pid}; stop that one first (its lock is {path})"
    is_recoverable = False

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.pid: str = str(kwargs.get("pid", ""))


def find_error_class(name: str) -> type[VolsvcError] | None:
    """The class of this module called ``name``, or None: used to rebuild recorded errors."""
    found = globals().get(name)
    if isinstance(found, type) and issubclass(found, VolsvcError):
        return found
    return None


def describe(error: BaseException) -> str:
    """One line for an operator: the error's own words without passwords, or its type when it has none.

    Drivers hand on what their storage says, and that now and then has the request in it.
    """
    text = _without_passwords(" ".join(str(error).split()))
    if isinstance(error, VolsvcError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _without_passwords(text: str) -> str:
    from oslo_utils import strutils

    masked: str = strutils.mask_password(text)
    return _USER_AND_PASSWORD.sub(r"\1:***@", masked)
