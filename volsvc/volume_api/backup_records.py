"""What export-record gives and import-record takes: a backup's record as text, to be kept elsewhere.

JSON in base64, with Cinder's names of the fields.  Of a record that comes in everything is checked,
because anybody may have written it; what the store says of the backup is the daemon's to find out.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
from collections.abc import Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc import models

VERSION = 1
#: Cinder's volume id of a backup whose record doesn't say it.
NO_VOLUME = "00000000-0000-0000-0000-000000000000"

_MAX_TEXT = 255
_MAX_SIZE_GB = 2**31 - 1
_FIRST_YEAR = 1970  # not every database takes those before the year 1000
_UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
# Names of the record's text: Cinder's name of it, ours.
_TEXTS = {
    "display_name": "name",
    "display_description": "description",
    "container": "container",
    "service": "service",
    "volume_name": "volume_name",
}
_UUIDS = ("snapshot_id", "store_uuid")


def encode(backup: models.Backup) -> str:
    """The record that ``decode`` reads."""
    record = {
        "version": VERSION,
        "id": backup.id,
        "volume_id": backup.volume_id,
        "size": backup.size_gb,
        "status": backup.status,
        "object_count": backup.object_count,
        "stored_bytes": backup.stored_bytes,
        "data_timestamp": _iso(backup.data_timestamp),
        "created_at": _iso(backup.created_at),
        "metadata": dict(backup.metadata),
        "provider": dict(backup.provider),
        **{theirs: getattr(backup, ours) for theirs, ours in _TEXTS.items()},
        **{name: getattr(backup, name) for name in _UUIDS},
    }
    return base64.b64encode(json.dumps(record, sort_keys=True).encode()).decode()


def decode(text: str) -> dict[str, Any]:
    """The fields of a ``models.Backup`` that a record gives, checked; ``id`` and ``size_gb`` are among them.

    Raises ``InvalidInput`` that says what is wrong with it.
    """
    try:
        record = json.loads(base64.b64decode("".join(text.split()), validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise exc.InvalidInput(reason="backup_url is no backup record: it must be JSON in base64") from error
    if not isinstance(record, dict):
        raise exc.InvalidInput(reason="backup_url is no backup record: its JSON must be an object")
    if record.get("version", VERSION) != VERSION:
        raise exc.InvalidInput(reason=f"backup_url is a record of version {record['version']!r}, known is {VERSION}")
    fields: dict[str, Any] = {
        "id": _uuid(record, "id"),
        "size_gb": _size(record),
        "volume_id": _uuid(record, "volume_id") or NO_VOLUME,
        "data_timestamp": _moment(record, "data_timestamp"),
        "metadata": _metadata(record),
        **{ours: _text(record, theirs) for theirs, ours in _TEXTS.items()},
        **{name: _uuid(record, name) for name in _UUIDS},
    }
    if fields["id"] is None:
        raise exc.InvalidInput(reason="the backup record has no id")
    return fields


def _wrong(name: str, needs: str) -> exc.InvalidInput:
    return exc.InvalidInput(reason=f"the backup record's {name} must be {needs}")


def _size(record: Mapping[str, Any]) -> int:
    size = record.get("size")
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MAX_SIZE_GB:
        raise _wrong("size", "a whole number of GiB, at least 1")
    return size


def _uuid(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not _UUID.match(value.lower()):
        raise _wrong(name, "a UUID")
    return value.lower()


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not _is_storable(value):
        raise _wrong(name, f"a text of at most {_MAX_TEXT} characters")
    if name != "display_description" and _CONTROLS.search(value):
        raise _wrong(name, "one line of text")
    return value


def _metadata(record: Mapping[str, Any]) -> dict[str, str]:
    found = record.get("metadata") or {}
    if not isinstance(found, dict):
        raise _wrong("metadata", "an object")
    for key, value in found.items():
        if not isinstance(value, str) or any(len(t) > _MAX_TEXT or not _is_storable(t) for t in (key, value)):
            raise _wrong("metadata", f"an object of texts of at most {_MAX_TEXT} characters")
    return found


def _moment(record: Mapping[str, Any], name: str) -> dt.datetime | None:
    value = record.get(name)
    if value is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(value)
        if moment.tzinfo is not None:
            moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(name, "a time in ISO 8601") from None
    if moment.year < _FIRST_YEAR:
        raise _wrong(name, f"a time not before {_FIRST_YEAR}")
    return moment


def _is_storable(text: str) -> bool:
    """No database takes a NUL or half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _iso(moment: dt.datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
