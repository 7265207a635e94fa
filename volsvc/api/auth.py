"""Who is asking: a user, perhaps a project, and whether an admin, from a request's headers."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import os
import secrets
import socket
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import falcon
from oslo_log import log as logging

from volsvc import exceptions as exc
from volsvc.options import Options

LOG = logging.getLogger(__name__)

DEFAULT_USER = "admin"
DEFAULT_PROJECT = "admin"
ADMIN_ROLES = ("admin", "member", "reader")
USER_ROLES = ("member", "reader")

# What keystoneauth's "none" plugin sends as a token.
_NO_TOKENS = frozenset({"", "notused"})
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Identity:
    """``project_id`` None: this identity is bound to no project, the URL's counts."""

    user_id: str
    project_id: str | None
    is_admin: bool

    @property
    def roles(self) -> tuple[str, ...]:
        return ADMIN_ROLES if self.is_admin else USER_ROLES


class Authenticator(Protocol):
    def identify(self, req: falcon.Request) -> Identity:
        """Raises ``Unauthorized``."""


class NoAuth:
    """Everyone is an admin; a token ``USER:PROJECT`` only says as whom they want to be known."""

    def identify(self, req: falcon.Request) -> Identity:
        token = req.get_header("X-Auth-Token") or ""
        if token in _NO_TOKENS:
            return Identity(DEFAULT_USER, None, True)
        user, _, project = token.partition(":")
        if len(user) > _MAX_NAME or len(project) > _MAX_NAME:
            raise exc.Unauthorized(reason=f"a user or project in X-Auth-Token has more than {_MAX_NAME} characters")
        return Identity(user or DEFAULT_USER, project or None, True)


class HttpBasic:
    """Users and bcrypt hashes from a file, read again when it changes.

    A bcrypt check takes some 50 ms or more by design, so that a password which was right is
    remembered, as a keyed hash under a key that lives only in this process, until the file changes.
    """

    _REMEMBERED = 1024

    def __init__(self, user_file: str, admins: frozenset[str]) -> None:
        """Raises ``ConfigurationError`` when the file or the bcrypt library is missing."""
        try:
            import bcrypt
        except ImportError as error:
            raise exc.ConfigurationError(
                reason="auth_strategy = http_basic needs the Python package bcrypt (volsvc[basic-auth]); install it"
            ) from error
        self._bcrypt = bcrypt
        self._path = user_file
        self._admins = admins
        self._lock = threading.Lock()
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._stamp: tuple[int, int, int] | None = None
        self._hashes: dict[str, bytes] = {}
        try:
            self._read()
        except OSError as error:
            raise exc.ConfigurationError(
                reason=f"http_basic_auth_user_file {user_file} can't be read: {error.strerror}"
            ) from error
        # Checked when a user is unknown, so that the time of an answer doesn't tell who exists.
        self._nobody = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt(self._rounds()))

    def identify(self, req: falcon.Request) -> Identity:
        user, password = _basic_credentials(req.get_header("Authorization"))
        if not self._is_right(user, password):
            LOG.warning("A request with a wrong user or password came from %s", req.remote_addr)
            raise exc.Unauthorized(reason="wrong user or password")
        is_admin = user in self._admins
        return Identity(user, None if is_admin else user, is_admin)

    def _is_right(self, user: str, password: bytes) -> bool:
        self._read_if_changed()
        proof = hmac.digest(self._key, user.encode() + b"\0" + password, "sha256")
        with self._lock:
            hashed = self._hashes.get(user)
            if hashed is not None and proof in self._known:
                self._known.move_to_end(proof)
                return True
        is_right = self._bcrypt.checkpw(password[:72], hashed or self._nobody)
        if not is_right or hashed is None:
            return False
        with self._lock:
            if self._hashes.get(user) == hashed:
                self._known[proof] = None
                while len(self._known) > self._REMEMBERED:
                    self._known.popitem(last=False)
        return True

    def _read_if_changed(self) -> None:
        try:
            if _stamp_of(self._path) != self._stamp:
                self._read()
        except OSError as error:
            LOG.error("http_basic_auth_user_file %s can't be read, the users before stay: %s", self._path, error)

    def _read(self) -> None:
        stamp = _stamp_of(self._path)
        hashes: dict[str, bytes] = {}
        with open(self._path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                user, colon, hashed = line.strip().partition(":")
                if not user or user.startswith("#"):
                    continue
                if not colon or not hashed.startswith(("$2a$", "$2b$", "$2y$")):
                    LOG.error("%s line %d is not USER:BCRYPT-HASH; this user can't log in", self._path, number)
                    continue
                hashes[user] = hashed.encode()
        with self._lock:
            self._hashes = hashes
            self._known.clear()
            self._stamp = stamp

    def _rounds(self) -> int:
        for hashed in self._hashes.values():
            return min(int(hashed[4:6]), 14)
        return 12


def _stamp_of(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _basic_credentials(header: str | None) -> tuple[str, bytes]:
    if not header:
        raise exc.Unauthorized(reason="the request has no Authorization header")
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        raise exc.Unauthorized(reason="only HTTP basic authentication is offered")
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        name = user.decode()
    except (binascii.Error, ValueError) as error:
        raise exc.Unauthorized(reason="the Authorization header can't be read") from error
    if not colon or not name or len(name) > _MAX_NAME or b"\0" in password:
        raise exc.Unauthorized(reason="the Authorization header can't be read")
    return name, password


def build_authenticator(settings: Options) -> Authenticator:
    """The one that ``auth_strategy`` names.  Raises ``ConfigurationError``."""
    strategy = settings.auth_strategy
    if strategy == "noauth":
        return NoAuth()
    if strategy == "http_basic":
        return HttpBasic(settings.http_basic_auth_user_file, frozenset(settings.http_basic_admin_users))
    raise exc.ConfigurationError(
        reason=f"auth_strategy = {strategy} is not available in this version; use noauth or http_basic"
    )


def check_listen_is_safe(settings: Options) -> None:
    """Raises ``ConfigurationError`` when ``noauth`` would listen where other machines reach it."""
    if settings.auth_strategy != "noauth" or settings.osapi_volume_listen_unix:
        return
    host = settings.osapi_volume_listen
    if not _is_loopback(host):
        raise exc.ConfigurationError(
            reason=f"osapi_volume_listen = {host} is not a loopback address, and with auth_strategy = noauth everyone "
            "who reaches it is an admin; use 127.0.0.1, osapi_volume_listen_unix, or auth_strategy = http_basic"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)
