"""A service that was killed while it started an exporter: the next one is not disturbed by what was left."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from volsvc import models
from volsvc.targets import qsd
from volsvc.targets.base import TargetContext
from volsvc.targets.nbd import NbdTarget
from volsvc.testing.block_clients import open_connection
from volsvc.testing.snapshots import options_of
from volsvc.testing.target_contract import Subject


@pytest.fixture
def target(runtime_path: str) -> Iterator[NbdTarget]:
    target = NbdTarget(TargetContext("backend", "host@backend", options_of(NbdTarget), runtime_path))
    target.check_for_setup_error()
    yield target
    for volume_id in target.list_exported():
        target.remove(volume_id)


@pytest.fixture
def subject(target: NbdTarget, tmp_path: pathlib.Path) -> Subject:
    return Subject(target, tmp_path / "image")


def cut_start(target: NbdTarget, subject: Subject) -> tuple[qsd.Exporter, int]:
    """An exporter that runs, and whose start was never finished."""
    exporter = target._exporter(subject.volume.id)
    with exporter.locked():
        exporter.start(str(subject.path), "threads")
    pid = exporter.pid()
    assert pid is not None
    return exporter, pid


def test_exporter_whose_start_was_cut_is_replaced_by_one_with_the_right_sockets(
    target: NbdTarget, subject: Subject
) -> None:
    exporter, left = cut_start(target, subject)
    assert target.list_exported() == frozenset()
    assert not target.is_exporting(subject.volume)
    _, info = subject.attach()
    assert exporter.pid() not in (None, left)
    assert stat.S_IMODE(os.stat(exporter.paths.socket).st_mode) == 0o600
    client = open_connection(info)
    client.write(0, b"served")
    client.close()


def test_exporter_that_has_no_pid_file_yet_is_ended_before_another_is_started(
    target: NbdTarget, subject: Subject
) -> None:
    exporter = target._exporter(subject.volume.id)
    pathlib.Path(exporter.paths.control).mkdir()
    pathlib.Path(exporter.paths.starting).touch()
    late = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", f"--pidfile={exporter.paths.pidfile}"],
        stdout=subprocess.PIPE,
    )
    try:
        assert late.stdout is not None
        assert late.stdout.readline() == b"\n"
        subject.attach()
        assert late.poll() is not None
    finally:
        late.kill()
        late.communicate()
    assert target.list_exported() == {subject.volume.id}


@pytest.mark.parametrize("how", ["disconnect", "remove", "end_abandoned_copies"])
def test_exporter_whose_start_was_cut_is_ended_with_all_its_files(
    target: NbdTarget, subject: Subject, how: str
) -> None:
    exporter, left = cut_start(target, subject)
    if how == "disconnect":
        target.disconnect(
            subject.volume, models.Attachment(str(uuid.uuid4()), subject.volume.id, "attaching", "project")
        )
    elif how == "remove":
        target.remove(subject.volume.id)
    else:
        target.end_abandoned_copies()
    assert not os.path.exists(f"/proc/{left}") or exporter.pid() is None
    assert not os.path.exists(exporter.paths.control)
