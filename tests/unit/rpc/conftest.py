"""Directories for sockets, whose paths must be short, and a check that nothing is left running."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A new empty directory; pytest's own are too deep for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="vs-") as path:
        yield Path(path)


@pytest.fixture
def rpc_directory(short_path: Path) -> Path:
    """Where a transport makes its socket directory; doesn't exist yet."""
    return short_path / "rpc"


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails when the test leaves more threads or file descriptors than it found."""
    threads, files = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    yield
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) <= files
