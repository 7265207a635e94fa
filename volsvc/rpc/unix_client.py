"""The sending side of the ``unix://`` transport: connections, kept and reused per server.

The one question that matters after a failure is whether the other side may have taken the
message.  Each error here answers it: ``NobodyListens`` and ``NotAccepted`` say no, and the
message may go elsewhere; ``ServerLost`` says perhaps, and nothing is sent again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass

from volsvc.rpc import wire
from volsvc.rpc.library import messaging
from volsvc.rpc.socket_directory import SocketDirectory
from volsvc.rpc.unix_settings import UnixSettings, peer_uid
from volsvc.rpc.wire import Kind

_RECV_BYTES = 65536
_FRESH_ATTEMPTS = 3
_NO_SERVER_ERRNOS = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR})


class NobodyListens(messaging.MessageDeliveryFailure):  # type: ignore[misc]
    """There is no server of that name; nothing was sent."""


class NotAccepted(messaging.MessageDeliveryFailure):  # type: ignore[misc]
    """The server is there and has not taken the message, which may be sent again."""


class ServerLost(messaging.MessageDeliveryFailure):  # type: ignore[misc]
    """The connection ended after the message was sent: the server may have taken it."""


class RemoteFailure(Exception):
    """The server's endpoint raised; ``data`` is what oslo.messaging rebuilds the error from."""

    def __init__(self, data: str) -> None:
        super().__init__("the remote method failed")
        self.data = data


@dataclass(frozen=True, slots=True)
class Exchange:
    """One message to deliver.

    ``deadline`` (monotonic seconds, None: none) bounds the whole; ``monitor_s`` bounds the
    silence between two signs of life of a call, None for no such bound.
    """

    frame: bytes
    is_call: bool
    deadline: float | None
    monitor_s: float | None = None


class Connection:
    """One connected socket; carries one exchange at a time and belongs to one thread meanwhile."""

    def __init__(self, path: str, settings: UnixSettings, deadline: float) -> None:
        """Connect and wait for the server's greeting.

        Raises ``NobodyListens``, ``NotAccepted``, or ``MessagingTimeout`` at the deadline.
        """
        self._path = path
        self._reader = wire.FrameReader(settings.max_frame_bytes)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect(deadline)
            self._check_server(settings)
            self._greet(deadline)
        except BaseException:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)

    def _connect(self, deadline: float) -> None:
        # A full backlog makes connect() wait only on a blocking socket, so the limit is the kernel's.
        seconds = max(deadline - time.monotonic(), 0.001)
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            self._sock.connect(self._path)
        except BlockingIOError:
            raise messaging.MessagingTimeout(f"the server at {self._path} takes no connection in time") from None
        except OSError as error:
            if error.errno in _NO_SERVER_ERRNOS:
                raise NobodyListens(f"nobody listens at {self._path}") from None
            raise NotAccepted(f"no connection to {self._path}: {error.strerror}") from error

    def _check_server(self, settings: UnixSettings) -> None:
        uid = peer_uid(self._sock)
        if not settings.is_trusted(uid) and os.geteuid() != 0:
            raise NotAccepted(
                f"the server at {self._path} runs as uid {uid}, which is neither ours nor in "
                "[oslo_messaging_unix] allowed_uids"
            )

    def _greet(self, deadline: float) -> None:
        try:
            kind, payload = self._receive(deadline)
        except ConnectionError:
            raise NotAccepted(
                f"the server at {self._path} closed the connection at once: it is stopping, or it doesn't accept "
                f"uid {os.geteuid()} (its log says which)"
            ) from None
        except wire.FrameError as error:
            raise NotAccepted(f"what listens at {self._path} is no server of ours: {error}") from error
        except TimeoutError:
            raise messaging.MessagingTimeout(f"the server at {self._path} doesn't answer") from None
        if kind is not Kind.HELLO:
            raise NotAccepted(f"the server at {self._path} takes no messages: {_reason(kind, payload)}")

    def is_reusable(self) -> bool:
        """False when the server has said goodbye or died since the last exchange."""
        return self._reader.is_empty and not self._poll.poll(0)

    def close(self) -> None:
        self._sock.close()

    def exchange(self, exchange: Exchange) -> bytes:
        """Send and wait for the end: the reply's JSON of a call, nothing of a cast.

        Raises ``NotAccepted``, ``ServerLost``, ``RemoteFailure`` or ``MessagingTimeout``.
        After ``RemoteFailure`` the connection may be used again, after the others not.
        """
        try:
            self._sock.settimeout(_remaining(exchange.deadline))
            self._sock.sendall(exchange.frame)
        except TimeoutError:
            # A frame cut short is never looked at by the server.
            raise messaging.MessagingTimeout(f"the server at {self._path} doesn't read") from None
        except OSError as error:
            raise NotAccepted(f"the server at {self._path} closed the connection: {error.strerror}") from None
        try:
            return self._await_end(exchange)
        except ConnectionError:
            raise ServerLost(
                f"the server at {self._path} ended before it answered; it may have taken the message"
            ) from None
        except wire.FrameError as error:
            raise ServerLost(f"the server at {self._path} sent what can't be read: {error}") from error

    def _await_end(self, exchange: Exchange) -> bytes:
        last_sign = time.monotonic()
        while True:
            limit = exchange.deadline
            if exchange.monitor_s is not None:
                limit = min(limit or float("inf"), last_sign + exchange.monitor_s)
            try:
                kind, payload = self._receive(limit)
            except TimeoutError:
                raise messaging.MessagingTimeout(
                    f"no {'reply' if exchange.is_call else 'acknowledgement'} in time from {self._path}"
                ) from None
            if kind is Kind.HEARTBEAT:
                last_sign = time.monotonic()
            elif kind in (Kind.ACK, Kind.REPLY):
                return payload
            elif kind is Kind.FAILURE:
                raise RemoteFailure(str(wire.decode(payload)))
            else:
                raise NotAccepted(f"the server at {self._path} did not take the message: {_reason(kind, payload)}")

    def _receive(self, deadline: float | None) -> tuple[Kind, bytes]:
        while (frame := self._reader.next()) is None:
            self._sock.settimeout(_remaining(deadline))
            data = self._sock.recv(_RECV_BYTES)
            if not data:
                raise ConnectionResetError("end of stream")
            self._reader.feed(data)
        return frame


class ConnectionPool:
    """Delivers messages to servers by name, over connections that are kept between messages."""

    def __init__(self, directory: SocketDirectory, settings: UnixSettings) -> None:
        self._directory = directory
        self._settings = settings
        self._lock = threading.Lock()
        self._idle: dict[str, list[Connection]] = {}
        self._pid = os.getpid()
        self._is_closed = False

    def deliver(self, name: str, exchange: Exchange) -> bytes:
        """Hand the message to the server of this name, at most once, and return the reply's JSON.

        A server that stops without having taken it is tried again, so that a successor under
        the same name gets it.  Raises what ``Connection.exchange`` does, and ``NobodyListens``.
        """
        while (idle := self._take(name)) is not None:
            try:
                return self._run(name, idle, exchange)
            except NotAccepted:
                continue
        for attempt in range(1, _FRESH_ATTEMPTS + 1):
            try:
                return self._run(name, self._connect(name, exchange), exchange)
            except NotAccepted:
                if attempt == _FRESH_ATTEMPTS:
                    raise
        raise AssertionError("not reached")

    def close(self) -> None:
        """Close what is idle; what is in use closes when its exchange ends.  May be repeated."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def _connect(self, name: str, exchange: Exchange) -> Connection:
        deadline = time.monotonic() + self._settings.handoff_timeout_s
        if exchange.deadline is not None:
            deadline = min(deadline, exchange.deadline)
        return Connection(self._directory.path_of(name), self._settings, deadline)

    def _run(self, name: str, connection: Connection, exchange: Exchange) -> bytes:
        is_reusable = False
        try:
            reply = connection.exchange(exchange)
            is_reusable = True
            return reply
        except RemoteFailure:
            is_reusable = True
            raise
        finally:
            if not (is_reusable and self._keep(name, connection)):
                connection.close()

    def _take(self, name: str) -> Connection | None:
        while True:
            with self._lock:
                self._forget_after_fork()
                connections = self._idle.get(name)
                if not connections:
                    return None
                connection = connections.pop()
                if not connections:
                    del self._idle[name]
            if connection.is_reusable():
                return connection
            connection.close()

    def _keep(self, name: str, connection: Connection) -> bool:
        with self._lock:
            connections = self._idle.get(name, [])
            if self._is_closed or len(connections) >= self._settings.max_idle_connections:
                return False
            connections.append(connection)
            self._idle[name] = connections
            return True

    def _forget_after_fork(self) -> None:
        # A child must not write to its parent's connections; closing its copies doesn't end them.
        if self._pid != os.getpid():
            self._pid = os.getpid()
            for connections in self._idle.values():
                for connection in connections:
                    with contextlib.suppress(OSError):
                        connection.close()
            self._idle.clear()


def _remaining(deadline: float | None) -> float | None:
    # A timeout of 0 would make the socket non-blocking, which is another thing than a limit reached.
    if deadline is None or deadline == float("inf"):
        return None
    return max(deadline - time.monotonic(), 0.000_001)


def _reason(kind: Kind, payload: bytes) -> str:
    if kind is Kind.BYE:
        return "it is stopping"
    with contextlib.suppress(wire.FrameError):
        return str(wire.decode(payload) or kind.name)
    return kind.name
