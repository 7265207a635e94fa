"""Fixtures for suites that start exporters."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture
def runtime_path() -> Iterator[str]:
    """A private directory whose path is short enough for sockets; no exporter in it survives the test."""
    path = tempfile.mkdtemp(prefix="vs")
    yield path
    for pidfile in pathlib.Path(path).glob("*/*/pid"):
        _kill(pidfile)
    shutil.rmtree(path)


def _kill(pidfile: pathlib.Path) -> None:
    try:
        pid = int(pidfile.read_text())
        arguments = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if os.fsencode(f"--pidfile={pidfile}") in arguments.split(b"\0"):
        os.kill(pid, signal.SIGKILL)
