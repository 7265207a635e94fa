"""The unix:// transport between real processes that are killed, stopped and replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.unit.rpc import serving_process
from volsvc.rpc.library import messaging
from volsvc.rpc.transport import build_transport, close_transport, load_messaging_options
from volsvc.rpc.unix_client import NobodyListens, ServerLost

DEADLINE_S = 15.0


class Process:
    def __init__(self, url: str, name: str, notes: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, serving_process.__file__, url, name, str(notes)], stdout=subprocess.PIPE, text=True
        )
        self.wait_for("ready")

    def wait_for(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def suspend(self) -> None:
        self.send(signal.SIGSTOP)
        # A signal takes its time; without this the process may still answer.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        self.send(number)
        code = self._process.wait(DEADLINE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None


@pytest.fixture
def url(rpc_directory: Path) -> str:
    return f"unix://{rpc_directory}?handoff_timeout=1.0"


@pytest.fixture
def start(url: str, short_path: Path) -> Iterator[Callable[[], Process]]:
    processes = []

    def one() -> Process:
        processes.append(Process(url, "one", short_path / f"notes-{len(processes)}"))
        return processes[-1]

    yield one
    for process in processes:
        if process.is_running:
            process.end()


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    transport = build_transport(load_messaging_options(), url)
    yield messaging.get_rpc_client(
        transport, messaging.Target(topic="process", server="one"), timeout=DEADLINE_S, retry=0
    )
    close_transport(transport)


def test_server_killed_in_mid_call_is_an_error_at_once(start: Callable[[], Process], client: Any) -> None:
    process = start()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.call, {}, "hang")
        process.wait_for("called")
        killed_at = time.monotonic()
        process.end()
        with pytest.raises(ServerLost, match="may have taken"):
            call.result(DEADLINE_S)
    assert time.monotonic() - killed_at < 2


def test_socket_of_a_killed_server_is_recognised_and_taken_over(
    start: Callable[[], Process], client: Any, rpc_directory: Path
) -> None:
    process = start()
    assert client.call({}, "ping") == "pong"
    process.end()
    assert (rpc_directory / "process:one").is_socket()
    with pytest.raises(NobodyListens):
        client.call({}, "ping")
    with pytest.raises(NobodyListens):
        client.cast({}, "note", value=1)
    start()
    assert client.call({}, "ping") == "pong"


def test_retry_waits_for_a_server_that_is_starting(start: Callable[[], Process], url: str) -> None:
    transport = build_transport(load_messaging_options(), url)
    patient = messaging.get_rpc_client(
        transport, messaging.Target(topic="process", server="one"), timeout=DEADLINE_S, retry=60
    )
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(patient.call, {}, "ping")
        start()
        assert call.result(DEADLINE_S) == "pong"
    close_transport(transport)


def test_server_that_was_stopped_by_a_signal_times_out(start: Callable[[], Process], client: Any) -> None:
    process = start()
    assert client.call({}, "ping") == "pong"
    process.suspend()
    with pytest.raises(messaging.MessagingTimeout):
        client.cast({}, "note", value=1)  # on a kept connection
    with pytest.raises(messaging.MessagingTimeout):
        client.cast({}, "note", value=2)  # on a new one
    with pytest.raises(messaging.MessagingTimeout):
        client.prepare(timeout=0.3).call({}, "ping")
    process.send(signal.SIGCONT)
    assert client.call({}, "ping") == "pong"


def test_casts_under_load_survive_takeovers_by_new_processes(
    start: Callable[[], Process], client: Any, short_path: Path
) -> None:
    sent: list[str] = []
    is_over = threading.Event()

    def send(sender: int) -> None:
        number = 0
        while not is_over.is_set():
            value = f"{sender}-{number}"
            client.cast({}, "note", value=value)
            sent.append(value)
            number += 1

    process = start()
    with ThreadPoolExecutor(2) as threads:
        sending = [threads.submit(send, sender) for sender in range(2)]
        try:
            for _takeover in range(3):
                successor = start()
                assert process.end(signal.SIGTERM) == 0
                process = successor
        finally:
            is_over.set()
        for one in sending:
            one.result(DEADLINE_S)
    assert process.end(signal.SIGTERM) == 0
    notes = [path.read_text().split() for path in sorted(short_path.glob("notes-*"))]
    assert all(notes), "a server got nothing"
    assert sorted(value for part in notes for value in part) == sorted(sent)


def test_client_that_is_killed_in_mid_call_costs_the_server_nothing(
    start: Callable[[], Process], client: Any, url: str
) -> None:
    process = start()
    calling = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from volsvc.rpc.library import messaging\n"
            "from volsvc.rpc.transport import build_transport, load_messaging_options\n"
            "transport = build_transport(load_messaging_options(), sys.argv[1])\n"
            "target = messaging.Target(topic='process', server='one')\n"
            "messaging.get_rpc_client(transport, target).call({}, 'hang')\n",
            url,
        ]
    )
    process.wait_for("called")
    calling.kill()
    calling.wait(DEADLINE_S)
    assert client.call({}, "ping") == "pong"
