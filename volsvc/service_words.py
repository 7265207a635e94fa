"""A service's state as one sentence: the same in the log, the API and ``service list``."""

from __future__ import annotations

import datetime as dt

from volsvc import models


def describe_state(service: models.Service, now: dt.datetime | None = None) -> str:
    """For example ``retrying (check_for_setup_error: connection refused; attempt 2 of 4; next in 41 s)``."""
    if service.state in ("ready", "stopped") and not service.reason:
        return service.state
    now = now or dt.datetime.now(dt.UTC).replace(tzinfo=None)
    details = []
    if service.reason:
        details.append(f"{service.step}: {service.reason}" if service.step else service.reason)
    if service.hanging_since is not None:
        details.append(f"hanging since {service.hanging_since:%Y-%m-%d %H:%M:%S} UTC")
    if service.attempts and service.state in ("retrying", "exhausted", "starting"):
        limit = f" of {service.max_attempts}" if service.max_attempts else ""
        details.append(f"attempt {service.attempts}{limit}")
    if service.next_attempt_at is not None:
        details.append(f"next in {max(0, round((service.next_attempt_at - now).total_seconds()))} s")
    if service.state == "exhausted":
        details.append("fix it, then reload or reinit")
    return f"{service.state} ({'; '.join(details)})" if details else service.state
