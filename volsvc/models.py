"""The records of the service as frozen values.

The store returns these, managers and drivers read them, nobody changes one in place.
Sizes are GiB where a name ends in ``_gb`` (Cinder's unit is 2**30 bytes) and bytes where
it ends in ``_bytes``.  Times are naive UTC, as Cinder's API prints them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GIB = 1024**3

JSON = Mapping[str, Any]

HIDDEN = "***"
_HIDDEN_RESULTS = frozenset({"connection_info"})


@dataclass(frozen=True, slots=True)
class Volume:
    id: str
    size_gb: int
    status: str
    project_id: str
    user_id: str
    host: str | None = None  # host@backend#pool
    name: str | None = None
    description: str | None = None
    volume_type_id: str | None = None
    availability_zone: str = "nova"
    snapshot_id: str | None = None
    source_volid: str | None = None
    is_bootable: bool = False
    is_multiattach: bool = False
    attach_status: str = "detached"
    migration_status: str | None = None
    claimed_gb: int = 0  # what placement counts: the new size from the moment an extend is recorded
    provider: JSON = field(default_factory=dict)  # the driver's own notes, opaque to the service
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None
    launched_at: dt.datetime | None = None

    @property
    def size_bytes(self) -> int:
        return self.size_gb * GIB


@dataclass(frozen=True, slots=True)
class Snapshot:
    id: str
    volume_id: str
    size_gb: int
    status: str
    project_id: str
    user_id: str
    host: str | None = None  # the volume's, so that a snapshot's operations find their backend
    name: str | None = None
    description: str | None = None
    volume_type_id: str | None = None
    progress: str = "0%"
    provider: JSON = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None

    @property
    def size_bytes(self) -> int:
        return self.size_gb * GIB


@dataclass(frozen=True, slots=True)
class Attachment:
    """One connection of one client (``connector``) to one volume.

    ``connector`` is what the client says of itself (os-brick's dictionary: host, ip,
    initiator, mountpoint, ...); ``connection_info`` is what it needs to connect:
    ``{"driver_volume_type": str, "data": {...}}``.
    """

    id: str
    volume_id: str
    status: str
    project_id: str
    instance_id: str | None = None
    attach_mode: str = "rw"
    mountpoint: str | None = None
    attached_host: str | None = None
    connector: JSON = field(default_factory=dict)
    connection_info: JSON = field(default_factory=dict)
    attached_at: dt.datetime | None = None
    detached_at: dt.datetime | None = None
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None

    @property
    def needs_export(self) -> bool:
        """Whether the storage must serve its client, by the record."""
        return bool(self.connection_info) and self.status != "detaching"

    @property
    def is_read_only(self) -> bool:
        return self.attach_mode == "ro"


@dataclass(frozen=True, slots=True)
class Backup:
    """A volume's bytes at one point in time, kept in a backup store; it outlives its volume.

    ``is_stored`` is True from before its first object is written: only then must the store be asked
    before the record may go.  ``store_uuid`` names the store (its marker's UUID).
    """

    id: str
    volume_id: str
    size_gb: int
    status: str
    project_id: str
    user_id: str
    snapshot_id: str | None = None
    host: str | None = None  # of the backup daemon that made it
    name: str | None = None
    description: str | None = None
    container: str | None = None
    availability_zone: str = "nova"
    service: str | None = None  # the driver, as backup_driver names it
    store_uuid: str | None = None
    is_stored: bool = False
    object_count: int = 0
    stored_bytes: int = 0
    fail_reason: str | None = None
    temp_snapshot_id: str | None = None
    parent_id: str | None = None
    restore_volume_id: str | None = None  # of the newest restore
    volume_name: str | None = None
    data_timestamp: dt.datetime | None = None  # of the point in time
    provider: JSON = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None

    @property
    def size_bytes(self) -> int:
        return self.size_gb * GIB


@dataclass(frozen=True, slots=True)
class VolumeType:
    id: str
    name: str
    description: str | None = None
    is_public: bool = True
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class BackendStats:
    """What a driver says of its storage, in Cinder's terms.

    A capacity of None means that the storage can't tell; placement then does not count it.
    """

    total_capacity_gb: float | None
    free_capacity_gb: float | None
    reserved_percentage: int = 0
    max_over_subscription_ratio: float = 20.0
    thin_provisioning_support: bool = True
    multiattach: bool = True
    online_extend_support: bool = True
    storage_protocol: str = "unknown"
    vendor_name: str = "volsvc"
    driver_version: str = "1.0"
    pool_name: str | None = None
    abilities: tuple[str, ...] = ()
    extra: JSON = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StorageView:
    """What the storage says of a volume or a snapshot, whatever the records say.

    ``exports`` are the ids of the attachments whose clients may connect; ``clients`` the addresses of
    those that are connected, as the target knows them, None when it can't tell.
    """

    exists: bool
    size_bytes: int | None = None
    exports: tuple[str, ...] = ()
    clients: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A daemon's backend (``host@backend``) or a daemon (``host``) as the database knows it.

    ``state`` is the initialiser's (see ``initializer.py``); ``is_up`` is computed by the
    store with the database's clock: a fresh heartbeat *and* ready.
    """

    id: int
    host: str
    binary: str
    state: str = "starting"
    step: str | None = None
    reason: str | None = None
    attempts: int = 0
    max_attempts: int = 0
    losses: int = 0
    hanging_since: dt.datetime | None = None
    next_attempt_at: dt.datetime | None = None
    last_attempt: JSON = field(default_factory=dict)
    heartbeat_at: dt.datetime | None = None
    is_up: bool = False
    is_disabled: bool = False
    disabled_reason: str | None = None
    instance: str | None = None
    pid: int | None = None
    version: str | None = None
    availability_zone: str = "nova"
    backend_uuid: str | None = None
    capabilities: JSON = field(default_factory=dict)
    allocated_gb: int = 0
    config_digest: str | None = None
    config_loaded_at: dt.datetime | None = None
    config_error: str | None = None
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None

    @property
    def serves_volumes(self) -> bool:
        return self.binary.endswith("-volume")

    @property
    def serves_backups(self) -> bool:
        return self.binary.endswith("-backup")


@dataclass(frozen=True, slots=True)
class Operation:
    """The durable record of something that takes time: intent, claim, progress, end.

    ``seq`` orders operations in time.  ``previous_status`` and ``second_previous_status``
    are what the resources had when the operation was recorded.  ``error`` is a sentence,
    ``error_class`` the name of a class in ``exceptions``.
    """

    id: str
    seq: int
    action: str
    resource_type: str
    resource_id: str
    state: str
    host: str | None = None  # host@backend that must run it; None when the record is all there is
    args: JSON = field(default_factory=dict)
    args_version: int = 1
    second_type: str | None = None
    second_id: str | None = None
    previous_status: str | None = None
    second_previous_status: str | None = None
    claim_epoch: int = 0
    instance: str | None = None
    attempts: int = 0
    progress_done: int = 0
    progress_total: int = 0
    is_cancel_requested: bool = False
    error: str | None = None
    error_class: str | None = None
    result: JSON = field(default_factory=dict, repr=False)
    request_id: str | None = None
    user_id: str | None = None
    project_id: str | None = None
    deadline_at: dt.datetime | None = None
    created_at: dt.datetime | None = None
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None

    @property
    def is_open(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def shown_result(self) -> JSON:
        """``result`` as people may see it: a connection's keys are its reader's alone."""
        return {key: HIDDEN if key in _HIDDEN_RESULTS else value for key, value in self.result.items()}


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Who asks: taken from the HTTP request once, handed down with every call."""

    user_id: str
    project_id: str
    is_admin: bool = False
    roles: tuple[str, ...] = ()
    request_id: str = ""


_EXPRESS = "express:"


def backend_of(host: str) -> str:
    """``host@backend`` of a volume's ``host@backend#pool``, or of the name that ``express_host`` gave."""
    return host.partition("#")[0].removeprefix(_EXPRESS)


def express_host(host: str) -> str:
    """The name under which a backend's operations are recorded that don't wait in its queue."""
    return _EXPRESS + backend_of(host)
