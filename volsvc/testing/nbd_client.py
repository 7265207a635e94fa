"""A small NBD client in pure Python: what tests and the demo need, nothing installed.

Speaks the fixed newstyle handshake with ``NBD_OPT_GO`` and simple replies, over unix and TCP
sockets, one request at a time (NetworkBlockDevice/nbd: doc/proto.md).
"""

from __future__ import annotations

import socket
import struct
import urllib.parse
from typing import Self

_NBDMAGIC = 0x4E42444D41474943
_IHAVEOPT = 0x49484156454F5054
_OPTION_REPLY = 0x0003E889045565A9
_REQUEST = 0x25609513
_SIMPLE_REPLY = 0x67446698

_FLAG_FIXED_NEWSTYLE = 1 << 0
_FLAG_NO_ZEROES = 1 << 1
_OPT_GO = 7
_REP_ACK = 1
_REP_INFO = 3
_REP_ERROR = 1 << 31
_INFO_EXPORT = 0

_READ, _WRITE, _DISCONNECT, _FLUSH, _TRIM = range(5)
_MAX_REQUEST_BYTES = 32 * 1024**2

FLAG_READ_ONLY = 1 << 1
FLAG_SEND_FLUSH = 1 << 2
FLAG_SEND_TRIM = 1 << 5


class NbdError(OSError):
    """The server refused; ``errno`` is the one it gave, when it gave one."""


class NbdClient:
    """One connection to one export.  Errors of the connection are ``ConnectionError`` or ``OSError``."""

    def __init__(self, address: str | tuple[str, int], export: str = "", timeout_s: float = 30.0) -> None:
        self.size_bytes = 0
        self.flags = 0
        self._handle = 0
        if isinstance(address, str):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(timeout_s)
        else:
            self._socket = socket.create_connection(address, timeout_s)
        try:
            if isinstance(address, str):
                self._socket.connect(address)
            self._negotiate(export.encode())
        except BaseException:
            self._socket.close()
            raise

    @classmethod
    def from_uri(cls, uri: str, timeout_s: float = 30.0) -> Self:
        """Connect to ``nbd+unix:///EXPORT?socket=PATH`` or ``nbd://HOST:PORT/EXPORT``."""
        parts = urllib.parse.urlsplit(uri)
        export = urllib.parse.unquote(parts.path[1:])
        if parts.scheme == "nbd+unix":
            return cls(urllib.parse.parse_qs(parts.query)["socket"][0], export, timeout_s)
        if parts.scheme == "nbd":
            return cls((parts.hostname or "localhost", parts.port or 10809), export, timeout_s)
        raise ValueError(f"{uri} is not an NBD address this client knows")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye if the server still listens, then hang up.  Repeatable."""
        try:
            self._send(_DISCONNECT, 0, 0)
        except OSError:
            pass
        self._socket.close()

    @property
    def is_read_only(self) -> bool:
        return bool(self.flags & FLAG_READ_ONLY)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``."""
        pieces = []
        while length:
            size = min(length, _MAX_REQUEST_BYTES)
            self._send(_READ, offset, size)
            self._expect_success()
            pieces.append(self._receive(size))
            offset, length = offset + size, length - size
        return b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset``; durable after ``flush``."""
        for start in range(0, len(data), _MAX_REQUEST_BYTES):
            piece = data[start : start + _MAX_REQUEST_BYTES]
            self._send(_WRITE, offset + start, len(piece), piece)
            self._expect_success()

    def flush(self) -> None:
        """Wait until what was written is on the disk."""
        self._send(_FLUSH, 0, 0)
        self._expect_success()

    def trim(self, offset: int, length: int) -> None:
        """Give the blocks back; they may read as zeros afterwards."""
        self._send(_TRIM, offset, length)
        self._expect_success()

    def _negotiate(self, export: bytes) -> None:
        magic, option_magic, flags = struct.unpack(">QQH", self._receive(18))
        if magic != _NBDMAGIC or option_magic != _IHAVEOPT or not flags & _FLAG_FIXED_NEWSTYLE:
            raise ConnectionError("the server does not speak fixed newstyle NBD")
        self._socket.sendall(struct.pack(">I", _FLAG_FIXED_NEWSTYLE | (flags & _FLAG_NO_ZEROES)))
        data = struct.pack(">I", len(export)) + export + struct.pack(">H", 0)
        self._socket.sendall(struct.pack(">QII", _IHAVEOPT, _OPT_GO, len(data)) + data)
        while True:
            magic, option, kind, length = struct.unpack(">QIII", self._receive(20))
            body = self._receive(length)
            if magic != _OPTION_REPLY or option != _OPT_GO:
                raise ConnectionError("the server answered another option")
            if kind & _REP_ERROR:
                raise ConnectionRefusedError(f"export {export.decode()!r} refused: {body.decode(errors='replace')}")
            if kind == _REP_INFO and struct.unpack(">H", body[:2])[0] == _INFO_EXPORT:
                self.size_bytes, self.flags = struct.unpack(">QH", body[2:12])
            elif kind == _REP_ACK:
                return

    def _send(self, command: int, offset: int, length: int, data: bytes = b"") -> None:
        self._handle += 1
        self._socket.sendall(struct.pack(">IHHQQI", _REQUEST, 0, command, self._handle, offset, length) + data)

    def _expect_success(self) -> None:
        magic, error, handle = struct.unpack(">IIQ", self._receive(16))
        if magic != _SIMPLE_REPLY or handle != self._handle:
            raise ConnectionError("the server's reply does not fit the request")
        if error:
            raise NbdError(error, "the server refused the request")

    def _receive(self, length: int) -> bytes:
        buffer = bytearray(length)
        view = memoryview(buffer)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise ConnectionResetError("the server closed the connection")
            view = view[count:]
        return bytes(buffer)
