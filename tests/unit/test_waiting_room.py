"""Places for those who wait: some for each backend, and never all of the threads."""

from __future__ import annotations

import contextlib
import threading

import pytest

from volsvc import exceptions as exc
from volsvc.testing.daemon import wait_until
from volsvc.volume_api.waiting_room import WaitingRoom


def test_one_backend_takes_only_its_places_and_gives_them_back() -> None:
    room = WaitingRoom(10)
    with room.place("reset", "a@one", 2), room.place("reset", "a@one", 2):
        with (
            pytest.raises(exc.BackendBusy, match="2 requests wait for the backend a@one"),
            room.place("reset", "a@one", 2),
        ):
            pass
        with room.place("reset", "a@two", 2), room.place("attach", "a@one", 2):
            pass
    with room.place("reset", "a@one", 2), room.place("reset", "a@one", 2):
        pass


def test_several_backends_that_hang_leave_threads_for_what_needs_none() -> None:
    room = WaitingRoom(5)
    with contextlib.ExitStack() as stack:
        for host in ("a@one", "a@one", "a@two", "a@two", "a@three"):
            stack.enter_context(room.place("attach", host, 2))
        with (
            pytest.raises(exc.BackendBusy, match="5 requests wait for backends"),
            room.place("reset", "a@three", 2, patience_s=0.01),
        ):
            pass
    with room.place("reset", "a@three", 2):
        pass


def test_who_is_patient_gets_the_place_that_somebody_leaves() -> None:
    room = WaitingRoom(1)
    has_entered = threading.Event()

    def enter() -> None:
        with room.place("attach", "a@one", 1, patience_s=30):
            has_entered.set()

    with room.place("attach", "a@two", 1):
        waiting = threading.Thread(target=enter, daemon=True)
        waiting.start()
        assert not has_entered.wait(0.1)
    assert has_entered.wait(20)
    waiting.join(20)


def test_a_place_that_is_left_reaches_who_waits_for_it_behind_who_waits_for_another() -> None:
    room = WaitingRoom(10)
    entered: dict[str, threading.Event] = {"a@one": threading.Event(), "a@two": threading.Event()}

    def enter(host: str) -> None:
        with room.place("attach", host, 1, patience_s=30):
            entered[host].set()

    with room.place("attach", "a@one", 1):
        with room.place("attach", "a@two", 1):
            for count, host in enumerate(entered, 1):
                threading.Thread(target=enter, args=(host,), daemon=True).start()
                wait_until(lambda count=count: len(room._changed._waiters) == count, "a request to wait")  # type: ignore[misc,attr-defined]
        assert entered["a@two"].wait(10)
        assert not entered["a@one"].is_set()
    assert entered["a@one"].wait(10)
