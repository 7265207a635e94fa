from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from tests.unit.api.harness import api_options
from volsvc import exceptions as exc
from volsvc.api.server import ApiServer, build_server


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "5"), ("Content-Type", "text/plain")])
    return [b"hello"]


class Gate:
    """An application that says when it is in a request and stays in it until let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.entered.set()
        self.leave.wait(30)
        return hello(environ, start_response)


@contextlib.contextmanager
def serving(server: ApiServer) -> Iterator[ApiServer]:
    server.start()
    try:
        yield server
    finally:
        server.stop(1.0)


def get(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def get_unix(path: str) -> bytes:
    connection = UnixConnection(path)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def test_port_zero_takes_a_free_one_and_says_which() -> None:
    with serving(ApiServer(hello, threads=2)) as server:
        assert server.port > 0
        assert server.address == f"http://127.0.0.1:{server.port}"
        assert get(server.port) == b"hello"


def test_a_port_that_is_taken_is_a_configuration_error() -> None:
    with serving(ApiServer(hello, threads=1)) as first:
        second = ApiServer(hello, port=first.port, threads=1)
        with pytest.raises(exc.ConfigurationError, match=str(first.port)):
            second.start()


def test_the_port_is_free_again_after_a_stop() -> None:
    with serving(ApiServer(hello, threads=1)) as first:
        port = first.port
        get(port)
    with serving(ApiServer(hello, port=port, threads=1)):
        assert get(port) == b"hello"


def test_stop_lets_a_request_in_progress_finish() -> None:
    gate = Gate()
    server = ApiServer(gate, threads=2)
    server.start()
    answers: list[bytes] = []
    client = threading.Thread(target=lambda: answers.append(get(server.port)))
    client.start()
    assert gate.entered.wait(10)
    stopping = threading.Thread(target=server.stop, args=(10.0,))
    stopping.start()
    gate.leave.set()
    stopping.join(10)
    client.join(10)
    assert answers == [b"hello"]
    assert not stopping.is_alive()


def test_stop_does_not_wait_for_a_request_beyond_its_bound() -> None:
    gate = Gate()
    server = ApiServer(gate, threads=2)
    server.start()
    client = threading.Thread(target=_swallow, args=(server.port,))
    client.start()
    assert gate.entered.wait(10)
    began = time.monotonic()
    server.stop(0.3)
    assert time.monotonic() - began < 5
    gate.leave.set()
    client.join(10)


def _swallow(port: int) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        get(port)


def test_many_idle_connections_do_not_keep_others_out() -> None:
    with serving(ApiServer(hello, threads=2)) as server:
        idle = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=10) for _ in range(40)]
        for connection in idle:
            connection.request("GET", "/")
            connection.getresponse().read()
        assert get(server.port) == b"hello"
        # They were kept open: the same socket serves again.
        sockets = [connection.sock for connection in idle]
        idle[0].request("GET", "/")
        assert idle[0].getresponse().read() == b"hello"
        assert idle[0].sock is sockets[0]
        for connection in idle:
            connection.close()


def test_a_unix_socket_has_its_mode_and_goes_with_the_server(tmp_path: pathlib.Path) -> None:
    path = os.fspath(tmp_path / "api")
    with serving(ApiServer(hello, unix_path=path, unix_mode=0o660, threads=1)) as server:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        assert server.address == f"unix:{path}"
        assert get_unix(path) == b"hello"
    assert not os.path.exists(path)


def test_a_socket_left_by_a_killed_server_is_replaced_and_a_living_one_is_not(tmp_path: pathlib.Path) -> None:
    path = os.fspath(tmp_path / "api")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(path)
    with serving(ApiServer(hello, unix_path=path, threads=1)):
        assert get_unix(path) == b"hello"
        with pytest.raises(exc.ConfigurationError, match="already listens"):
            ApiServer(hello, unix_path=path, threads=1).start()
        assert get_unix(path) == b"hello"


def test_a_file_in_the_place_of_the_socket_is_not_touched(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "api"
    path.write_text("mine")
    with pytest.raises(exc.ConfigurationError, match="not a socket"):
        ApiServer(hello, unix_path=os.fspath(path), threads=1).start()
    assert path.read_text() == "mine"


def test_options_make_the_server(tmp_path: pathlib.Path) -> None:
    with serving(build_server(hello, api_options(osapi_volume_listen_port=0, api_threads=2))) as server:
        assert get(server.port) == b"hello"
    path = os.fspath(tmp_path / "api")
    with serving(build_server(hello, api_options(osapi_volume_listen_unix=path, api_threads=2))):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(exc.ConfigurationError, match="107"):
        build_server(hello, api_options(osapi_volume_listen_unix="/" + "x" * 107))
    with pytest.raises(exc.ConfigurationError, match="noauth"):
        build_server(hello, api_options(osapi_volume_listen="0.0.0.0"))
