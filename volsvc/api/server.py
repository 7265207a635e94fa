"""The HTTP server: cheroot on threads, on TCP or on a unix socket, with an end that is bounded."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from cheroot import wsgi
from oslo_log import log as logging

from volsvc import __version__
from volsvc import exceptions as exc
from volsvc.api.auth import check_listen_is_safe
from volsvc.api.workers import Workers
from volsvc.options import Options

LOG = logging.getLogger(__name__)

WsgiApp = Callable[..., Iterable[bytes]]

# The kernel's limit for a socket's path, without its final NUL (unix(7)).
MAX_UNIX_PATH = 107
# sqlite3 gives the interpreter's lock away at each row, and then waits this long for it while
# other threads render; at Python's 5 ms eight clients listing at once get a fraction of what one gets.
SWITCH_INTERVAL_S = 0.001
_BACKLOG = 512
_MAX_HEADER_BYTES = 65536


class ApiServer:
    """Serves one WSGI application; may be started and stopped once."""

    def __init__(
        self,
        app: WsgiApp,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        unix_path: str | None = None,
        unix_mode: int = 0o600,
        threads: int = 32,
        client_timeout_s: float = 30.0,
    ) -> None:
        """``port`` 0 takes a free one.  ``unix_path`` replaces host and port.

        ``client_timeout_s``: how long a connection may be silent before it is closed.
        """
        bind_to: Any = unix_path if unix_path is not None else (host, port)
        self._server = _Server(bind_to, app, threads=threads, client_timeout_s=client_timeout_s, unix_mode=unix_mode)
        self._unix_path = unix_path
        self._unix_inode: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where it listens, with the real port once it has started: a URL, or ``unix:PATH``."""
        bound = self._server.bind_addr
        if isinstance(bound, str):
            return f"unix:{bound}"
        host, port = bound
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def port(self) -> int:
        """The TCP port; 0 before the start of a free one, and on a unix socket."""
        bound = self._server.bind_addr
        return 0 if isinstance(bound, str) else int(bound[1])

    def start(self) -> None:
        """Bind, listen, and serve in threads; connections are taken when this returns.

        Lowers the interpreter's switch interval, which is the whole process's.  Raises
        ``ConfigurationError`` when the address can't be had.
        """
        if self._unix_path is not None:
            _clear_stale_socket(self._unix_path)
        try:
            self._server.prepare()
        except OSError as error:
            raise exc.ConfigurationError(
                reason=f"the API can't listen on {self.address}: {_why(self._server.bind_error or error)}"
            ) from error
        if self._unix_path is not None:
            found = os.stat(self._unix_path)
            self._unix_inode = (found.st_dev, found.st_ino)
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        self._thread = threading.Thread(target=self._server.serve, name="api-accept", daemon=True)
        self._thread.start()

    def reload(self, app: WsgiApp, *, threads: int, client_timeout_s: float, unix_mode: int) -> None:
        """Answer new requests with ``app`` and these limits; requests in progress end on the old ones."""
        self._server.wsgi_app = app
        self._server.timeout = max(1, round(client_timeout_s))
        self._server.requests.resize(threads)
        if self._unix_path is not None:
            os.chmod(self._unix_path, unix_mode)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Take no more connections and let requests in progress finish within ``timeout_s``.

        What is not done by then is abandoned: its thread does not keep the process.  Stopping
        twice does nothing.
        """
        deadline = time.monotonic() + timeout_s
        self._server.shutdown_timeout = timeout_s
        self._server.stop()
        if self._thread is not None:
            self._thread.join(max(0.1, deadline - time.monotonic()))
        self._remove_socket()

    def _remove_socket(self) -> None:
        """Only if it is still ours: a successor may already listen under the same name."""
        if self._unix_path is None or self._unix_inode is None:
            return
        try:
            found = os.lstat(self._unix_path)
            if (found.st_dev, found.st_ino) == self._unix_inode:
                os.unlink(self._unix_path)
        except FileNotFoundError:
            pass


def build_server(app: WsgiApp, settings: Options) -> ApiServer:
    """The server that the options ask for, not started.

    Raises ``ConfigurationError`` for an address that isn't safe with ``auth_strategy``.
    """
    check_listen_is_safe(settings)
    unix_path: str | None = settings.osapi_volume_listen_unix or None
    if unix_path is not None:
        unix_path = os.path.abspath(os.path.expanduser(unix_path))
        if len(os.fsencode(unix_path)) > MAX_UNIX_PATH:
            raise exc.ConfigurationError(
                reason=f"osapi_volume_listen_unix = {unix_path} has more than {MAX_UNIX_PATH} bytes; use a shorter path"
            )
    return ApiServer(
        app,
        settings.osapi_volume_listen,
        settings.osapi_volume_listen_port,
        unix_path=unix_path,
        unix_mode=int(settings.osapi_volume_listen_unix_mode, 8),
        threads=settings.api_threads,
        client_timeout_s=settings.api_request_timeout,
    )


def _why(error: OSError) -> str:
    """What is wrong with an address, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return "another program has that port; stop it, or set osapi_volume_listen_port to another one"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine doesn't have that address; mend osapi_volume_listen"
    if error.errno == errno.EACCES:
        return "only root may listen on that port; set osapi_volume_listen_port to one above 1023"
    return exc.describe(error)


def _clear_stale_socket(path: str) -> None:
    """Remove the socket that a killed server left; raises ``ConfigurationError`` if it is alive or no socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise exc.ConfigurationError(reason=f"osapi_volume_listen_unix: {path} exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                os.unlink(path)
                return
            raise exc.ConfigurationError(reason=f"osapi_volume_listen_unix: {path}: {error.strerror}") from error
    raise exc.ConfigurationError(reason=f"osapi_volume_listen_unix: another process already listens on {path}")


class _Server(wsgi.Server):
    """cheroot's server with our limits, our log, and the socket's mode."""

    protocol = "HTTP/1.1"
    expiration_interval = 0.2
    max_request_header_size = _MAX_HEADER_BYTES

    def __init__(self, bind_to: Any, app: WsgiApp, *, threads: int, client_timeout_s: float, unix_mode: int) -> None:
        super().__init__(
            bind_to,
            app,
            numthreads=threads,
            server_name=f"volsvc/{__version__}",
            request_queue_size=_BACKLOG,
            timeout=max(1, round(client_timeout_s)),
        )
        # Idle connections cost a file descriptor each and no thread.
        self.keep_alive_conn_limit = max(256, 4 * threads)
        # cheroot's own pool waits without a bound for a worker that doesn't come back.
        self.requests = Workers(self, threads)
        self._unix_mode = unix_mode
        self.bind_error: OSError | None = None

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:
        """Remembers why not: what cheroot raises at the end has no errno."""
        try:
            listener: socket.socket = super().bind(family, type, proto)
        except OSError as error:
            self.bind_error = error
            raise
        return listener

    def bind_unix_socket(self, bind_addr: str) -> socket.socket:
        """Never more permissive than asked for, not even for the moment between bind and chmod."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # On Linux the mode of the file that bind makes is that of the socket's inode.
            os.fchmod(listener.fileno(), self._unix_mode)
            listener.bind(bind_addr)
            os.chmod(bind_addr, self._unix_mode)
        except OSError:
            listener.close()
            raise
        self.socket = listener
        return listener

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        LOG.log(level, "HTTP server: %s", msg, exc_info=traceback)
