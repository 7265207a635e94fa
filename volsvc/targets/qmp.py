"""A client of QEMU's machine protocol: one connection, one command at a time.

A monitor serves one client, and a second connection waits without a word; so whoever talks
to an exporter holds that exporter's lock (``qsd.py``) and keeps the connection short.
Protocol: QEMU's qmp-spec (a greeting, capabilities negotiation, one JSON object a line).
"""

from __future__ import annotations

import json
import secrets
import socket
from typing import Any

from volsvc import exceptions as exc

_MAX_REPLY_BYTES = 16 * 1024**2
_MAX_LINES_BEFORE_GREETING = 1000


class QmpError(exc.DriverError):
    """The exporter refused a command; ``kind`` is QEMU's error class."""

    template = "the exporter refused {command}: {reason}"

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.kind: str = kwargs.get("kind", "GenericError")


class QmpUnreachable(exc.DriverError):
    """Nobody answers on the monitor, or the answer doesn't come in time."""

    template = "the exporter's monitor {path} does not answer: {reason}"


class Qmp:
    """A negotiated connection to the monitor at ``path``; use it as a context manager.

    ``timeout_s`` bounds the connection and each command.  Raises ``QmpUnreachable``.
    """

    def __init__(self, path: str, timeout_s: float = 10.0) -> None:
        self._path = path
        self._buffer = b""
        # A reply that the client before didn't wait for may still come; ids of ours tell it apart.
        self._session = secrets.token_hex(4)
        self._count = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout_s)
            self._guarded(self._socket.connect, path)
            self._await_greeting()
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run one command; underscores in argument names stand for QEMU's hyphens.

        Returns the reply's value.  Raises ``QmpError`` when it is refused.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        request_id = self.send(command, named)
        while True:
            reply = self._receive()
            if reply.get("id") != request_id:
                continue
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                error = reply["error"]
                raise QmpError(command=command, reason=error.get("desc", error), kind=error.get("class"))

    def send(self, command: str, arguments: dict[str, Any] | None = None) -> str:
        """Send one command without waiting for its reply (``quit`` may end before it answers); returns its id."""
        self._count += 1
        request_id = f"{self._session}-{self._count}"
        request = {"execute": command, "arguments": arguments or {}, "id": request_id}
        self._guarded(self._socket.sendall, json.dumps(request).encode() + b"\n")
        return request_id

    def _await_greeting(self) -> None:
        """Read up to the greeting; events and replies meant for the client before may come first."""
        for _ in range(_MAX_LINES_BEFORE_GREETING):
            if "QMP" in self._receive():
                return
        raise QmpUnreachable(path=self._path, reason="it sent no QMP greeting")

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = self._guarded(self._socket.recv, 65536)
            if not data:
                raise QmpUnreachable(path=self._path, reason="it closed the connection")
            self._buffer += data
            if len(self._buffer) > _MAX_REPLY_BYTES:
                raise QmpUnreachable(path=self._path, reason="its reply has no end")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            reply = json.loads(line)
        except ValueError as error:
            raise QmpUnreachable(path=self._path, reason=f"it does not speak QMP: {error}") from None
        return reply if isinstance(reply, dict) else {}

    def _guarded(self, function: Any, argument: Any) -> Any:
        try:
            return function(argument)
        except OSError as error:
            raise QmpUnreachable(path=self._path, reason=exc.describe(error)) from error
