"""A server in a process of its own, to be killed: run with URL, server name and a file to note values in.

Says "ready" when it listens and "called" when somebody waits for it.  SIGTERM stops it in order.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

from volsvc.rpc.library import messaging
from volsvc.rpc.server import RpcServer
from volsvc.rpc.transport import build_transport, close_transport, load_messaging_options


class Endpoint:
    def __init__(self, path: str) -> None:
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - lives as long as the process
        self._lock = threading.Lock()

    def note(self, _context: Any, value: Any) -> None:
        with self._lock:
            self._file.write(f"{value}\n")

    def ping(self, _context: Any) -> str:
        return "pong"

    def hang(self, _context: Any) -> None:
        print("called", flush=True)
        threading.Event().wait()


def main(url: str, name: str, path: str) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    transport = build_transport(load_messaging_options(), url)
    server = messaging.get_rpc_server(
        transport, messaging.Target(topic="process", server=name), [Endpoint(path)], server_cls=RpcServer
    )
    server.start(override_pool_size=4)
    print("ready", flush=True)
    stop.wait()
    server.stop()
    server.wait()
    close_transport(transport)


if __name__ == "__main__":
    main(*sys.argv[1:])
