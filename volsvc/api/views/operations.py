"""Operations: what was asked for, how far it is, how it ended."""

from __future__ import annotations

import math
from typing import Any

from volsvc import models
from volsvc.api.call import Call
from volsvc.api.views.times import iso


def operation(found: models.Operation, call: Call) -> dict[str, Any]:
    """Arguments are left out: they may hold what a client said of itself."""
    body: dict[str, Any] = {
        "id": found.id,
        "action": found.action,
        "resource_type": found.resource_type,
        "resource_id": found.resource_id,
        "second_resource_type": found.second_type,
        "second_resource_id": found.second_id,
        "state": found.state,
        "progress": {
            "done_bytes": found.progress_done,
            "total_bytes": found.progress_total,
            "percent": _percent(found),
            "seconds_left": _seconds_left(found),
        },
        "attempts": found.attempts,
        "cancel_requested": found.is_cancel_requested,
        "error": found.error,
        "error_class": found.error_class,
        "request_id": found.request_id,
        "user_id": found.user_id,
        "project_id": found.project_id,
        "created_at": iso(found.created_at),
        "started_at": iso(found.started_at),
        "finished_at": iso(found.finished_at),
        "updated_at": iso(found.updated_at),
        "links": [{"rel": "self", "href": call.href(f"operations/{found.id}")}],
    }
    if call.ctx.is_admin:
        body["host"] = None if found.host is None else models.backend_of(found.host)
        body["result"] = dict(found.shown_result)
    return body


def _percent(found: models.Operation) -> int | None:
    if found.state == "done":
        return 100
    if found.progress_total <= 0:
        return None
    return min(100, found.progress_done * 100 // found.progress_total)


def _seconds_left(found: models.Operation) -> int | None:
    """At the pace that it had so far; None when nothing says that.

    One that was begun again doesn't: what an earlier attempt had done counts in its progress, not in its time.
    """
    is_told = found.state == "running" and found.claim_epoch == 1 and 0 < found.progress_done <= found.progress_total
    if not is_told or found.started_at is None or found.updated_at is None:
        return None
    elapsed_s = (found.updated_at - found.started_at).total_seconds()
    return math.ceil(elapsed_s * (found.progress_total - found.progress_done) / found.progress_done)
