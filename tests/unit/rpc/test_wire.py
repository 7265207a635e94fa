"""Frames come out as they went in, however the socket cuts them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volsvc.rpc import wire
from volsvc.rpc.wire import Kind

LIMIT = 1 << 20

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
_frames = st.lists(st.tuples(st.sampled_from(Kind), _json), max_size=6)


@given(frames=_frames, cuts=st.lists(st.integers(min_value=1, max_value=40), max_size=60))
def test_frames_survive_any_cutting(frames: list[tuple[Kind, Any]], cuts: list[int]) -> None:
    stream = b"".join(wire.encode(kind, body) for kind, body in frames)
    reader = wire.FrameReader(LIMIT)
    found = []
    while stream:
        size = cuts.pop() if cuts else len(stream)
        reader.feed(stream[:size])
        stream = stream[size:]
        while (frame := reader.next()) is not None:
            found.append((frame[0], wire.decode(frame[1])))
    assert found == frames
    assert reader.is_empty


@given(garbage=st.binary(min_size=wire.HEADER_BYTES))
def test_garbage_is_an_error_or_a_frame_that_is_not_complete(garbage: bytes) -> None:
    reader = wire.FrameReader(LIMIT)
    reader.feed(garbage)
    try:
        frame = reader.next()
    except wire.FrameError:
        return
    assert garbage.startswith(wire.MAGIC)
    assert frame is None or frame[0] in Kind


def test_frame_beyond_the_limit_is_refused_on_both_sides() -> None:
    frame = wire.encode(Kind.CAST, "x" * 98, max_bytes=100)
    with pytest.raises(wire.FrameTooLarge, match="max_frame_bytes is 100"):
        wire.encode(Kind.CAST, "x" * 99, max_bytes=100)
    reader = wire.FrameReader(99)
    reader.feed(frame[: wire.HEADER_BYTES])
    with pytest.raises(wire.FrameTooLarge, match="max_frame_bytes is 99"):
        reader.next()


def test_values_that_json_lacks_are_sent_as_text() -> None:
    frame = wire.encode(Kind.CAST, {"at": dt.datetime(2020, 1, 2, 3, 4, 5)})
    assert wire.decode(frame[wire.HEADER_BYTES :])["at"].startswith("2020-01-02T03:04:05")


def test_body_that_is_not_json_is_an_error() -> None:
    with pytest.raises(wire.FrameError, match="not JSON"):
        wire.decode(b"{")
