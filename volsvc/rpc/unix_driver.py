"""The ``unix://`` transport driver of oslo.messaging, for daemons on one machine.

It needs no broker: servers are sockets in a directory (``unix:///absolute/directory``), and a
message goes straight to its server.  There is no queue either.  A server that isn't there is
an error at once, whatever number of retries was left open, and what a dead process had
accepted is lost with it: whoever sends must have written down elsewhere what has to happen.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Sequence
from typing import Any

from oslo_serialization import jsonutils

from volsvc.rpc import wire
from volsvc.rpc.library import driver_base, driver_common, messaging
from volsvc.rpc.socket_directory import SocketDirectory, server_name, server_prefix, subscriber_name
from volsvc.rpc.unix_client import ConnectionPool, Exchange, NobodyListens, NotAccepted, RemoteFailure
from volsvc.rpc.unix_listener import UnixListener
from volsvc.rpc.unix_settings import UnixSettings, read_settings
from volsvc.rpc.wire import Kind

LOG = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.2


class MessageTooLarge(driver_base.TransportDriverError):  # type: ignore[misc]
    """A message beyond [oslo_messaging_unix] max_frame_bytes; nothing was sent."""


class UnixDriver(driver_base.BaseDriver):  # type: ignore[misc]
    """What oslo.messaging loads for ``unix://``.  Thread-safe; makes no thread of its own."""

    def __init__(
        self,
        conf: Any,
        url: Any,
        default_exchange: str | None = None,
        allowed_remote_exmods: Sequence[str] | None = None,
    ) -> None:
        """Reads its options and touches nothing yet.  Raises ``ConfigurationError``."""
        super().__init__(conf, url, default_exchange, list(allowed_remote_exmods or ()))
        self.settings: UnixSettings = read_settings(conf, url)
        self._directory = SocketDirectory(self.settings)
        self._pool = ConnectionPool(self._directory, self.settings)
        self._turn = itertools.count(random.randrange(1024))  # noqa: S311 - spreads load, guards nothing
        self._closed = threading.Event()

    # -- sending -----------------------------------------------------------------------

    def send(
        self,
        target: Any,
        ctxt: dict[str, Any],
        message: dict[str, Any],
        wait_for_reply: bool | None = None,
        timeout: float | None = None,
        call_monitor_timeout: float | None = None,
        retry: int | None = None,
        transport_options: Any = None,
    ) -> Any:
        """Deliver to one server, or with ``target.fanout`` to each of the topic.

        ``retry`` counts only when it is positive: further tries, 0.2 s apart, to find a server.
        Without a server of that name (or of the topic, when none is named) raises
        ``NobodyListens``; a fanout that reaches nobody is no error.  Never sends a message
        again that a server may have taken.

        Returns a call's result.  Raises ``MessageDeliveryFailure`` (its children say whether
        the message may have been taken), ``MessagingTimeout``, ``MessageTooLarge``, or what the
        server's method raised.
        """
        exchange = self._exchange(ctxt, message, bool(wait_for_reply), timeout, call_monitor_timeout)
        if target.fanout:
            self._fan_out(server_prefix(self._exchange_of(target), target.topic), exchange)
            return None
        tries = 1 + max(retry or 0, 0)
        for remaining in reversed(range(tries)):
            try:
                return self._send_once(target, exchange)
            except (NobodyListens, NotAccepted):
                if not remaining or self._is_late(exchange) or self._closed.wait(RETRY_PAUSE_S):
                    raise
        raise AssertionError("not reached")

    def send_notification(
        self, target: Any, ctxt: dict[str, Any], message: dict[str, Any], version: float, retry: int | None = None
    ) -> None:
        """Deliver to one subscriber of each pool.

        Raises ``NobodyListens`` without any subscriber: there is no queue to keep it in.
        """
        body = driver_common.serialize_msg(message) if version >= 2.0 else message
        prefix = server_prefix(self._exchange_of(target), target.topic)
        pools: dict[str, list[str]] = {}
        for name in self._directory.names(prefix):
            pools.setdefault(name.rpartition("+")[0], []).append(name)
        delivered = 0
        for names in pools.values():
            try:
                self._send_to_any(names, self._exchange(ctxt, body, False, None, None))
                delivered += 1
            except NobodyListens:
                continue
        if not delivered:
            raise NobodyListens(
                f"nobody listens for notifications on {target.topic!r} and the unix:// transport keeps none for later; "
                "set [oslo_messaging_notifications] driver = log, or its transport_url to a broker"
            )

    def _exchange(
        self,
        ctxt: dict[str, Any],
        message: dict[str, Any],
        is_call: bool,
        timeout_s: float | None,
        monitor_s: float | None,
    ) -> Exchange:
        body: dict[str, Any] = {"ctxt": ctxt, "msg": message}
        if is_call and monitor_s:
            body["monitor_s"] = monitor_s
        if not is_call:
            timeout_s = self.settings.handoff_timeout_s if timeout_s is None else timeout_s
        try:
            frame = wire.encode(Kind.CALL if is_call else Kind.CAST, body, max_bytes=self.settings.max_frame_bytes)
        except wire.FrameTooLarge as error:
            raise MessageTooLarge(str(error)) from None
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return Exchange(frame, is_call, deadline, monitor_s if is_call and monitor_s else None)

    def _send_once(self, target: Any, exchange: Exchange) -> Any:
        if target.server:
            name = server_name(self._exchange_of(target), target.topic, target.server)
            return self._reply_of(name, exchange)
        prefix = server_prefix(self._exchange_of(target), target.topic)
        return self._send_to_any(self._directory.names(prefix), exchange, target.topic)

    def _send_to_any(self, names: list[str], exchange: Exchange, topic: str = "") -> Any:
        """Try each in turn, beginning with another one each time, until one takes it."""
        first = next(self._turn) % len(names) if names else 0
        failure = NobodyListens(f"nobody listens for {topic!r} in {self._directory.path}")
        for name in names[first:] + names[:first]:
            try:
                return self._reply_of(name, exchange)
            except (NobodyListens, NotAccepted) as error:
                failure = error
        raise failure

    def _fan_out(self, prefix: str, exchange: Exchange) -> None:
        for name in self._directory.names(prefix):
            try:
                self._pool.deliver(name, exchange)
            except messaging.MessagingException as error:
                LOG.debug("a fanout did not reach %s: %s", name, error)

    def _reply_of(self, name: str, exchange: Exchange) -> Any:
        try:
            return wire.decode(self._pool.deliver(name, exchange))
        except RemoteFailure as failure:
            data = failure.data
        raise self._rebuild(data)

    def _rebuild(self, data: str) -> Exception:
        """The server's error again, if its module is allowed; oslo.messaging by itself also lets Python's own pass."""
        described = jsonutils.loads(data)
        if described.get("module") not in self._allowed_remote_exmods:
            return messaging.RemoteError(described.get("class"), described.get("message"), described.get("tb"))  # type: ignore[no-any-return]
        return driver_common.deserialize_remote_exception(data, self._allowed_remote_exmods)  # type: ignore[no-any-return]

    def _exchange_of(self, target: Any) -> str | None:
        """The target's exchange where it isn't the default, which stays out of names to keep them short."""
        return target.exchange if target.exchange != self._default_exchange else None

    @staticmethod
    def _is_late(exchange: Exchange) -> bool:
        return exchange.deadline is not None and time.monotonic() + RETRY_PAUSE_S >= exchange.deadline

    # -- listening ---------------------------------------------------------------------

    def listen(self, target: Any, batch_size: int, batch_timeout: float | None) -> UnixListener:
        """Listen as ``target.server`` of ``target.topic``, from now on; messages wait until it is started.

        Raises ``ConfigurationError``.
        """
        name = server_name(self._exchange_of(target), target.topic, target.server)
        return UnixListener(self._directory, [name], self.settings, batch_size=batch_size, batch_timeout=batch_timeout)

    def listen_for_notifications(
        self, targets_and_priorities: Any, pool: str | None, batch_size: int, batch_timeout: float | None
    ) -> UnixListener:
        """Subscribe to each topic and priority.  Raises ``ConfigurationError``."""
        names = [
            subscriber_name(self._exchange_of(target), f"{target.topic}.{priority}", pool)
            for target, priority in targets_and_priorities
        ]
        return UnixListener(
            self._directory,
            names,
            self.settings,
            is_notification=True,
            batch_size=batch_size,
            batch_timeout=batch_timeout,
        )

    def cleanup(self) -> None:
        """Close the client's connections.  Listeners belong to their servers, which end them.  May be repeated."""
        self._closed.set()
        self._pool.close()
