"""A backend's state as one sentence: the same in the log, the API and ``service list``."""

from __future__ import annotations

import datetime as dt
from typing import Protocol

from volsvc import models


class Described(Protocol):
    """What the sentence is made of: an ``InitStatus``, or a service's record."""

    @property
    def state(self) -> str: ...
    @property
    def step(self) -> str | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def attempts(self) -> int: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def losses(self) -> int: ...
    @property
    def hanging_since(self) -> dt.datetime | None: ...
    @property
    def next_attempt_at(self) -> dt.datetime | None: ...


def describe_service(service: models.Service, now: dt.datetime | None = None) -> str:
    """``describe_state`` of a record, which outlives the daemon that wrote it."""
    if service.state == "ready" and not service.is_up:
        since = f"{service.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC" if service.heartbeat_at else "its start"
        return f"silent (no heartbeat since {since}: its daemon is gone or can't reach the database)"
    return describe_state(service, now)


def describe_state(status: Described, now: dt.datetime | None = None) -> str:
    """For example ``retrying (check_for_setup_error: connection refused; attempt 2 of 4; next in 41 s)``."""
    now = now or dt.datetime.now(dt.UTC).replace(tzinfo=None)
    details = []
    if status.reason:
        details.append(f"{status.step}: {status.reason}" if status.step else status.reason)
    if status.hanging_since is not None:
        details.append(f"hanging since {status.hanging_since:%Y-%m-%d %H:%M:%S} UTC")
    if status.attempts and status.state in ("retrying", "lost", "exhausted"):
        limit = f" of {status.max_attempts}" if status.max_attempts and status.state != "lost" else ""
        details.append(f"attempt {status.attempts}{limit}")
    if status.next_attempt_at is not None:
        details.append(f"next in {max(0, round((status.next_attempt_at - now).total_seconds()))} s")
    if status.state == "exhausted":
        details.append("fix it, then reload or reinit")
    if status.losses:
        details.append(
            f"lost {status.losses} times since the start" if status.losses > 1 else "lost once since the start"
        )
    return f"{status.state} ({'; '.join(details)})" if details else str(status.state)
