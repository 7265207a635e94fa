from __future__ import annotations

import pytest

from volsvc import exceptions as exc
from volsvc.drivers.base import DriverContext, VolumeDriver
from volsvc.generations import CurrentGeneration
from volsvc.options import Options


class ClosingDriver(VolumeDriver):
    def __init__(self) -> None:
        super().__init__(DriverContext("one", "node@one", Options({}), "/nowhere", "/nowhere"))
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_an_operation_keeps_the_driver_it_began_on_and_the_last_one_closes_it() -> None:
    current = CurrentGeneration("one")
    old, new = ClosingDriver(), ClosingDriver()
    current.swap(old)
    with current.use() as first:
        with current.use():
            current.swap(new)
            with current.use() as later:
                assert later is new
        assert first is old
        assert old.closed == 0
    assert old.closed == 1
    assert new.closed == 0


def test_an_unused_generation_closes_at_the_swap() -> None:
    current = CurrentGeneration("one")
    old = ClosingDriver()
    current.swap(old)
    current.swap(None)
    assert old.closed == 1
    with pytest.raises(exc.BackendUnavailable), current.use():
        pass


def test_a_driver_that_fails_to_close_fails_nobody() -> None:
    class Failing(ClosingDriver):
        def close(self) -> None:
            raise RuntimeError("no")

    current = CurrentGeneration("one")
    current.swap(Failing())
    current.swap(ClosingDriver())
