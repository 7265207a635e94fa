"""A real S3 server for tests (moto's), and a proxy before it that does wrong what it is told to."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_START_DEADLINE_S = 60.0
_SERVER = "import sys; from moto.server import main; main(sys.argv[1:])"
_HOST = "127.0.0.1"
_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"})


@contextlib.contextmanager
def s3_server(certificate: str | None = None, key: str | None = None) -> Iterator[str]:
    """The URL of a server of its own process; with ``certificate`` and ``key`` (files) it speaks TLS."""
    tls = ["-s", "-c", certificate, "-k", key] if certificate and key else []
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, "-H", _HOST, "-p", "0", *tls],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield _wait_for_url(process)
    finally:
        process.terminate()
        process.wait(_START_DEADLINE_S)


def _wait_for_url(process: subprocess.Popen[str]) -> str:
    """Read the server's log up to the line with its address, then go on reading so that it never blocks."""
    stderr = process.stderr
    if stderr is None:
        raise AssertionError("the server was started without a pipe")
    watchdog = threading.Timer(_START_DEADLINE_S, process.kill)
    watchdog.start()
    seen = []
    try:
        for line in stderr:
            seen.append(line)
            found = re.search(r"(https?://[\d.]+:\d+)", line)
            if found:
                threading.Thread(target=stderr.read, name="s3-log", daemon=True).start()
                return found[1]
    finally:
        watchdog.cancel()
    raise AssertionError(f"the S3 server did not start: {''.join(seen)}")


def create_bucket(url: str, name: str) -> None:
    """Make a bucket; the server asks for no signature."""
    with urllib.request.urlopen(urllib.request.Request(f"{url}/{name}", method="PUT"), timeout=30):
        return


@dataclass
class Fault:
    """What happens to the next ``times`` requests of ``method`` (any: ``*``) after ``skip`` others.

    ``status`` and ``code`` are answered instead of the server's; ``truncate`` cuts the body
    of a good answer in the middle; ``reset`` hangs up, before the server is asked or, with ``after``, when it
    has done the work.
    """

    method: str = "*"
    times: int = 1
    skip: int = 0
    status: int = 0
    code: str = ""
    truncate: bool = False
    reset: bool = False
    after: bool = False


@dataclass
class FaultyProxy:
    """``url`` is where clients connect; ``faults`` apply in order; ``requests`` counts what came."""

    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, method: str) -> Fault | None:
        with self.guard:
            self.requests.append(method)
            for fault in self.faults:
                if fault.method not in ("*", method) or not fault.times:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None


@contextlib.contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    """A proxy before the server at ``target`` (http)."""
    proxy = FaultyProxy()

    class Handler(_ProxyHandler):
        faults = proxy
        address = target.removeprefix("http://")

    server = http.server.ThreadingHTTPServer((_HOST, 0), Handler)
    server.daemon_threads = True
    proxy.url = f"http://{_HOST}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="s3-proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _ProxyHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: FaultyProxy
    address: str

    def log_message(self, format: str, *args: object) -> None:
        return

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.faults.next_fault(self.command)
        if fault is not None and fault.reset and not fault.after:
            self._hang_up()
            return
        if fault is not None and fault.status:
            text = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>on order</Message></Error>"
            self._answer(fault.status, {"Content-Type": "application/xml"}, text.encode(), False)
            return
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if fault is not None and fault.reset:
            self._hang_up()
            return
        is_truncated = fault is not None and fault.truncate and response.status < 300
        self._answer(response.status, dict(response.getheaders()), data, is_truncated)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _answer(self, status: int, headers: Mapping[str, str], data: bytes, is_truncated: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if is_truncated else data)
        if is_truncated:
            self.wfile.flush()
            self._hang_up()
