"""Calls that may not come back: what was left to be done is done, whatever becomes of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from volsvc import exceptions as exc
from volsvc.driver_calls import DriverCalls, DriverHangs
from volsvc.drivers.base import VolumeDriver


def test_what_always_follows_a_given_up_call_follows_also_when_there_turns_out_to_be_no_driver() -> None:
    may_go_on, let_go, asked = threading.Event(), threading.Event(), threading.Event()

    @contextlib.contextmanager
    def slow_to_say_that_there_is_none() -> Iterator[VolumeDriver]:
        may_go_on.wait(20)
        raise exc.BackendUnavailable(reason="not initialised")
        yield

    with DriverCalls(slow_to_say_that_there_is_none, "test") as calls:
        with pytest.raises(DriverHangs):
            calls.call("look", lambda driver: None, 0.01)
        calls.when_it_ends(lambda driver, error: asked.set(), let_go.set)
    assert not let_go.is_set()
    may_go_on.set()
    assert let_go.wait(10)
    assert not asked.is_set()
