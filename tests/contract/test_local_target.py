"""The local target keeps the contract, as far as it has what it asks for."""

from __future__ import annotations

import pathlib
import subprocess
import sys
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

    def test_a_client_that_holds_the_file_is_named_instead_of_pretended_away(self, subject: Subject) -> None:
        attachment, info = subject.attach()
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()",
                _path(info),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            exports, clients = subject.target.inspect(subject.volume, str(subject.path))
            assert exports == (attachment.id,)
            assert clients is not None
            assert len(clients) == 1
            assert str(holder.pid) in clients[0]
            with pytest.raises(exc.DriverError, match=str(holder.pid)):
                subject.target.sever(subject.volume, attachment)
            assert subject.target.is_exporting(subject.volume)
        finally:
            holder.communicate()
        subject.target.sever(subject.volume, attachment)
        assert subject.target.inspect(subject.volume, str(subject.path)) == ((), ())


def _path(info: Mapping[str, Any]) -> str:
    return str(info["data"]["device_path"])
