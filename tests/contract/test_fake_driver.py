"""The fake driver keeps the contract, in memory and in a file."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc.drivers.base import DriverContext
from volsvc.drivers.fake import FakeDriver
from volsvc.drivers.fake_script import Script
from volsvc.targets.base import TargetContext
from volsvc.targets.fake import FakeTarget
from volsvc.testing import cuts
from volsvc.testing.driver_contract import DriverHarness, VolumeDriverContract
from volsvc.testing.snapshots import options_of


class FakeHarness(DriverHarness):
    def __init__(self, path: pathlib.Path, state_path: str | None) -> None:
        self._path = str(path)
        self._values = {"fake_state_path": state_path}
        self._script = Script()
        self.survives_kill = state_path is not None
        if state_path is not None:
            self.bulk_bytes = 0  # a JSON file is no place for them

    def new_driver(self) -> FakeDriver:
        target_options = options_of(FakeTarget, **self._values)
        target = FakeTarget(TargetContext("fake", "host@fake", target_options, self._path))
        options = options_of(FakeDriver, **self._values)
        extra = {"script": self._script}
        return FakeDriver(DriverContext("fake", "host@fake", options, self._path, self._path, target, extra))

    @contextlib.contextmanager
    def swap_storage(self) -> Iterator[None]:
        store = self.new_driver().store
        with store.transaction() as state:
            before, state["identity"] = state["identity"], None
        yield
        with store.transaction() as state:
            state["identity"] = before

    def each_cut(self, error: int | None = None) -> Iterator[Any]:
        """A fake's method is one step: it is cut before it or after it."""
        for when in ("before", "after"):
            yield self._cut(when, exc.StorageFull(reason="scripted") if error else cuts.Cut("scripted"))

    @contextlib.contextmanager
    def _cut(self, when: str, error: BaseException) -> Iterator[None]:
        self._script.set("*", fail=True, when=when, error=error)
        try:
            yield
        finally:
            self._script.clear()


class TestFakeDriverInMemory(VolumeDriverContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path) -> FakeHarness:
        return FakeHarness(tmp_path, None)


class TestFakeDriverInAFile(VolumeDriverContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path) -> FakeHarness:
        return FakeHarness(tmp_path, str(tmp_path / "fake.json"))
