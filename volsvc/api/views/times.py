"""Times as Cinder's API prints them: ISO 8601 with microseconds and no zone letter, in UTC."""

from __future__ import annotations

import datetime as dt


def iso(moment: dt.datetime | None) -> str | None:
    """None stays None."""
    return None if moment is None else moment.isoformat(timespec="microseconds")


def iso_or_empty(moment: dt.datetime | None) -> str:
    """What attachments have where there is no time yet."""
    return "" if moment is None else moment.isoformat(timespec="microseconds")
