"""One NBD connection: what a backup needs to read a volume's data and to write it back.

Fixed newstyle handshake with ``NBD_OPT_GO``, structured replies and ``base:allocation`` where the
server has them, simple replies where not.  One request at a time; open several connections for
several threads.
"""

from __future__ import annotations

import socket
import struct
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple, Self

from volsvc.nbd import protocol as p

_TIMEOUT_S = 60.0


class NbdError(OSError):
    """The server refused a request; ``errno`` is the number it gave."""


class Status(NamedTuple):
    """State of the next ``length`` bytes of an export."""

    length: int
    is_zero: bool


class NbdConnection:
    """Errors of the connection are ``ConnectionError`` or another ``OSError``; it is of no use after one."""

    def __init__(self, address: str | tuple[str, int], export: str, timeout_s: float = _TIMEOUT_S) -> None:
        self.size_bytes = 0
        self.flags = 0
        self.has_block_status = False
        self._context = -1
        self._cookie = 0
        if isinstance(address, str):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(timeout_s)
        else:
            self._socket = socket.create_connection(address, timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if isinstance(address, str):
                self._socket.connect(address)
            self._negotiate(export.encode())
        except BaseException:
            self._socket.close()
            raise

    @classmethod
    def from_uri(cls, uri: str, timeout_s: float = _TIMEOUT_S) -> Self:
        """Connect to ``nbd+unix:///EXPORT?socket=PATH`` or ``nbd://HOST:PORT/EXPORT``."""
        parts = urllib.parse.urlsplit(uri)
        export = urllib.parse.unquote(parts.path[1:])
        if parts.scheme == "nbd+unix":
            sockets = urllib.parse.parse_qs(parts.query).get("socket")
            if sockets:
                return cls(sockets[0], export, timeout_s)
        elif parts.scheme == "nbd" and parts.hostname:
            return cls((parts.hostname, parts.port or 10809), export, timeout_s)
        raise ValueError(f"{uri} is not an NBD address this client knows")

    def close(self) -> None:
        """Say goodbye if the server still listens, then hang up.  Repeatable."""
        try:
            self._send(p.DISCONNECT, 0, 0)
        except OSError:
            pass
        self._socket.close()

    # -- requests -----------------------------------------------------------------------

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``."""
        while buffer:
            size = min(len(buffer), p.MAX_REQUEST_BYTES)
            self._send(p.READ, offset, size)
            self._receive_data(offset, buffer[:size])
            offset, buffer = offset + size, buffer[size:]

    def block_status(self, offset: int, length: int) -> list[Status]:
        """States of a part of ``length`` bytes from ``offset``: one at least, perhaps not of all."""
        self._send(p.BLOCK_STATUS, offset, min(length, p.MAX_STATUS_BYTES))
        found: list[Status] = []
        for kind, body in self._chunks():
            if kind == p.CHUNK_BLOCK_STATUS and len(body) >= 4:
                (context,) = struct.unpack_from(">I", body)
                if context == self._context:
                    pairs = struct.iter_unpack(">II", body[4 : 4 + (len(body) - 4) // 8 * 8])
                    found = [Status(size, bool(state & p.STATE_ZERO)) for size, state in pairs if size]
        if not found:
            raise ConnectionError("the server says nothing about a range it was asked for")
        return found

    def write(self, offset: int, data: memoryview) -> None:
        """Durable after ``flush``."""
        while data:
            piece = data[: p.MAX_REQUEST_BYTES]
            self._send(p.WRITE, offset, len(piece), piece)
            self._expect_success()
            offset, data = offset + len(piece), data[len(piece) :]

    def write_zeroes(self, offset: int, length: int) -> None:
        """Let the range read as zeros; the server may make holes."""
        while length:
            size = min(length, p.MAX_STATUS_BYTES)
            self._send(p.WRITE_ZEROES, offset, size)
            self._expect_success()
            offset, length = offset + size, length - size

    def flush(self) -> None:
        """Wait until what this connection wrote is on the disk."""
        if self.flags & p.SEND_FLUSH:
            self._send(p.FLUSH, 0, 0)
            self._expect_success()

    # -- handshake ------------------------------------------------------------------------

    def _negotiate(self, export: bytes) -> None:
        magic, option_magic, flags = struct.unpack(">QQH", self._receive(18))
        if magic != p.MAGIC or option_magic != p.OPTION_MAGIC or not flags & p.FLAG_FIXED_NEWSTYLE:
            raise ConnectionError("the server does not speak fixed newstyle NBD")
        self._socket.sendall(struct.pack(">I", p.FLAG_FIXED_NEWSTYLE | (flags & p.FLAG_NO_ZEROES)))
        is_structured = any(kind == p.REP_ACK for kind, _ in self._option(p.OPT_STRUCTURED_REPLY, b""))
        name = struct.pack(">I", len(export)) + export
        if is_structured:
            query = p.ALLOCATION_CONTEXT.encode()
            request = name + struct.pack(">II", 1, len(query)) + query
            for kind, body in self._option(p.OPT_SET_META_CONTEXT, request):
                if kind == p.REP_META_CONTEXT:
                    (self._context,) = struct.unpack_from(">I", body)
                    self.has_block_status = True
        for kind, body in self._option(p.OPT_GO, name + struct.pack(">H", 0)):
            if kind & p.REP_ERROR:
                reason = body.decode(errors="replace") or f"reply {kind:#x}"
                raise ConnectionRefusedError(f"export {export.decode()!r} was refused: {reason}")
            if kind == p.REP_INFO and struct.unpack_from(">H", body)[0] == p.INFO_EXPORT:
                self.size_bytes, self.flags = struct.unpack_from(">QH", body, 2)

    def _option(self, option: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Ask for an option; its replies up to the last one."""
        self._socket.sendall(struct.pack(">QII", p.OPTION_MAGIC, option, len(data)) + data)
        while True:
            magic, answered, kind, length = struct.unpack(">QIII", self._receive(20))
            if magic != p.OPTION_REPLY_MAGIC or answered != option:
                raise ConnectionError("the server answered another option")
            yield kind, self._receive(length)
            if kind == p.REP_ACK or kind & p.REP_ERROR:
                return

    # -- replies ----------------------------------------------------------------------------

    def _send(self, command: int, offset: int, length: int, data: memoryview | bytes = b"") -> None:
        self._cookie += 1
        header = struct.pack(">IHHQQI", p.REQUEST_MAGIC, 0, command, self._cookie, offset, length)
        self._socket.sendall(header)
        if data:
            self._socket.sendall(data)

    def _reply(self) -> tuple[int, int, int] | None:
        """Flags, kind and length of a chunk; None for a simple reply that says success."""
        (magic,) = struct.unpack(">I", self._receive(4))
        if magic == p.SIMPLE_REPLY_MAGIC:
            error, cookie = struct.unpack(">IQ", self._receive(12))
            self._check_cookie(cookie)
            if error:
                raise NbdError(error, "the NBD server refused the request")
            return None
        if magic != p.CHUNK_MAGIC:
            raise ConnectionError("the server's reply is no reply")
        flags, kind, cookie, length = struct.unpack(">HHQI", self._receive(16))
        self._check_cookie(cookie)
        if kind & p.CHUNK_ERROR:
            (error,) = struct.unpack_from(">I", self._receive(length))
            raise NbdError(error, "the NBD server refused the request")
        return flags, kind, length

    def _check_cookie(self, cookie: int) -> None:
        if cookie != self._cookie:
            raise ConnectionError("the server's reply does not fit the request")

    def _chunks(self) -> Iterator[tuple[int, bytes]]:
        while (found := self._reply()) is not None:
            flags, kind, length = found
            yield kind, self._receive(length)
            if flags & p.CHUNK_DONE:
                return

    def _expect_success(self) -> None:
        for _ in self._chunks():
            pass

    def _receive_data(self, offset: int, buffer: memoryview) -> None:
        missing = len(buffer)
        while True:
            found = self._reply()
            if found is None:
                self._fill(buffer)
                return
            flags, kind, length = found
            if kind == p.CHUNK_DATA and length >= 8:
                (at,) = struct.unpack(">Q", self._receive(8))
                size = length - 8
                self._fill(_part(buffer, at - offset, size))
                missing -= size
            elif kind == p.CHUNK_HOLE and length == 12:
                at, size = struct.unpack(">QI", self._receive(12))
                _part(buffer, at - offset, size)[:] = bytes(size)
                missing -= size
            elif kind != p.CHUNK_NONE or length:
                raise ConnectionError(f"the server answered a read with a chunk of kind {kind}")
            if flags & p.CHUNK_DONE:
                break
        if missing:
            raise ConnectionError(f"the server left {missing} bytes of an answer out")

    def _receive(self, length: int) -> bytes:
        if length > p.MAX_REQUEST_BYTES:
            raise ConnectionError(f"the server announces {length} bytes where far fewer belong")
        buffer = bytearray(length)
        self._fill(memoryview(buffer))
        return bytes(buffer)

    def _fill(self, view: memoryview) -> None:
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise ConnectionResetError("the server closed the connection")
            view = view[count:]


def _part(buffer: memoryview, start: int, size: int) -> memoryview:
    if start < 0 or start + size > len(buffer):
        raise ConnectionError("the server answered a read with bytes of another place")
    return buffer[start : start + size]
