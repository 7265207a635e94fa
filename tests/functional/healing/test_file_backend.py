"""The file driver on a directory that is missing, another, full, read-only."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Callable

from tests.functional.healing.backends import HealingDaemon

Start = Callable[..., HealingDaemon]


def test_a_directory_that_appears_later_is_served(start_file: Start) -> None:
    daemon = start_file()
    daemon.start()
    row = daemon.wait_state("disk", "retrying")
    assert str(daemon.root / "disk") in row["reason"]
    (daemon.root / "disk").mkdir()
    daemon.wait_state("disk", "ready")
    volume = daemon.cinder().volumes.create(1)
    daemon.wait_volume(volume.id, "available")


def test_nothing_under_an_unmounted_directory_is_touched(start_file: Start) -> None:
    daemon = start_file()
    disk, away = daemon.root / "disk", daemon.root / "away"
    disk.mkdir()
    daemon.start()
    daemon.wait_state("disk", "ready")
    cinder = daemon.cinder()
    kept = cinder.volumes.create(1)
    daemon.wait_volume(kept.id, "available")
    # As after an unmount: the directory is there, but it is another one.
    disk.rename(away)
    disk.mkdir()
    with contextlib.suppress(Exception):
        cinder.volumes.create(1)
    with contextlib.suppress(Exception):
        cinder.volumes.delete(kept)
    daemon.wait_state("disk", "lost")
    assert os.listdir(disk) == []
    assert (away / f"volume-{kept.id}").exists()
    disk.rmdir()
    away.rename(disk)
    daemon.wait_state("disk", "ready")


def test_another_storage_in_its_place_is_refused_by_its_marker(start_file: Start) -> None:
    daemon = start_file()
    disk = daemon.root / "disk"
    disk.mkdir()
    daemon.start()
    daemon.wait_state("disk", "ready")
    volume = daemon.cinder().volumes.create(1)
    daemon.wait_volume(volume.id, "available")
    assert daemon.manage("service", "forget-storage", "node@disk").returncode == 1, "it has volumes"
    assert daemon.stop() == 0
    (marker,) = [path for path in disk.iterdir() if path.name.startswith(".volsvc")]
    text = marker.read_text()
    marker.write_text(text.replace(json.loads(text)["uuid"], "11111111-1111-4111-8111-111111111111"))
    daemon.start()
    row = daemon.wait_state("disk", "retrying")
    assert row["step"] == "identity"
    assert "another storage" in row["reason"]
    marker.write_text(text)
    daemon.wait_state("disk", "ready")


def test_a_backend_without_volumes_takes_another_storage_when_told_so(start_file: Start) -> None:
    daemon = start_file()
    disk = daemon.root / "disk"
    disk.mkdir()
    daemon.start()
    daemon.wait_state("disk", "ready")
    assert daemon.stop() == 0
    for path in disk.iterdir():
        path.unlink()
    daemon.start()
    assert "forget-storage node@disk" in daemon.wait_state("disk", "retrying")["reason"]
    done = daemon.manage("service", "forget-storage", "node@disk")
    assert done.returncode == 0, done.stderr
    daemon.wait_state("disk", "ready")


def test_a_missing_exporter_names_its_package(start_file: Start) -> None:
    empty = pathlib.Path(os.devnull).parent / "nosuch"
    daemon = start_file({"PATH": str(empty)})
    (daemon.root / "disk").mkdir()
    daemon.start()
    row = daemon.wait_state("disk", "unrecoverable")
    assert "qemu-system-common" in row["reason"]
    daemon.wait_for_log("unrecoverable .*qemu-system-common")
