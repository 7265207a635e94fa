"""The backup driver of the driver author's guide keeps the contract."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator

import pytest

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import MARKER_NAME, BackupDriver, BackupDriverContext
from volsvc.testing.backup_driver_contract import BackupDriverContract, BackupDriverHarness, start
from volsvc.testing.snapshots import options_of

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "doc" / "source" / "examples" / "one_file.py"


def load_driver_class() -> type[BackupDriver]:
    """A package of your own is imported; the example is loaded from where the guide shows it."""
    spec = importlib.util.spec_from_file_location("one_file", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[BackupDriver] = module.OneFileBackupDriver
    return found


OneFileBackupDriver = load_driver_class()


class OneFileHarness(BackupDriverHarness):
    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def new_driver(self) -> BackupDriver:
        options = options_of(OneFileBackupDriver, backup_one_file_path=str(self.path))
        return OneFileBackupDriver(BackupDriverContext("host", options, "/nowhere"))

    @contextlib.contextmanager
    def swap_store(self) -> Iterator[None]:
        driver = self.new_driver()
        marker = driver.get(MARKER_NAME)
        driver.delete(MARKER_NAME)
        yield
        driver.put(MARKER_NAME, marker)


@pytest.mark.slow
class TestOneFileBackupDriver(BackupDriverContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path) -> OneFileHarness:
        return OneFileHarness(tmp_path / "store.sqlite")

    def test_a_file_that_has_gone_is_not_made_again(self, harness: OneFileHarness) -> None:
        driver = start(harness)
        for name in os.listdir(harness.path.parent):
            os.unlink(harness.path.parent / name)
        with pytest.raises(exc.BackendUnavailable):
            driver.put("a", b"")
        assert os.listdir(harness.path.parent) == []
