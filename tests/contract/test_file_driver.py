"""The file driver keeps the contract: with copies, with shared extents, and with each target."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from volsvc.targets.local import LocalTarget
from volsvc.testing.driver_contract import VolumeDriverContract
from volsvc.testing.file_harness import FileHarness
from volsvc.testing.filesystems import mounted_image


class TestFileDriverWithNbd(VolumeDriverContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path, runtime_path: str) -> FileHarness:
        return FileHarness(tmp_path, runtime_path)


class TestFileDriverOnXfsWithNbd(VolumeDriverContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path, runtime_path: str) -> Iterator[FileHarness]:
        with mounted_image(tmp_path / "xfs", "xfs", 320) as path:
            yield FileHarness(path, runtime_path)


class TestFileDriverWithLocalPaths(VolumeDriverContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path, runtime_path: str) -> FileHarness:
        return FileHarness(tmp_path, runtime_path, LocalTarget)


class TestThickFileDriverOnXfsWithLocalPaths(VolumeDriverContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path, runtime_path: str) -> Iterator[FileHarness]:
        with mounted_image(tmp_path / "xfs", "xfs", 16 * 1024) as path:
            yield FileHarness(path, runtime_path, LocalTarget, file_allocation="thick")
