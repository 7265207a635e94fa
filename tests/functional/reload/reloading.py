"""SIGHUP, and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
from typing import Any

from tests.functional.healing.backends import HealingDaemon
from volsvc.testing.daemon import Daemon, exporters_under

ENDED = r"service\.reload\.(applied|error) \[-\] (\{.*\})"


def reload(daemon: HealingDaemon, timeout_s: float = 30.0) -> dict[str, Any]:
    """Send SIGHUP and return the payload of the notification that says how it ended."""
    position = daemon.log.stat().st_size
    daemon.signal(signal.SIGHUP)
    return reload_ended(daemon, position, timeout_s)


def reload_ended(daemon: Daemon, position: int, timeout_s: float = 30.0) -> dict[str, Any]:
    daemon.wait_for_log(ENDED, position, timeout_s)
    found = re.search(ENDED, daemon.words(position))
    assert found is not None
    payload: dict[str, Any] = json.loads(found[2])["payload"]
    return payload


def applied(daemon: HealingDaemon, **options: Any) -> dict[str, Any]:
    """Write the options, reload, and see that they serve."""
    daemon.write(**options)
    payload = reload(daemon)
    assert payload["error"] is None, payload
    return payload


def refused(daemon: HealingDaemon) -> str:
    """Reload, see that it is refused, and return why."""
    payload = reload(daemon)
    assert payload["error"] is not None, payload
    return str(payload["error"])


def resources(daemon: HealingDaemon) -> dict[str, int]:
    """What a process may leak: threads, open files, exporters.

    Without the database's files: its pool keeps as many connections as were once needed at a time.
    """
    proc = pathlib.Path(f"/proc/{daemon.pid}")
    files = 0
    for entry in (proc / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            files += ".sqlite" not in os.readlink(entry)
    return {
        "threads": len(os.listdir(proc / "task")),
        "files": files,
        "exporters": len(exporters_under(daemon.root)),
    }
