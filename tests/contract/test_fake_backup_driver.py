"""The fake backup driver keeps the contract that the real ones keep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from volsvc.backup.drivers.base import MARKER_NAME, BackupDriverContext
from volsvc.backup.drivers.fake import FakeBackupDriver, FakeObjects
from volsvc.testing.backup_driver_contract import BackupDriverContract, BackupDriverHarness
from volsvc.testing.snapshots import options_of


class FakeHarness(BackupDriverHarness):
    def __init__(self) -> None:
        self.objects = FakeObjects()

    def new_driver(self) -> FakeBackupDriver:
        return FakeBackupDriver(BackupDriverContext("host", options_of(FakeBackupDriver), "/nowhere"), self.objects)

    @contextlib.contextmanager
    def swap_store(self) -> Iterator[None]:
        marker = self.objects.objects.pop(MARKER_NAME)
        yield
        self.objects.objects[MARKER_NAME] = marker


class TestFakeBackupDriver(BackupDriverContract):
    @pytest.fixture
    def harness(self) -> FakeHarness:
        return FakeHarness()
