"""Names of the objects of a backup.

The root alone makes a backup: it is stored last and deleted first.  A data pack's name begins
with its lowest chunk, so that a listing shows what an unfinished backup already has.
"""

from __future__ import annotations

import re
import secrets
import uuid

from volsvc import exceptions as exc

ROOTS = "roots/"
STARTED = "started/"
_DATA_PACK = re.compile(r"data/[0-9a-f-]{36}/d-([0-9a-f]{12})-[0-9a-f]{16}")


def check_backup_id(backup_id: str) -> str:
    """The id in its one spelling.  Raises ``InvalidInput`` for what is not a UUID."""
    try:
        return str(uuid.UUID(backup_id))
    except (ValueError, AttributeError, TypeError):
        raise exc.InvalidInput(reason=f"{backup_id!r} is not a UUID, so it can't name a backup") from None


def root(backup_id: str) -> str:
    return f"{ROOTS}{check_backup_id(backup_id)}"


def started(backup_id: str) -> str:
    return f"{STARTED}{check_backup_id(backup_id)}"


def data_prefix(backup_id: str) -> str:
    """Where everything of a backup but its root and its start is."""
    return f"data/{check_backup_id(backup_id)}/"


def new_data_pack(backup_id: str, first_chunk: int) -> str:
    return f"{data_prefix(backup_id)}d-{first_chunk:012x}-{secrets.token_hex(8)}"


def new_page_pack(backup_id: str) -> str:
    return f"{data_prefix(backup_id)}m-{secrets.token_hex(8)}"


def first_chunk_of(name: str) -> int | None:
    """The lowest chunk of a data pack; None for any other object."""
    found = _DATA_PACK.fullmatch(name)
    return int(found[1], 16) if found else None
