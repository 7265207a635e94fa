"""The directory where servers of the ``unix://`` transport are found.

Each server has one socket in it, named after its topic and its own name, so that looking at
the directory is all the discovery there is.  A server binds to a temporary name, listens, and
renames: what stands under a final name was listening when it came there, and replaces what a
dead or departing predecessor left.  A lock file keeps two processes from changing names at a
time, so that nobody removes a successor's socket.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import os
import secrets
import socket
import stat
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

from volsvc import exceptions as exc
from volsvc.rpc.unix_settings import UnixSettings

LOG = logging.getLogger(__name__)

MAX_PATH_BYTES = 107  # sun_path has 108 with the final NUL, unix(7)
BACKLOG = 1024
_LOCK_NAME = ".lock"
_TEMPORARY_PREFIX = ".new-"
_LOCK_RETRY_S = 0.01


def _quoted(part: str) -> str:
    # Leaves ':', '=' and '+' to separate the parts, and never gives a leading dot.
    quoted = urllib.parse.quote(part, safe="@")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


def server_name(exchange: str | None, topic: str, server: str) -> str:
    """File name of a server's socket; ``exchange`` None stands for the transport's default."""
    return server_prefix(exchange, topic) + _quoted(server)


def server_prefix(exchange: str | None, topic: str) -> str:
    """What the names of all servers of a topic begin with."""
    return (f"{_quoted(exchange)}=" if exchange else "") + f"{_quoted(topic)}:"


def subscriber_name(exchange: str | None, topic: str, pool: str | None) -> str:
    """A new name for one listener to notifications; those of one pool share the messages."""
    return f"{server_prefix(exchange, topic)}{_quoted(pool or '')}+{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A listening socket and the file that leads to it."""

    sock: socket.socket
    name: str
    inode: int


class SocketDirectory:
    """Names, permissions and the lock of one directory.  Thread-safe; holds nothing open."""

    def __init__(self, settings: UnixSettings) -> None:
        self._settings = settings
        self.path = settings.directory

    # -- for clients ------------------------------------------------------------------

    def path_of(self, name: str) -> str:
        """Full path of a socket.  Raises ``ConfigurationError`` when it is too long for the kernel."""
        path = os.path.join(self.path, name)
        size = len(os.fsencode(path))
        if size > MAX_PATH_BYTES:
            raise exc.ConfigurationError(
                reason=f"the socket's path {path} has {size} bytes and a socket's path has at most {MAX_PATH_BYTES}; "
                "choose a shorter directory in transport_url (or runtime_path, which it is under by default), "
                "or a shorter host or backend name"
            )
        return path

    def names(self, prefix: str) -> list[str]:
        """Servers (or subscribers) under a prefix, living or not, sorted; none when there is no directory."""
        try:
            entries = os.listdir(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in entries if name.startswith(prefix))

    # -- for servers ------------------------------------------------------------------

    def prepare(self) -> None:
        """Create the directory, or refuse one that others can tamper with.  May be repeated.

        Raises ``ConfigurationError``.
        """
        settings = self._settings
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
            found = os.lstat(self.path)
        except OSError as error:
            raise exc.ConfigurationError(
                reason=f"the socket directory {self.path} of transport_url can't be made: {error.strerror}"
            ) from error
        if not stat.S_ISDIR(found.st_mode):
            raise exc.ConfigurationError(
                reason=f"{self.path} of transport_url is not a directory; remove it or choose another"
            )
        if found.st_uid != os.geteuid():
            raise exc.ConfigurationError(
                reason=f"the socket directory {self.path} of transport_url belongs to uid {found.st_uid}, and this "
                f"process runs as uid {os.geteuid()}; choose a directory of its own"
            )
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o022 & ~settings.directory_mode:
            raise exc.ConfigurationError(
                reason=f"others may write to the socket directory {self.path} of transport_url (mode {mode:04o}), so "
                f"its sockets can't be trusted; empty it and chmod it to {settings.directory_mode:04o}"
            )
        try:
            if settings.directory_group is not None and found.st_gid != _gid_of(settings.directory_group):
                os.chown(self.path, -1, _gid_of(settings.directory_group))
            if mode != settings.directory_mode:
                os.chmod(self.path, settings.directory_mode)
        except OSError as error:
            raise exc.ConfigurationError(
                reason=f"the socket directory {self.path} can't be given mode {settings.directory_mode:04o} and group "
                f"{settings.directory_group}: {error.strerror}"
            ) from error

    def bind(self, name: str) -> BoundSocket:
        """Listen under this name, taking it over from whoever has it.

        Removes what dead servers left in the directory.  Raises ``ConfigurationError``.
        """
        path = self.path_of(name)
        temporary = self.path_of(_TEMPORARY_PREFIX + secrets.token_hex(4))
        self.prepare()
        with self._locked():
            self._remove_dead()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.bind(temporary)
                os.chmod(temporary, self._settings.socket_mode)
                if self._settings.directory_group is not None:
                    os.chown(temporary, -1, _gid_of(self._settings.directory_group))
                sock.listen(BACKLOG)
                sock.setblocking(False)
                inode = os.lstat(temporary).st_ino
                os.rename(temporary, path)
            except BaseException:
                sock.close()
                _remove(temporary)
                raise
        return BoundSocket(sock, name, inode)

    def release(self, bound: BoundSocket) -> None:
        """Remove the name unless a successor has it by now.  The socket stays open.  May be repeated."""
        path = self.path_of(bound.name)
        try:
            with self._locked():
                if os.lstat(path).st_ino == bound.inode:
                    os.unlink(path)
        except FileNotFoundError:
            pass
        except (OSError, exc.ConfigurationError) as error:
            LOG.warning("the socket %s could not be removed, the next server removes it: %s", path, error)

    # -- the rest ---------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        deadline = time.monotonic() + self._settings.handoff_timeout_s
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(os.path.join(self.path, _LOCK_NAME), flags, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise exc.ConfigurationError(
                            reason=f"another process has held {self.path}/{_LOCK_NAME} for "
                            f"{self._settings.handoff_timeout_s:g} s; see which one with fuser, it may be stopped"
                        ) from None
                    time.sleep(_LOCK_RETRY_S)
            yield
        finally:
            os.close(lock)

    def _remove_dead(self) -> None:
        """Under the lock: remove temporary names, and names where nobody listens any more."""
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            if name == _LOCK_NAME or not _is_socket(path):
                continue
            if name.startswith(_TEMPORARY_PREFIX) or is_dead(path):
                LOG.info("removing the socket %s, which nobody listens on", path)
                _remove(path)


def is_dead(path: str) -> bool:
    """Whether nobody listens on this socket; False when that can't be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
    return False


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _gid_of(group: str) -> int:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise exc.ConfigurationError(
            reason=f"[oslo_messaging_unix] directory_group = {group}: there is no such group"
        ) from None
