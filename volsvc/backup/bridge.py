"""The way to a volume on another host: a local qemu-storage-daemon that speaks NBD over TLS to it.

Python's own TLS has no pre-shared keys, so the bridge connects with the key it was given and exports
what it finds on a private unix socket.  It is a child of this process and ends with it; one that was
left all the same (its directory's lock is free) is ended at the next start.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from volsvc import exceptions as exc
from volsvc.backup.nbd_blocks import NbdSink, NbdSource
from volsvc.targets.file_locks import try_lock
from volsvc.targets.nbd_readers import TLS_PRIORITY
from volsvc.targets.qsd_process import BINARY, ExporterPaths, QsdProcess, one_line, require_tool

LOG = logging.getLogger(__name__)

_START_TIMEOUT_S = 30.0
_POLL_S = 0.005
_END_TIMEOUT_S = 10.0
_NODE = "far"


class Bridge:
    """One connection to one export of another host.

    ``data`` is that of an ``nbd+tls`` connection_info; ``directory`` is private to this service, and short, because
    a socket is made below it; ``reconnect_s``: how long requests wait for a connection that broke.  Raises
    ``VolumeAccessError`` when the other side isn't there or doesn't take the key.
    """

    def __init__(self, data: Mapping[str, Any], directory: str, *, reconnect_s: int) -> None:
        self.name = f"nbd+tls://{data['host']}:{data['port']}/{data['export']}"
        control = os.path.join(directory, secrets.token_hex(4))
        self._paths = ExporterPaths(control, os.path.join(control, "s"))
        self._ended = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._start_error: BaseException | None = None
        self._said = ""
        self._is_closed = False
        self._lock: int | None = None
        # A child that is told of its parent's death is told of that of the thread which started it.
        self._thread = threading.Thread(target=self._keep, args=(data, reconnect_s), name="nbd-bridge", daemon=True)
        try:
            require_tool(BINARY)
            self._prepare(data)
            self._thread.start()
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    @property
    def uri(self) -> str:
        """Where ``NbdSource`` and ``NbdSink`` connect to."""
        return f"nbd+unix:///?socket={quote(self._paths.socket, safe='/')}"

    def close(self) -> None:
        """Hang up and remove the key.  Repeatable."""
        self._is_closed = True
        process = self._process
        if process is not None and process.poll() is None:
            # Whoever writes has synced what must not be lost.
            process.kill()
        if self._thread.is_alive() and not self._ended.wait(_END_TIMEOUT_S):
            LOG.warning("%s: its bridge (pid %s) does not end", self.name, process.pid if process else None)
        _remove(self._paths)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _prepare(self, data: Mapping[str, Any]) -> None:
        try:
            os.makedirs(self._paths.control, mode=0o700)
            self._lock = try_lock(self._paths.lock)
            _write_key(self._paths.keys, data)
            pathlib.Path(self._paths.starting).touch(mode=0o600)
        except OSError as error:
            raise exc.VolumeAccessError(
                reason=f"{self.name} needs a key and a socket in {self._paths.control}: {exc.describe(error)}; is "
                "there room for them?"
            ) from error

    def _keep(self, data: Mapping[str, Any], reconnect_s: int) -> None:
        try:
            self._process = subprocess.Popen(
                _command(self._paths, data, reconnect_s),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
                cwd="/",
            )
            if self._is_closed:  # meanwhile, when there was no process to end yet
                self._process.kill()
            self._said = self._process.communicate()[1]
        except BaseException as error:  # noqa: BLE001 - raised again where the bridge is awaited
            self._start_error = error
        finally:
            self._ended.set()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        # The pid file is written when everything that was asked for is there.
        while not _has_text(self._paths.pidfile) or not _answers(self._paths.socket):
            if self._ended.wait(_POLL_S):
                reason = exc.describe(self._start_error) if self._start_error else _last_words(self._said)
                raise exc.VolumeAccessError(reason=f"{self.name} can't be opened: {reason}") from self._start_error
            if time.monotonic() > deadline:
                raise exc.VolumeAccessError(
                    reason=f"{self.name} did not answer within {_START_TIMEOUT_S:g} s; is the volume's host reachable "
                    "from here (target_ip_address and nbd_remote_ports there)?"
                )
        os.unlink(self._paths.starting)


class BridgedSource(NbdSource):
    """Reads an export of another host; arguments as ``Bridge``."""

    def __init__(self, data: Mapping[str, Any], directory: str, *, reconnect_s: int) -> None:
        self._bridge = Bridge(data, directory, reconnect_s=reconnect_s)
        try:
            super().__init__(self._bridge.uri, self._bridge.name)
        except BaseException:
            self._bridge.close()
            raise

    def close(self) -> None:
        super().close()
        self._bridge.close()


class BridgedSink(NbdSink):
    """Writes an export of another host; arguments as ``Bridge``."""

    def __init__(self, data: Mapping[str, Any], directory: str, *, reconnect_s: int) -> None:
        self._bridge = Bridge(data, directory, reconnect_s=reconnect_s)
        try:
            super().__init__(self._bridge.uri, self._bridge.name)
        except BaseException:
            self._bridge.close()
            raise

    def close(self) -> None:
        super().close()
        self._bridge.close()


def end_leftovers(directory: str) -> list[str]:
    """End the bridges in ``directory`` whose owner is gone, keys and all; returns their names.  Repeatable."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    ended = []
    for name in names:
        control = os.path.join(directory, name)
        paths = ExporterPaths(control, os.path.join(control, "s"))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            lock = try_lock(paths.lock)
            if lock is None:
                continue
            try:
                QsdProcess(f"the bridge {name}", paths).end(is_hanging=True)
                ended.append(name)
            finally:
                os.close(lock)
    return ended


def _command(paths: ExporterPaths, data: Mapping[str, Any], reconnect_s: int) -> list[str]:
    is_read_only = data["access_mode"] == "ro"
    credentials = {
        "qom-type": "tls-creds-psk",
        "id": "tls",
        "dir": paths.control,
        "endpoint": "client",
        "username": data["psk_identity"],
        "priority": TLS_PRIORITY,
    }
    far = {
        "driver": "nbd",
        "node-name": _NODE,
        "server": {"type": "inet", "host": data["host"], "port": str(data["port"]), "keep-alive": True},
        "export": data["export"],
        "tls-creds": "tls",
        "reconnect-delay": reconnect_s,
        "read-only": is_read_only,
        "auto-read-only": False,
        "discard": "unmap",
    }
    server = {"addr": {"type": "unix", "path": paths.socket}, "max-connections": 0}
    export = {"type": "nbd", "id": "bridge", "node-name": _NODE, "name": "", "writable": not is_read_only}
    ends_with_us = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    return [
        *ends_with_us,
        BINARY,
        f"--pidfile={paths.pidfile}",
        f"--object={json.dumps(credentials)}",
        f"--blockdev={json.dumps(far)}",
        f"--nbd-server={json.dumps(server)}",
        f"--export={json.dumps(export)}",
    ]


def _write_key(path: str, data: Mapping[str, Any]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(f"{data['psk_identity']}:{data['psk_key']}\n")


def _remove(paths: ExporterPaths) -> None:
    for path in (paths.keys, paths.socket, paths.pidfile, paths.starting, paths.lock):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(paths.control)


def _last_words(text: str) -> str:
    """What the program said, without the arguments that it repeats first."""
    return one_line(text).rpartition("}: ")[2] or "it said nothing"


def _has_text(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except OSError:
        return False


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
