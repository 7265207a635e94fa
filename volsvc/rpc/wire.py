"""Frames: what travels over a socket of the ``unix://`` transport.

A frame is a header of eight bytes (magic with the protocol's version, kind, length of the
body) and a body in JSON.  A connection carries one exchange at a time:

    server: HELLO                                     (or BYE: not any more)
    client: CAST   server: ACK | NAK | BYE
    client: CALL   server: HEARTBEAT*, REPLY | FAILURE | NAK | BYE

NAK and BYE promise that the frame before them was not and will not be looked at, so that it
may be sent elsewhere; BYE also ends the connection.  A connection that ends without one of
these leaves the client not knowing, and what it sent is never sent again.
"""

from __future__ import annotations

import enum
import json
import struct
from typing import Any

from oslo_serialization import jsonutils

MAGIC = b"V1"
_HEADER = struct.Struct("!2sBxI")
HEADER_BYTES = _HEADER.size


class Kind(enum.IntEnum):
    HELLO = 1
    CAST = 2
    CALL = 3
    ACK = 4
    NAK = 5
    HEARTBEAT = 6
    REPLY = 7
    FAILURE = 8
    BYE = 9


class FrameError(Exception):
    """What arrived is not our protocol, or is larger than allowed."""


class FrameTooLarge(FrameError):
    """A frame beyond ``max_frame_bytes``."""


def encode(kind: Kind, body: Any = None, *, max_bytes: int | None = None) -> bytes:
    """A whole frame.  Values that JSON doesn't know become what oslo.serialization makes of them.

    Raises ``FrameTooLarge`` when the body has more than ``max_bytes``, ``ValueError`` or
    ``TypeError`` when it can't be written as JSON.
    """
    payload = b"" if body is None else json.dumps(body, default=jsonutils.to_primitive).encode()
    if max_bytes is not None and len(payload) > max_bytes:
        raise FrameTooLarge(
            f"the message has {len(payload)} bytes and [oslo_messaging_unix] max_frame_bytes is {max_bytes}"
        )
    return _HEADER.pack(MAGIC, kind, len(payload)) + payload


def decode(payload: bytes) -> Any:
    """The body of a frame; None for an empty one.  Raises ``FrameError``."""
    if not payload:
        return None
    try:
        return json.loads(payload)
    except ValueError as error:
        raise FrameError(f"a frame's body is not JSON: {error}") from error


class FrameReader:
    """Puts frames together from the pieces that ``recv`` returns."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def is_empty(self) -> bool:
        return not self._buffer

    def next(self) -> tuple[Kind, bytes] | None:
        """The next whole frame, or None until more is fed.  Raises ``FrameError``."""
        if len(self._buffer) < HEADER_BYTES:
            return None
        magic, number, length = _HEADER.unpack_from(self._buffer)
        if magic != MAGIC:
            raise FrameError(f"the other side doesn't speak this protocol's version ({magic!r})")
        if length > self._max_bytes:
            raise FrameTooLarge(
                f"the other side sends {length} bytes and [oslo_messaging_unix] max_frame_bytes is {self._max_bytes}"
            )
        try:
            kind = Kind(number)
        except ValueError:
            raise FrameError(f"unknown kind of frame: {number}") from None
        end = HEADER_BYTES + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER_BYTES:end])
        del self._buffer[:end]
        return kind, payload
