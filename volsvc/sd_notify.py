"""Messages to systemd, when it started us with ``Type=notify`` (sd_notify(3)).

oslo.service sends READY only, and drops the socket's name after it.
"""

from __future__ import annotations

import logging
import os
import socket
import time

LOG = logging.getLogger(__name__)


def notify(*assignments: str) -> bool:
    """Send ``NAME=value`` lines; False when systemd doesn't listen.  Never raises."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(assignments).encode(), address)
    except OSError as error:
        LOG.debug("systemd was not told %s: %s", assignments, error)
        return False
    return True


def ready(status: str) -> None:
    notify("READY=1", f"STATUS={status}")


def reloading() -> None:
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    notify("STOPPING=1", "STATUS=finishing what runs")


def watchdog_interval_s() -> float | None:
    """How often ``alive`` must be called: half of what systemd waits; None without a watchdog."""
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
        pid = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return microseconds / 2_000_000 if microseconds > 0 and pid == os.getpid() else None


def alive() -> None:
    notify("WATCHDOG=1")
