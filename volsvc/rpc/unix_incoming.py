"""A message that a server of the ``unix://`` transport has received, and the socket to answer on.

Frames are read by the listener's one thread and answered by whichever thread has the result,
so everything that writes or changes a connection's state holds its lock.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from volsvc.rpc import wire
from volsvc.rpc.library import driver_base, driver_common
from volsvc.rpc.unix_settings import UnixSettings
from volsvc.rpc.wire import Kind

LOG = logging.getLogger(__name__)


class ServerConnection:
    """One client's connection as the server has it.  ``sock`` doesn't block.

    ``is_busy`` while a call is unanswered.  Only the listener closes the socket; other
    threads shut it down, which makes the listener see its end.
    """

    def __init__(self, sock: socket.socket, settings: UnixSettings) -> None:
        self.sock = sock
        self.lock = threading.Lock()
        self.reader = wire.FrameReader(settings.max_frame_bytes)
        self.settings = settings
        self.is_busy = False
        self.is_ended = False
        self.last_used = time.monotonic()

    def send(self, frame: bytes) -> bool:
        """Under the lock: write a whole frame, or end the connection and return False."""
        if self.is_ended:
            return False
        view = memoryview(frame)
        deadline = time.monotonic() + self.settings.handoff_timeout_s
        try:
            while view:
                try:
                    view = view[self.sock.send(view) :]
                except BlockingIOError:
                    if not _wait_writable(self.sock, deadline):
                        LOG.warning("a client doesn't read its reply; its connection is closed")
                        self.end()
                        return False
        except OSError as error:
            LOG.debug("a client is gone: %s", error)
            self.end()
            return False
        return True

    def end(self) -> None:
        """Under the lock: no more traffic.  May be repeated."""
        if not self.is_ended:
            self.is_ended = True
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client was faster

    def say_goodbye(self) -> None:
        """Under the lock: promise that nothing more is taken from this connection, and end it."""
        if self.send(wire.encode(Kind.BYE)):
            self.end()


def _wait_writable(sock: socket.socket, deadline: float) -> bool:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        return False
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(remaining * 1000))


class UnixIncomingMessage(driver_base.RpcIncomingMessage):  # type: ignore[misc]
    """A call, a cast or a notification on its way to the dispatcher.

    ``on_finished`` is called once, when it needs the listener no more.
    """

    def __init__(
        self,
        connection: ServerConnection,
        body: dict[str, Any],
        *,
        is_call: bool,
        is_notification: bool,
        is_stopping: Callable[[], bool],
        on_finished: Callable[[], None],
    ) -> None:
        # Notifications come in an envelope, or not, as their sender's format has it.
        message = driver_common.deserialize_msg(body["msg"]) if is_notification else body["msg"]
        super().__init__(body.get("ctxt") or {}, message)
        monitor_s = body.get("monitor_s")
        self.client_timeout = monitor_s if is_call else None
        self._connection = connection
        self._is_call = is_call
        self._is_notification = is_notification
        self._is_stopping = is_stopping
        self._on_finished = on_finished
        self._lock = threading.Lock()
        self._is_finished = False

    def acknowledge(self) -> None:
        """Nothing to tell the client, which had its answer when the message was accepted."""
        if self._is_notification:
            self._finish()

    def requeue(self) -> None:
        """This transport keeps nothing, so there is no queue to put it back into."""
        LOG.warning("a notification was given back and is dropped: the unix:// transport has no queue")
        self._finish()

    def heartbeat(self) -> None:
        """Tell the waiting client that the call goes on.

        Raises ``ConnectionError`` when nobody waits any more, which ends the dispatcher's
        watchdog thread also where the dispatcher forgets to end it.
        """
        with self._connection.lock:
            if self._is_finished or not self._connection.send(wire.encode(Kind.HEARTBEAT)):
                raise ConnectionError("nobody waits for this call any more")

    def reply(self, reply: Any = None, failure: Any = None) -> None:
        """Send a call's result or error; for a cast only note that it is finished."""
        if not self._finish() or not self._is_call:
            return
        frame = self._encode(reply, failure)
        connection = self._connection
        with connection.lock:
            # Before the reply is out: the client may send its next message before send() returns.
            connection.is_busy = False
            connection.last_used = time.monotonic()
            is_sent = connection.send(frame)
            if is_sent and self._is_stopping():
                connection.say_goodbye()
        if not is_sent:
            LOG.debug("the client of message %s is gone, its reply is dropped", self.msg_id)

    def _encode(self, reply: Any, failure: Any) -> bytes:
        limit = self._connection.settings.max_frame_bytes
        try:
            if failure is None:
                return wire.encode(Kind.REPLY, reply, max_bytes=limit)
            return wire.encode(Kind.FAILURE, driver_common.serialize_remote_exception(failure), max_bytes=limit)
        except (ValueError, TypeError, wire.FrameTooLarge) as error:
            LOG.error("the result of message %s can't be sent: %s", self.msg_id, error)
            stand_in = driver_common.serialize_remote_exception((type(error), error, None))
            return wire.encode(Kind.FAILURE, stand_in)

    def _finish(self) -> bool:
        with self._lock:
            if self._is_finished:
                return False
            self._is_finished = True
        self._on_finished()
        return True
