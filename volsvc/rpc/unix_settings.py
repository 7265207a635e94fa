"""What a ``unix://`` transport is built from: its URL and options, read once and frozen."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

from volsvc import exceptions as exc
from volsvc.conf import messaging as conf_messaging
from volsvc.rpc.library import driver_common

ROOT_UID = 0
_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


@dataclass(frozen=True, slots=True)
class UnixSettings:
    """``directory`` is absolute; ``directory_mode`` a number; times are seconds."""

    directory: str
    directory_mode: int = 0o700
    directory_group: str | None = None
    allowed_uids: frozenset[int] = frozenset()
    max_frame_bytes: int = 4 * 1024 * 1024
    max_connections: int = 256
    max_pending: int = 1024
    max_idle_connections: int = 16
    handoff_timeout_s: float = 5.0

    @property
    def socket_mode(self) -> int:
        """Who may enter the directory may connect."""
        return 0o660 if self.directory_mode & 0o010 else 0o600

    def is_trusted(self, uid: int) -> bool:
        """Whether a peer of this uid may talk to us: our own, root's, or an allowed one."""
        return uid in (os.geteuid(), ROOT_UID) or uid in self.allowed_uids


def peer_uid(sock: socket.socket) -> int:
    """The uid of the process at the other end, as the kernel noted it (SO_PEERCRED, unix(7))."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(raw)
    return int(uid)


def read_settings(conf: Any, url: Any) -> UnixSettings:
    """From a ``ConfigOpts`` and a parsed ``TransportURL``; registers the options.

    Raises ``ConfigurationError`` when the URL has a host or no directory.
    """
    conf.register_opts(conf_messaging.OPTS, group=conf_messaging.GROUP)
    if url.hosts or not url.virtual_host:
        raise exc.ConfigurationError(
            reason=f"transport_url = {url} must name the socket directory: unix:///absolute/directory"
        )
    values = driver_common.ConfigOptsProxy(conf, url, conf_messaging.GROUP)[conf_messaging.GROUP]
    return UnixSettings(
        directory=os.path.normpath("/" + url.virtual_host.lstrip("/")),
        directory_mode=int(values["directory_mode"], 8),
        directory_group=values["directory_group"],
        allowed_uids=frozenset(values["allowed_uids"]),
        max_frame_bytes=values["max_frame_bytes"],
        max_connections=values["max_connections"],
        max_pending=values["max_pending"],
        max_idle_connections=values["max_idle_connections"],
        handoff_timeout_s=values["handoff_timeout"],
    )
