"""The transport contract, kept by unix:// and, where it promises as much, by oslo.messaging's fake://."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from volsvc.testing.transport_contract import TransportContract


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A new empty directory; pytest's own are too deep for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="vs-") as path:
        yield Path(path)


class TestUnixTransport(TransportContract):
    @pytest.fixture
    def transport_url(self, short_path: Path) -> str:
        return f"unix://{short_path}/rpc"


class TestUnixTransportWithNarrowBounds(TransportContract):
    """The same promises when connections are hardly kept and messages wait for room."""

    @pytest.fixture
    def transport_url(self, short_path: Path) -> str:
        return f"unix://{short_path}/rpc?max_idle_connections=0&max_pending=2&max_connections=12"


class TestFakeTransport(TransportContract):
    reports_missing_server = False
    filters_remote_errors = False
    has_call_monitor = False
    keeps_casts_at_stop = False

    @pytest.fixture
    def transport_url(self) -> str:
        return "fake://"
