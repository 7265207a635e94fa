"""Microversions: what a request asks for, and the versions at which an answer changes.

A microversion is held as its minor number, since the major one is always 3.  The figures
are Cinder's (``rest_api_version_history.rst``).
"""

from __future__ import annotations

import functools
import re

from volsvc import exceptions as exc

HEADER = "OpenStack-API-Version"
SERVICE_TYPES = frozenset({"volume", "block-storage"})

MIN = 0
MAX = 71

CLUSTER_FIELDS = 7
BACKUP_UPDATE = 9
VOLUME_SUMMARY = 12
GROUP_ID = 13
GROUP_SNAPSHOT_ID = 14
ETAGS = 15
BACKUP_PROJECT = 18
PROVIDER_ID = 21
SNAPSHOT_METADATA_FILTER = 22
FORCE_DELETE_PARAMETER = 23
ATTACHMENTS = 27
POOL_FILTERS = 28
REFUSE_UNKNOWN_FILTERS = 31
RESOURCE_FILTERS = 33
LIKE_FILTERS = 34
SUMMARY_METADATA = 36
LIMITS_OF_OTHERS = 39
SNAPSHOT_USER_ID = 41
EXTEND_ATTACHED = 42
BACKUP_METADATA = 43
COMPLETE_ATTACHMENT = 44
COUNTS = 45
CREATE_FROM_BACKUP = 47
SHARED_TARGETS = 48
BACKEND_STATE = 49
BACKUP_ZONE = 51
TYPE_FILTERS = 52
STRICT_VOLUME_BODIES = 53
ATTACH_MODE = 54
BACKUP_USER_ID = 56
CLUSTER_NAME = 61
VOLUME_TYPE_ID = 63
CONSUMES_QUOTA = 65
SNAPSHOT_WITHOUT_FORCE = 66

_VERSION = re.compile(r"^([0-9]{1,4})\.([0-9]{1,6})$")


def text(minor: int) -> str:
    """``3.NN`` as it is written in headers and documents."""
    return f"3.{minor}"


@functools.lru_cache(maxsize=256)
def parse(header: str | None) -> int:
    """The minor version that a request's header asks for.

    ``None`` or a header that names only other services means 3.0; ``latest`` the highest.
    Raises ``InvalidInput`` for what is no version and ``BadMicroversion`` out of the range.
    """
    if not header:
        return MIN
    for part in header.split(","):
        service, _, version = part.strip().partition(" ")
        if service.lower() not in SERVICE_TYPES:
            continue
        version = version.strip()
        if version == "latest":
            return MAX
        match = _VERSION.match(version)
        if match is None:
            raise exc.InvalidInput(
                reason=f"API Version String {version[:40]!r} is of invalid format. Must be of format MajorNum.MinorNum."
            )
        major, minor = int(match[1]), int(match[2])
        if major != 3 or not MIN <= minor <= MAX:
            raise exc.BadMicroversion(version=version, minimum=text(MIN), maximum=text(MAX))
        return minor
    return MIN
