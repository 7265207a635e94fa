from __future__ import annotations

import threading

import pytest

from volsvc import exceptions as exc
from volsvc.drivers.base import DriverContext, VolumeDriver
from volsvc.generations import CurrentGeneration, Generation
from volsvc.options import Options


class ClosingDriver(VolumeDriver):
    def __init__(self) -> None:
        super().__init__(DriverContext("one", "node@one", Options({}), "/nowhere", "/nowhere"))
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def current() -> CurrentGeneration:
    return CurrentGeneration("one")


def wait_closed(generation: Generation | None) -> None:
    assert generation is not None
    assert generation.closed.wait(10)


def test_an_operation_keeps_the_driver_it_began_on_and_the_last_one_closes_it(current: CurrentGeneration) -> None:
    old, new = ClosingDriver(), ClosingDriver()
    current.swap(old)
    with current.use() as first:
        with current.use():
            generation = current.swap(new)
            with current.use() as later:
                assert later is new
        assert first is old
        assert old.closed == 0
    wait_closed(generation)
    assert old.closed == 1
    assert new.closed == 0


def test_an_unused_generation_closes_at_the_swap(current: CurrentGeneration) -> None:
    old = ClosingDriver()
    current.swap(old)
    wait_closed(current.swap(None))
    assert old.closed == 1
    with pytest.raises(exc.BackendUnavailable), current.use():
        pass


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(1)])
def test_a_driver_that_fails_to_close_fails_nobody_and_is_logged(
    current: CurrentGeneration, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(ClosingDriver):
        def close(self) -> None:
            raise error

    current.swap(Failing())
    wait_closed(current.swap(ClosingDriver()))
    assert "closing generation 1 failed" in caplog.text


def test_a_close_that_hangs_holds_up_nobody(current: CurrentGeneration) -> None:
    release = threading.Event()

    class Hanging(ClosingDriver):
        def close(self) -> None:
            assert release.wait(10)
            super().close()

    old = Hanging()
    current.swap(old)
    generation = current.swap(ClosingDriver())
    assert generation is not None
    assert not generation.closed.is_set(), "the swap did not wait for it"
    release.set()
    wait_closed(generation)
    assert old.closed == 1


def test_dropping_a_lost_driver_leaves_the_one_that_came_after_it(current: CurrentGeneration) -> None:
    current.swap(ClosingDriver())
    lost = current.current
    new = ClosingDriver()
    current.swap(new)
    current.drop(lost)
    with current.use() as driver:
        assert driver is new
    current.drop(current.current)
    with pytest.raises(exc.BackendUnavailable), current.use():
        pass


def test_an_operation_that_finds_no_driver_blames_none() -> None:
    """During a reload an exclusive backend has none for a moment, and is ready all the same."""
    current = CurrentGeneration("host@backend")
    with pytest.raises(exc.BackendUnavailable) as raised, current.use():
        pass
    assert not raised.value.is_of_current_driver
