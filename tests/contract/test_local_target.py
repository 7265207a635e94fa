"""The local target keeps the contract, as far as it has what it asks for."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc.drivers.base import NoWork
from volsvc.targets.base import TargetContext
from volsvc.targets.local import LocalTarget
from volsvc.testing.snapshots import options_of
from volsvc.testing.target_contract import Subject, TargetContract, TargetHarness


class LocalHarness(TargetHarness):
    can_sever = False
    has_exporter = False

    def __init__(self, path: pathlib.Path) -> None:
        self._path = str(path / "run")

    def new_target(self) -> LocalTarget:
        return LocalTarget(TargetContext("backend", "host@backend", options_of(LocalTarget), self._path))


class TestLocalTarget(TargetContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path) -> LocalHarness:
        return LocalHarness(tmp_path)

    def test_copy_beside_a_writer_is_refused_with_the_ways_out(self, subject: Subject) -> None:
        _, info = subject.attach()
        assert _path(info) == str(subject.path)
        with pytest.raises(exc.AbilityMissing, match="nbd target"):
            subject.target.copy_point_in_time(subject.volume, str(subject.path) + ".copy", NoWork())


def _path(info: Mapping[str, Any]) -> str:
    return str(info["data"]["device_path"])
