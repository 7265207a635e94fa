"""The QMP client against a monitor that behaves well and ill."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator

import pytest

from volsvc.targets.file_locks import locked, try_lock
from volsvc.targets.qmp import Qmp, QmpError, QmpUnreachable

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


@pytest.fixture
def short_path() -> Iterator[pathlib.Path]:
    path = pathlib.Path(tempfile.mkdtemp(prefix="vs"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def serve(short_path: pathlib.Path) -> Iterator[Callable[..., str]]:
    """Starts a monitor that sends the given pieces, one after each line it is sent."""
    listener = socket.socket(socket.AF_UNIX)
    threads: list[threading.Thread] = []

    def run(pieces: tuple[bytes, ...]) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(pieces[0])
            for piece in pieces[1:]:
                line = lines.readline()
                if not line:
                    return
                connection.sendall(piece.replace(b'"ID"', json.dumps(json.loads(line)["id"]).encode()))
            lines.readline()

    def start(*pieces: bytes) -> str:
        path = str(short_path / "q")
        listener.bind(path)
        listener.listen()
        threads.append(threading.Thread(target=run, args=(pieces,), daemon=True))
        threads[-1].start()
        return path

    yield start
    listener.close()
    for thread in threads:
        thread.join(10)


def reply(value: object) -> bytes:
    return json.dumps({"return": value, "id": "ID"}).encode() + b"\n"


def test_events_between_a_command_and_its_reply_are_skipped(serve: Callable[..., str]) -> None:
    event = b'{"event": "JOB_STATUS_CHANGE", "data": {}}\n'
    path = serve(GREETING, event + reply({}), event + event + reply([1, 2]))
    with Qmp(path, 5) as qmp:
        assert qmp.execute("query-jobs") == [1, 2]


def test_refused_command_raises_with_the_monitors_words(serve: Callable[..., str]) -> None:
    error = b'{"error": {"class": "DeviceNotFound", "desc": "no such node"}, "id": "ID"}\n'
    with Qmp(serve(GREETING, reply({}), error), 5) as qmp, pytest.raises(QmpError, match="no such node") as caught:
        qmp.execute("blockdev-del", node_name="x")
    assert caught.value.kind == "DeviceNotFound"


@pytest.mark.parametrize("pieces", [(b"",), (b"hello\n",), (b"{}\n",), (b"[]\n",)])
def test_monitor_that_does_not_greet_is_unreachable(serve: Callable[..., str], pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(QmpUnreachable):
        Qmp(serve(*pieces), 0.2)


def test_monitor_that_hangs_up_is_unreachable(serve: Callable[..., str]) -> None:
    with pytest.raises(QmpUnreachable):
        path = serve(GREETING, reply({}), b'{"return"')
        with Qmp(path, 0.2) as qmp:
            qmp.execute("query-jobs")


def test_nobody_listening_is_unreachable(short_path: pathlib.Path) -> None:
    with pytest.raises(QmpUnreachable):
        Qmp(str(short_path / "q"), 1)


def test_lock_keeps_threads_apart_and_is_let_go_when_its_file_is_deleted(short_path: pathlib.Path) -> None:
    path = str(short_path / "lock")
    with locked(path, 1, "this"):
        assert try_lock(path) is None
        os.unlink(path)
        fd = try_lock(path)
        assert fd is not None
        os.close(fd)
    with locked(path, 1, "this"):
        pass


def test_what_was_meant_for_the_client_before_is_skipped(serve: Callable[..., str]) -> None:
    stale = b'{"event": "JOB_STATUS_CHANGE"}\n{"return": ["stale"], "id": "other-1"}\n{"return": ["stale"]}\n'
    path = serve(stale + GREETING, stale + reply({}), stale + reply(["mine"]))
    with Qmp(path, 5) as qmp:
        assert qmp.execute("query-jobs") == ["mine"]
