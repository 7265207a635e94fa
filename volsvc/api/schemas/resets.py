"""Bodies of resets: Cinder's fields, and two of ours that clients need not know.

Which words a status may be is said by the table of resets, whose message names them.
"""

from __future__ import annotations

from volsvc.api import microversions as mv
from volsvc.api.schemas import types as t

_OURS: dict[str, t.Schema] = {"force": {"enum": ["ignore", "skip", None]}, "dry_run": t.BOOLEAN}
_VOLUME = {
    "status": t.NULLABLE_TEXT,
    "attach_status": t.NULLABLE_TEXT,
    "migration_status": t.NULLABLE_TEXT,
    **_OURS,
}

VOLUME = ((mv.MIN, t.wrapped("os-reset_status", t.fields(_VOLUME))),)
SNAPSHOT = ((mv.MIN, t.wrapped("os-reset_status", t.fields({"status": t.NULLABLE_TEXT, **_OURS}))),)
BACKUP = SNAPSHOT
