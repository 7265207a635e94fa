"""Places for those who wait: some for each backend, and never all of the threads."""

from __future__ import annotations

import contextlib

import pytest

from volsvc import exceptions as exc
from volsvc.volume_api.waiting_room import WaitingRoom


def test_one_backend_takes_only_its_places_and_gives_them_back() -> None:
    room = WaitingRoom(2, 10)
    with room.place("a@one"), room.place("a@one"):
        with pytest.raises(exc.BackendBusy, match="2 requests wait for the backend a@one"), room.place("a@one"):
            pass
        with room.place("a@two"):
            pass
    with room.place("a@one"), room.place("a@one"):
        pass


def test_several_backends_that_hang_leave_threads_for_what_needs_none() -> None:
    room = WaitingRoom(2, 5)
    with contextlib.ExitStack() as stack:
        for host in ("a@one", "a@one", "a@two", "a@two", "a@three"):
            stack.enter_context(room.place(host))
        with pytest.raises(exc.BackendBusy, match="5 requests wait for backends"), room.place("a@three"):
            pass
    with room.place("a@three"):
        pass
