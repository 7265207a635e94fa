"""The driver of the driver author's guide keeps the contract."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator

import pytest

from volsvc.drivers.base import DriverContext, VolumeDriver
from volsvc.drivers.marker import MARKER_NAME
from volsvc.targets.base import TargetContext
from volsvc.targets.nbd import NbdTarget
from volsvc.testing.driver_contract import DriverHarness, VolumeDriverContract
from volsvc.testing.snapshots import options_of

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "doc" / "source" / "examples" / "plain_files.py"


def load_driver_class() -> type[VolumeDriver]:
    """A package of your own is imported; the example is loaded from where the guide shows it."""
    spec = importlib.util.spec_from_file_location("plain_files", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[VolumeDriver] = module.PlainFilesDriver
    return found


PlainFilesDriver = load_driver_class()


class PlainFilesHarness(DriverHarness):
    def __init__(self, path: pathlib.Path, runtime_path: str) -> None:
        self._path = path
        self._runtime_path = runtime_path

    def new_driver(self) -> VolumeDriver:
        target = NbdTarget(TargetContext("plain", "host@plain", options_of(NbdTarget), self._runtime_path))
        options = options_of(PlainFilesDriver, plain_files_path=str(self._path))
        return PlainFilesDriver(
            DriverContext("plain", "host@plain", options, self._runtime_path, self._runtime_path, target)
        )

    @contextlib.contextmanager
    def swap_storage(self) -> Iterator[None]:
        os.rename(self._path / MARKER_NAME, self._path / "hidden")
        yield
        os.rename(self._path / "hidden", self._path / MARKER_NAME)

    def leftovers(self) -> list[str]:
        return [name for name in os.listdir(self._path) if name.startswith(".part-")]


@pytest.mark.slow
class TestPlainFilesDriver(VolumeDriverContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path, runtime_path: str) -> PlainFilesHarness:
        return PlainFilesHarness(tmp_path, runtime_path)
