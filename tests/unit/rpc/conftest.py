"""Directories for sockets, whose paths must be short, and a check that nothing is left running."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
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
def nothing_left() -> Callable[[], None]:
    """A function that fails when there are more threads or file descriptors than before the test.

    To be called while the test still has its objects: what only garbage collection closes is left.
    """
    threads, files = set(threading.enumerate()), os.listdir("/proc/self/fd")

    def check() -> None:
        assert set(threading.enumerate()) <= threads
        assert len(os.listdir("/proc/self/fd")) <= len(files)

    return check
