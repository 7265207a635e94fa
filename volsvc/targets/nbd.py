"""The NBD target: a qemu-storage-daemon per attached volume, one export per attachment.

Each attachment has an export of its own name on the volume's unix socket, so that one client
can be cut without the others.  The exporter ends with its last export and otherwise outlives
the service, which finds it again by its files (``qsd.py``).  The exports of a running exporter
are asked of it, never remembered.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers.base import Work
from volsvc.drivers.readers import Reader
from volsvc.targets import clients, nbd_options, point_in_time, qsd
from volsvc.targets.base import BaseTarget, TargetContext
from volsvc.targets.file_locks import locked
from volsvc.targets.nbd_exports import Exports
from volsvc.targets.nbd_readers import ReaderExports, check_address, parse_ports
from volsvc.targets.qmp import QmpUnreachable
from volsvc.targets.qsd_process import ExporterPaths

LOG = logging.getLogger(__name__)

_SOCKET_PATH_BYTES = 107  # sun_path without its end, unix(7)
_COPY_END_TIMEOUT_S = 60.0


class NbdTarget(BaseTarget):
    growth = "reconnect"
    storage_protocol = "nbd"
    can_open_remotely = True

    @classmethod
    def declared_options(cls) -> Sequence[cfg.Opt]:
        return nbd_options.OPTS

    def __init__(self, context: TargetContext) -> None:
        super().__init__(context)
        tag = hashlib.sha256(context.host.encode()).hexdigest()[:6]
        self._control = os.path.join(context.runtime_path, f"qsd-{tag}")
        self._sockets = self.options.nbd_socket_directory or os.path.join(context.runtime_path, "nbd")
        self._aio = self.options.nbd_aio
        self._gid: int | None = None
        self._readers_control = os.path.join(context.runtime_path, f"rdr-{tag}")

    # -- set-up ------------------------------------------------------------------------------

    def check_for_setup_error(self) -> None:
        self._check_paths()
        check_address(self.options.target_ip_address)
        parse_ports(self.options.nbd_remote_ports)
        if self.options.nbd_socket_group:
            try:
                self._gid = grp.getgrnam(self.options.nbd_socket_group).gr_gid
            except KeyError:
                raise exc.DriverConfigurationError(
                    reason=f"nbd_socket_group names {self.options.nbd_socket_group!r}, which is no group of this host"
                ) from None
        qsd.check_installed()
        if self._aio == "auto":
            self._aio = "io_uring" if qsd.has_io_uring() else "threads"
        with self._making("prepare the directories of the exporters"):
            os.makedirs(self._control, mode=0o700, exist_ok=True)
            os.makedirs(self._readers_control, mode=0o700, exist_ok=True)
            os.makedirs(self._sockets, mode=0o700, exist_ok=True)
            if self._gid is not None:
                os.chown(self._sockets, -1, self._gid)
            os.chmod(self._sockets, int(self.options.nbd_socket_directory_mode, 8))

    def _check_paths(self) -> None:
        if not os.path.isabs(self._sockets):
            raise exc.DriverConfigurationError(reason=f"nbd_socket_directory {self._sockets!r} is not absolute")
        paths = self._exporter(str(uuid.UUID(int=0))).paths
        for path, option in ((paths.monitor, "runtime_path"), (paths.socket, "nbd_socket_directory or runtime_path")):
            length = len(os.fsencode(path))
            if length > _SOCKET_PATH_BYTES:
                raise exc.DriverConfigurationError(
                    reason=f"sockets like {path} would have {length} bytes, and {_SOCKET_PATH_BYTES} are allowed; "
                    f"set {option} to a directory whose path is {length - _SOCKET_PATH_BYTES} shorter"
                )

    # -- the interface ---------------------------------------------------------------------------

    def connect(self, volume: models.Volume, path: str, attachment: models.Attachment) -> Mapping[str, Any]:
        exporter = self._exporter(volume.id)
        with self._making(f"export volume {volume.id}"), exporter.locked():
            if not exporter.is_usable:
                self._start(exporter, path)
            try:
                with self._exports(exporter) as exports:
                    exports.add([attachment])
            except BaseException:
                self._end_if_unused(exporter)
                raise
        return _connection_info(exporter, attachment)

    def disconnect(self, volume: models.Volume, attachment: models.Attachment) -> None:
        exporter = self._exporter(volume.id)
        if not os.path.isdir(exporter.paths.control):
            return
        with self._making(f"end an export of volume {volume.id}"), exporter.locked():
            if exporter.is_usable:
                with self._exports(exporter) as exports:
                    exports.remove(attachment.id)
            self._end_if_unused(exporter)

    def sever(self, volume: models.Volume, attachment: models.Attachment) -> None:
        if attachment.id in self.list_readers():
            self.close_reader(attachment.id)
        exporter = self._exporter(volume.id)
        if not os.path.isdir(exporter.paths.control):
            return
        with self._making(f"sever a connection of volume {volume.id}"), exporter.locked():
            try:
                if exporter.is_usable:
                    with self._exports(exporter) as exports:
                        exports.remove(attachment.id)
                self._end_if_unused(exporter)
            except QmpUnreachable as error:
                LOG.warning("volume %s: its exporter is killed, with all its connections: %s", volume.id, error)
                exporter.end(is_hanging=True)

    def inspect(self, volume: models.Volume, path: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
        exporter, readers = self._exporter(volume.id), self._readers.readers_of(path)
        if not os.path.isdir(exporter.paths.control):
            return readers, ()
        with self._making(f"look at the exports of volume {volume.id}"), exporter.locked():
            if not exporter.is_usable:
                return readers, ()
            with self._exports(exporter) as exports:
                return (*exports.attachments(), *readers), clients.of_socket(exporter.paths.socket)

    def ensure(self, volume: models.Volume, path: str, attachments: Sequence[models.Attachment]) -> None:
        if not attachments:
            self.remove(volume.id)
            return
        exporter = self._exporter(volume.id)
        with self._making(f"restore the exports of volume {volume.id}"), exporter.locked():
            if not exporter.is_usable:
                self._start(exporter, path)
            with self._exports(exporter) as exports:
                exports.replace(attachments)

    def is_exporting(self, volume: models.Volume) -> bool:
        return self._exporter(volume.id).is_usable

    def list_exported(self) -> frozenset[str]:
        return frozenset(exporter.volume_id for exporter in self._known_exporters() if exporter.is_usable)

    def remove(self, volume_id: str) -> None:
        exporter = self._exporter(volume_id)
        if not os.path.isdir(exporter.paths.control):
            return
        with self._making(f"end the exporter of volume {volume_id}"), exporter.locked():
            exporter.end()

    def copy_point_in_time(self, volume: models.Volume, destination: str, work: Work) -> None:
        point_in_time.copy_point_in_time(self._exporter(volume.id), destination, work)

    def end_abandoned_copies(self) -> None:
        for exporter in self._known_exporters():
            with self._making(f"end abandoned copies of volume {exporter.volume_id}"):
                if exporter.is_usable:
                    point_in_time.end_abandoned_copy(exporter)
                else:
                    with exporter.locked():
                        self._end_if_unused(exporter)

    def resize(self, volume: models.Volume, new_size_bytes: int) -> None:
        exporter = self._exporter(volume.id)
        if not exporter.is_usable:
            return
        with (
            self._making(f"resize volume {volume.id}"),
            locked(exporter.paths.copy_lock, _COPY_END_TIMEOUT_S, f"copying volume {volume.id}"),
            exporter.locked(),
            exporter.connect() as qmp,
        ):
            point_in_time.take_down(qmp)
            Exports(qmp, exporter.paths.pending_exports).grow(new_size_bytes)

    # -- readers on other hosts ----------------------------------------------------------

    @property
    def _readers(self) -> ReaderExports:
        ports = parse_ports(self.options.nbd_remote_ports)
        return ReaderExports(self._readers_control, self.options.target_ip_address, ports)

    def open_remotely(self, path: str, reader: Reader) -> Mapping[str, Any]:
        with self._making(f"serve {path} to the reader {reader.id}"):
            return self._readers.open(path, reader, self._aio)

    def close_reader(self, reader_id: str) -> None:
        with self._making(f"end what the reader {reader_id} was given"):
            self._readers.close(reader_id)

    def close_readers_of(self, path: str) -> None:
        with self._making(f"end the readers of {path}"):
            self._readers.close_those_of(path)

    def list_readers(self) -> frozenset[str]:
        return self._readers.ids()

    # -- exporters --------------------------------------------------------------------

    def _exporter(self, volume_id: str) -> qsd.Exporter:
        try:
            name = uuid.UUID(volume_id).hex
        except ValueError:
            raise exc.InvalidInput(reason=f"{volume_id!r} is not a UUID, so it can't name an exporter") from None
        paths = ExporterPaths(os.path.join(self._control, name), os.path.join(self._sockets, name))
        return qsd.Exporter(volume_id, paths)

    def _known_exporters(self) -> Iterable[qsd.Exporter]:
        try:
            names = sorted(os.listdir(self._control))
        except FileNotFoundError:
            return
        for name in names:
            with contextlib.suppress(ValueError):
                yield self._exporter(str(uuid.UUID(hex=name)))

    def _start(self, exporter: qsd.Exporter, path: str) -> None:
        if not os.path.isdir(self._sockets):
            os.makedirs(self._sockets, mode=int(self.options.nbd_socket_directory_mode, 8))
        exporter.start(path, self._aio)
        if self._gid is not None:
            os.chown(exporter.paths.socket, -1, self._gid)
        os.chmod(exporter.paths.socket, int(self.options.nbd_socket_mode, 8))
        exporter.finish_start()

    def _end_if_unused(self, exporter: qsd.Exporter) -> None:
        if exporter.is_usable:
            with self._exports(exporter) as exports:
                if exports:
                    return
        exporter.end()

    @contextlib.contextmanager
    def _exports(self, exporter: qsd.Exporter) -> Iterator[Exports]:
        with exporter.connect() as qmp:
            yield Exports(qmp, exporter.paths.pending_exports)

    @contextlib.contextmanager
    def _making(self, doing: str) -> Iterator[None]:
        """Errors of the block's files and processes, in words that say where."""
        try:
            yield
        except OSError as error:
            raise exc.DriverError(
                reason=f"can't {doing} in {self._control}: {exc.describe(error)}; check its permissions and room"
            ) from error
        except QmpUnreachable as error:
            raise exc.DriverError(
                reason=f"can't {doing}: {error}; if the exporter hangs, its storage does not answer"
            ) from error


def _connection_info(exporter: qsd.Exporter, attachment: models.Attachment) -> Mapping[str, Any]:
    socket = exporter.paths.socket
    return {
        "driver_volume_type": "nbd",
        "data": {
            "uri": f"nbd+unix:///{attachment.id}?socket={quote(socket, safe='/')}",
            "socket": socket,
            "export": attachment.id,
            "access_mode": "ro" if attachment.is_read_only else "rw",
            "discard": True,
        },
    }
