"""A volume as an NBD export: the way to any volume that isn't a file of this host.

Each thread has a connection of its own.  Zeros are left out where the server says where they
are (``base:allocation``); a server that can't say is read whole.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from typing import Self

from volsvc import exceptions as exc
from volsvc.backup.blocks import PAGE_EXTENTS, Extent, ExtentPage
from volsvc.drivers.storage_errors import FULL
from volsvc.nbd import protocol
from volsvc.nbd.client import NbdConnection, NbdError

_ZEROS_BYTES = 1024**2


class _Export:
    """Connections to one export: an idle one is taken for each call, or a new one opened.

    ``name`` is for messages, where ``uri`` says little.
    """

    def __init__(self, uri: str, name: str | None = None) -> None:
        self._uri = uri
        self._name = name or uri
        self._guard = threading.Lock()
        self._idle: list[NbdConnection] = []
        with self._connected() as connection:
            self.size_bytes = connection.size_bytes
            self._flags = connection.flags

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __str__(self) -> str:
        return self._name

    def close(self) -> None:
        """Hang up.  Repeatable."""
        with self._guard:
            connections, self._idle = self._idle, []
        for connection in connections:
            connection.close()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[NbdConnection]:
        """A connection of this call's own.  Errors of the block become the service's."""
        with self._guard:
            found = self._idle.pop() if self._idle else None
        try:
            if found is None:
                found = NbdConnection.from_uri(self._uri)
            yield found
        except NbdError as error:
            self._give_back(found)
            words = os.strerror(error.errno) if error.errno else str(error)
            if error.errno in FULL:
                raise exc.StorageFull(reason=f"{self._name}: {words}") from error
            raise exc.VolumeAccessError(reason=f"{self._name}: {words}") from error
        except (OSError, struct.error) as error:
            if found is not None:
                found.close()
            raise exc.VolumeAccessError(
                reason=f"{self._name}: {exc.describe(error)}; is its exporter running?"
            ) from error
        else:
            self._give_back(found)

    def _give_back(self, connection: NbdConnection | None) -> None:
        if connection is not None:
            with self._guard:
                self._idle.append(connection)


class NbdSource(_Export):
    """Reads an export that nobody writes to."""

    def list_data(self, offset: int) -> ExtentPage:
        extents: list[Extent] = []
        with self._connected() as connection:
            if not connection.has_block_status:
                rest = self.size_bytes - offset
                return ExtentPage([Extent(offset, rest)] if rest > 0 else [], None)
            while offset < self.size_bytes:
                if len(extents) >= PAGE_EXTENTS:
                    return ExtentPage(extents, offset)
                for status in connection.block_status(offset, self.size_bytes - offset):
                    length = min(status.length, self.size_bytes - offset)
                    if length and not status.is_zero:
                        extents.append(Extent(offset, length))
                    offset += length
        return ExtentPage(extents, None)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._connected() as connection:
            connection.read_into(offset, buffer)


class NbdSink(_Export):
    """Writes an export."""

    def __init__(self, uri: str, name: str | None = None) -> None:
        super().__init__(uri, name)
        if self._flags & protocol.READ_ONLY:
            self.close()
            raise exc.VolumeAccessError(reason=f"{self} is exported for reading only")

    def write(self, offset: int, data: memoryview) -> None:
        with self._connected() as connection:
            connection.write(offset, data)

    def write_zeroes(self, offset: int, length: int) -> None:
        with self._connected() as connection:
            if self._flags & protocol.SEND_WRITE_ZEROES:
                connection.write_zeroes(offset, length)
                return
            zeros = memoryview(bytes(min(length, _ZEROS_BYTES)))
            for at in range(offset, offset + length, _ZEROS_BYTES):
                connection.write(at, zeros[: min(_ZEROS_BYTES, offset + length - at)])

    def sync(self) -> None:
        # A flush promises only what its own connection wrote; none is in use while this is called.
        with self._guard:
            connections = list(self._idle)
        try:
            for connection in connections:
                connection.flush()
        except OSError as error:
            raise exc.VolumeAccessError(reason=f"{self._name} can't be flushed: {exc.describe(error)}") from error
