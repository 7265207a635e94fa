"""Exports for readers on other hosts: NBD over TCP with TLS, for one reader each.

Every reader gets a qemu-storage-daemon of its own with a key of its own (TLS-PSK), which ends
with its export; so nothing listens on the network while nobody reads from afar, and what one
reader was given opens nothing else.  As an exporter of attachments does, it outlives the
service and is found again by its files.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import secrets
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc.drivers.readers import NBD_TLS, Reader
from volsvc.targets.qsd import TOP_NODE, disk_arguments
from volsvc.targets.qsd_process import ExporterPaths, QsdProcess

_KEY_BYTES = 32
#: GnuTLS's words.  It prefers ChaCha20 for these keys, which takes four times as long as AES where the processor
#: has that, and then bounds the whole transfer.
TLS_PRIORITY = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CHACHA20-POLY1305"
_CONNECTIONS = 16


class ReaderExports:
    """All exports for readers of one backend.

    ``control`` is a directory private to the service; ``address`` is this host's, as readers reach
    it; ``ports`` are those that may be used, None for any; ``aio`` is QEMU's.
    """

    def __init__(self, control: str, address: str, ports: range | None) -> None:
        self._control = control
        self._address = address
        self._ports = ports

    def open(self, path: str, reader: Reader, aio: str) -> Mapping[str, Any]:
        """Serve the raw image at ``path``; the same answer as before when it is served already."""
        process = self._process(reader.id)
        wanted = {"path": path, "access_mode": reader.access_mode}
        with process.locked():
            note = _read_note(process)
            if process.is_usable and wanted.items() <= note.items():
                return _connection_info(reader, note, _read_key(process))
            process.stop()
            key = secrets.token_hex(_KEY_BYTES)
            _write_private(process.paths.keys, f"{reader.id}:{key}\n")
            try:
                note = self._start(process, reader, aio, {**wanted, "host": self._address})
            except BaseException:
                process.end()
                raise
            return _connection_info(reader, note, key)

    def close(self, reader_id: str) -> None:
        """Cut the reader and remove its key.  Repeatable."""
        process = self._process(reader_id)
        if os.path.isdir(process.paths.control):
            with process.locked():
                process.end()

    def close_those_of(self, path: str) -> None:
        for reader_id in self.readers_of(path):
            self.close(reader_id)

    def readers_of(self, path: str) -> tuple[str, ...]:
        """Ids of the readers of that image that are served now."""
        processes = [(reader_id, self._process(reader_id)) for reader_id in sorted(self.ids())]
        return tuple(
            reader_id
            for reader_id, process in processes
            if process.is_alive and _read_note(process).get("path") == path
        )

    def ids(self) -> frozenset[str]:
        """Every reader that something is left of."""
        try:
            names = os.listdir(self._control)
        except FileNotFoundError:
            return frozenset()
        found = set()
        for name in names:
            with contextlib.suppress(ValueError):
                found.add(str(uuid.UUID(hex=name)))
        return frozenset(found)

    def _process(self, reader_id: str) -> QsdProcess:
        try:
            name = uuid.UUID(reader_id).hex
        except ValueError:
            raise exc.InvalidInput(reason=f"{reader_id!r} is not a UUID, so it can't name a reader") from None
        control = os.path.join(self._control, name)
        return QsdProcess(f"reader {reader_id}", ExporterPaths(control, os.path.join(control, "s")))

    def _start(self, process: QsdProcess, reader: Reader, aio: str, note: dict[str, Any]) -> dict[str, Any]:
        """Start it on a free port; returns the note with that."""
        with _listening(note["host"], self._ports) as listener:
            note = {**note, "port": listener.getsockname()[1]}
            _write_private(process.paths.note, json.dumps(note))
            process.start_with(_arguments(process, reader, aio, note, listener.fileno()), [listener.fileno()])
            process.finish_start()
        return note


def parse_ports(text: str | None) -> range | None:
    """The range that ``FIRST-LAST`` means, None for none.  Raises ``DriverConfigurationError``."""
    if not text:
        return None
    first, dash, last = text.partition("-")
    try:
        ports = range(int(first), int(last if dash else first) + 1)
    except ValueError:
        ports = range(0)
    if not ports or ports.start < 1 or ports.stop > 1 << 16:
        raise exc.DriverConfigurationError(
            reason=f"nbd_remote_ports is {text!r}; it must be PORT or FIRST-LAST, of 1 to 65535"
        )
    return ports


def check_address(address: str) -> None:
    """Raise ``DriverConfigurationError`` for an address that no reader could connect to."""
    if address in ("0.0.0.0", "::"):  # noqa: S104 - refused here
        raise exc.DriverConfigurationError(
            reason=f"target_ip_address is {address}, which readers can't connect to; give one address of this host"
        )


def _arguments(process: QsdProcess, reader: Reader, aio: str, note: Mapping[str, Any], listener: int) -> list[str]:
    credentials = {
        "qom-type": "tls-creds-psk",
        "id": "tls",
        "dir": process.paths.control,
        "endpoint": "server",
        "priority": TLS_PRIORITY,
    }
    server = {
        "addr": {"type": "fd", "str": str(listener)},
        "tls-creds": "tls",
        "max-connections": _CONNECTIONS,
    }
    export = {
        "type": "nbd",
        "id": "reader",
        "node-name": TOP_NODE,
        "name": reader.id,
        "writable": not reader.is_read_only,
    }
    return [
        f"--object={json.dumps(credentials)}",
        *disk_arguments(note["path"], aio, is_read_only=reader.is_read_only),
        f"--nbd-server={json.dumps(server)}",
        f"--export={json.dumps(export)}",
    ]


def _connection_info(reader: Reader, note: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {
        "driver_volume_type": NBD_TLS,
        "data": {
            "host": note["host"],
            "port": note["port"],
            "export": reader.id,
            "psk_identity": reader.id,
            "psk_key": key,
            "access_mode": reader.access_mode,
        },
    }


@contextlib.contextmanager
def _listening(address: str, ports: range | None) -> Iterator[socket.socket]:
    """A socket that listens on a free port.

    Made here and handed down, because what is accepted inherits its TCP_NODELAY: before QEMU 8.1 the server
    doesn't ask for it, and each answer over TLS then waits 40 ms for an acknowledgement.
    """
    candidates: Iterable[int] = [0] if ports is None else random.sample(ports, len(ports))
    for candidate in candidates:
        family, kind, protocol, _, place = _resolved(address, candidate)
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                listener.bind(place)
                listener.listen(_CONNECTIONS)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise exc.DriverError(
                        reason=f"{address} is no address of this host; set target_ip_address to one that is"
                    ) from error
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                continue
            yield listener
            return
    where = f"{ports.start}-{ports.stop - 1}" if ports else "any"
    raise exc.DriverError(
        reason=f"no port of {address} is free for another reader (nbd_remote_ports: {where}); give more"
    )


def _resolved(address: str, port: int) -> tuple[Any, ...]:
    try:
        return socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise exc.DriverError(reason=f"target_ip_address {address} has no address: {error.strerror}") from error


def _read_note(process: QsdProcess) -> dict[str, Any]:
    try:
        with open(process.paths.note) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_key(process: QsdProcess) -> str:
    with open(process.paths.keys) as file:
        return file.read().strip().partition(":")[2]


def _write_private(path: str, text: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
