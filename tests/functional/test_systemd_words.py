"""What a daemon tells systemd (sd_notify(3)), heard on the socket that systemd would listen on."""

from __future__ import annotations

import pathlib
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from volsvc.testing.daemon import Daemon, wait_until

WATCHDOG_S = 1.0


class Listener:
    """The datagrams that came, one after another."""

    def __init__(self, path: pathlib.Path) -> None:
        self.words: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def count(self, word: str, since: int = 0) -> int:
        """How many of the datagrams from number ``since`` on have that line."""
        while True:
            try:
                self.words.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return sum(word in words.splitlines() for words in self.words[since:])

    def heard(self, word: str, since: int = 0) -> bool:
        return self.count(word, since) > 0

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    return make_daemon()


@pytest.fixture
def listener(daemon: Daemon) -> Iterator[Listener]:
    path = daemon.root / "notify"
    listening = Listener(path)
    daemon.environment |= {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(round(WATCHDOG_S * 1_000_000))}
    yield listening
    listening.close()


def test_daemon_says_when_it_is_ready_alive_reloading_and_stopping(daemon: Daemon, listener: Listener) -> None:
    daemon.start()
    wait_until(lambda: listener.heard("READY=1"), "READY=1")
    since = len(listener.words)
    wait_until(lambda: listener.count("WATCHDOG=1", since) >= 3, "three signs of life")
    daemon.signal(signal.SIGHUP)
    since = len(listener.words)
    wait_until(lambda: listener.heard("RELOADING=1", since), "RELOADING=1")
    assert any(line.startswith("MONOTONIC_USEC=") for words in listener.words for line in words.splitlines())
    wait_until(lambda: listener.heard("READY=1", since), "READY=1 after the reload")
    assert daemon.stop() == 0
    assert listener.heard("STOPPING=1")
