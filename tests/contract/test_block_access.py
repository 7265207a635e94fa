"""Drivers give backups their blocks: each with what it has, here and for another host."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.contract.test_example_driver import PlainFilesHarness
from tests.contract.test_fake_driver import FakeHarness
from volsvc.targets.local import LocalTarget
from volsvc.testing.block_access_contract import BlockAccessContract
from volsvc.testing.file_harness import FileHarness
from volsvc.testing.filesystems import mounted_image


class TestFileDriverWithNbd(BlockAccessContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path, runtime_path: str) -> FileHarness:
        return FileHarness(tmp_path, runtime_path)


class TestFileDriverOnXfsWithLocalPaths(BlockAccessContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path, runtime_path: str) -> Iterator[FileHarness]:
        with mounted_image(tmp_path / "xfs", "xfs", 320) as path:
            yield FileHarness(path, runtime_path, LocalTarget)


class TestFakeDriverInMemory(BlockAccessContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path) -> FakeHarness:
        return FakeHarness(tmp_path, None)


class TestFakeDriverInAFile(BlockAccessContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path) -> FakeHarness:
        return FakeHarness(tmp_path, str(tmp_path / "fake.json"))


class TestExampleDriver(BlockAccessContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path, runtime_path: str) -> PlainFilesHarness:
        return PlainFilesHarness(tmp_path, runtime_path)
