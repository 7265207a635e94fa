"""The receiving side of the ``unix://`` transport: one thread that accepts and reads.

What it accepts it hands to the server's executor at once and only then acknowledges, so that
an acknowledged message is in the executor's queue, which a stopping server works off.  The
number of connections and of unfinished messages is bounded.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from volsvc.rpc import wire
from volsvc.rpc.library import driver_base
from volsvc.rpc.socket_directory import BoundSocket, SocketDirectory
from volsvc.rpc.unix_incoming import ServerConnection, UnixIncomingMessage
from volsvc.rpc.unix_settings import UnixSettings, peer_uid
from volsvc.rpc.wire import Kind

LOG = logging.getLogger(__name__)

ACCEPT_PAUSE_S = 0.2
_RECV_BYTES = 65536


class UnixListener(driver_base.Listener):  # type: ignore[misc]
    """Serves one or more names of a directory until it is stopped.

    Built it listens, started it reads, stopped it takes nothing more while replies still go
    out, cleaned up it is gone.  Each step may be repeated.
    """

    def __init__(
        self,
        directory: SocketDirectory,
        names: Sequence[str],
        settings: UnixSettings,
        *,
        is_notification: bool = False,
        batch_size: int = 1,
        batch_timeout: float | None = None,
    ) -> None:
        """Raises ``ConfigurationError`` when a name can't be listened on."""
        super().__init__(batch_size, batch_timeout)
        self._directory = directory
        self._settings = settings
        self._is_notification = is_notification
        self._connections: dict[int, ServerConnection] = {}
        self._pending = 0
        self._room = threading.Condition()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._label = ", ".join(names)
        self._bound: list[BoundSocket] = []
        try:
            for name in names:
                self._bound.append(directory.bind(name))
        except BaseException:
            self._dismiss_clients()
            raise
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._is_cleaned_up = False

    # -- the steps of its life, on the server's threads ------------------------------------

    def start(self, on_incoming_callback: Any) -> None:
        super().start(on_incoming_callback)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=f"unix-rpc {self._label}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Take no more messages; those that were acknowledged are with the executor by now."""
        with self._room:
            is_first = not self._stopping.is_set()
            self._stopping.set()
            self._room.notify_all()
        if self._thread is None:
            self._dismiss_clients()
        else:
            if is_first:
                os.write(self._wake_write, b"x")
            self._thread.join()
        super().stop()

    def cleanup(self) -> None:
        """Close everything.  Clients whose call is unanswered see the connection end."""
        self.stop()
        if self._is_cleaned_up:
            return
        self._is_cleaned_up = True
        for connection in self._connections.values():
            with connection.lock:
                connection.end()
                connection.sock.close()
        self._connections.clear()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # -- the listener's thread ---------------------------------------------------------------

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            for bound in self._bound:
                selector.register(bound.sock, selectors.EVENT_READ, bound)
            while not self._stopping.is_set():
                for key, _events in selector.select():
                    if self._stopping.is_set():
                        break
                    if isinstance(key.data, BoundSocket):
                        self._accept(key.data.sock, selector)
                    elif key.data is not None:
                        self._read(key.data, selector)
        self._dismiss_clients()

    def _accept(self, listening: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            self._accept_waiting(listening, selector)
        except OSError as error:
            # Out of file descriptors. The connection waits in the backlog; without the pause this would spin.
            LOG.error("%s: a connection can't be accepted yet: %s", self._label, error)
            self._end_idlest(selector)
            self._stopping.wait(ACCEPT_PAUSE_S)

    def _accept_waiting(self, listening: socket.socket, selector: selectors.BaseSelector) -> None:
        while (sock := _accept_one(listening)) is not None:
            connection = ServerConnection(sock, self._settings)
            uid = peer_uid(sock)
            if not self._settings.is_trusted(uid):
                LOG.warning(
                    "%s: refused a connection from uid %d; [oslo_messaging_unix] allowed_uids would let it in",
                    self._label,
                    uid,
                )
                sock.close()
            elif not self._make_room(selector):
                LOG.warning(
                    "%s: refused a connection, all %d are busy ([oslo_messaging_unix] max_connections)",
                    self._label,
                    self._settings.max_connections,
                )
                with connection.lock:
                    connection.send(wire.encode(Kind.NAK, "it has too many connections"))
                sock.close()
            else:
                self._connections[sock.fileno()] = connection
                selector.register(sock, selectors.EVENT_READ, connection)
                with connection.lock:
                    connection.send(wire.encode(Kind.HELLO))

    def _make_room(self, selector: selectors.BaseSelector) -> bool:
        """Have fewer connections than the limit, by ending the one idle longest if need be."""
        return len(self._connections) < self._settings.max_connections or self._end_idlest(selector)

    def _end_idlest(self, selector: selectors.BaseSelector) -> bool:
        idle = [connection for connection in self._connections.values() if not connection.is_busy]
        if not idle:
            return False
        oldest = min(idle, key=lambda connection: connection.last_used)
        with oldest.lock:
            oldest.say_goodbye()
        self._close(oldest, selector)
        return True

    def _read(self, connection: ServerConnection, selector: selectors.BaseSelector) -> None:
        if connection.sock.fileno() < 0:
            return  # closed to make room, by an event of the same round
        try:
            data = connection.sock.recv(_RECV_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection, selector)
            return
        connection.reader.feed(data)
        try:
            while not self._stopping.is_set() and (frame := connection.reader.next()) is not None:
                self._take(connection, *frame)
        except wire.FrameError as error:
            LOG.warning("%s: a client is cut off: %s", self._label, error)
            with connection.lock:
                connection.send(wire.encode(Kind.NAK, str(error)))
            self._close(connection, selector)
        except Exception:
            # The other clients must not lose their server to one message.
            LOG.exception("%s: a message could not be taken, its connection is closed", self._label)
            self._close(connection, selector)

    def _take(self, connection: ServerConnection, kind: Kind, payload: bytes) -> None:
        """Accept one message: into the executor first, then the acknowledgement."""
        if kind not in (Kind.CAST, Kind.CALL) or connection.is_busy:
            raise wire.FrameError(f"{kind.name} is out of turn")
        body = wire.decode(payload)
        if not isinstance(body, dict) or not isinstance(body.get("msg"), dict):
            raise wire.FrameError("a message without content")
        if not self._wait_for_room():
            return
        is_call = kind is Kind.CALL
        message = UnixIncomingMessage(
            connection,
            body,
            is_call=is_call,
            is_notification=self._is_notification,
            is_stopping=self._stopping.is_set,
            on_finished=self._note_finished,
        )
        # Held until the acknowledgement is out, so that a fast reply can't overtake it.
        with connection.lock:
            connection.is_busy = is_call
            connection.last_used = time.monotonic()
            try:
                self.on_incoming_callback([message])
            except RuntimeError as error:  # the executor takes nothing more
                connection.is_busy = False
                self._note_finished()
                connection.send(wire.encode(Kind.NAK, f"it takes no work: {error}"))
                return
            if not is_call:
                connection.send(wire.encode(Kind.ACK))

    def _wait_for_room(self) -> bool:
        """Count one more unfinished message, as soon as there may be one; False when stopping."""
        with self._room:
            self._room.wait_for(lambda: self._stopping.is_set() or self._pending < self._settings.max_pending)
            if self._stopping.is_set():
                return False
            self._pending += 1
            return True

    def _note_finished(self) -> None:
        with self._room:
            self._pending -= 1
            self._room.notify()

    def _close(self, connection: ServerConnection, selector: selectors.BaseSelector) -> None:
        selector.unregister(connection.sock)
        self._connections.pop(connection.sock.fileno(), None)
        with connection.lock:
            connection.end()
            connection.sock.close()

    # -- the end -----------------------------------------------------------------------------

    def _dismiss_clients(self) -> None:
        """Give up the names, then tell every client without an open call to go elsewhere."""
        # First the names, so that who is sent away doesn't come back here.
        for bound in self._bound:
            self._directory.release(bound)
        for bound in self._bound:
            # Who is not let in any more sees the connection end without a greeting, and goes elsewhere too.
            with contextlib.suppress(OSError):
                while (late := _accept_one(bound.sock)) is not None:
                    connection = ServerConnection(late, self._settings)
                    with connection.lock:
                        connection.say_goodbye()
                    late.close()
        self._close_listening()
        for connection in self._connections.values():
            with connection.lock:
                if not connection.is_busy:
                    connection.say_goodbye()

    def _close_listening(self) -> None:
        for bound in self._bound:
            bound.sock.close()
        self._bound = []


def _accept_one(listening: socket.socket) -> socket.socket | None:
    """The next waiting connection, which doesn't block, or None when there is none.

    Raises ``OSError`` when the process or the machine has no room for another one.
    """
    try:
        sock, _address = listening.accept()
    except (BlockingIOError, ConnectionError):
        return None
    sock.setblocking(False)
    return sock
