"""The file driver on a directory that is missing, another, full, read-only."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Callable

import pytest

from tests.functional.healing.backends import HealingDaemon
from tests.functional.user import User
from volsvc.testing.daemon import wait_until
from volsvc.testing.filesystems import mounted_tmpfs

pytestmark = pytest.mark.slow

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
    assert "is up" in daemon.manage("service", "forget-storage", "node@disk").stderr
    assert daemon.stop() == 0
    assert "has volumes" in daemon.manage("service", "forget-storage", "node@disk").stderr
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_takes_the_backend_down_until_it_may(start_file: Start) -> None:
    daemon = start_file()
    disk = daemon.root / "disk"
    disk.mkdir()
    daemon.start()
    daemon.wait_state("disk", "ready")
    user = User(daemon)
    doomed = user.create()
    disk.chmod(0o555)
    try:
        daemon.cinder().volumes.delete(doomed)
        row = daemon.wait_state("disk", "lost")
        assert "Permission denied" in row["reason"]
        assert f"(uid {os.geteuid()})" in row["reason"]
        wait_until(lambda: daemon.services()["disk"]["attempts"] >= 2, "attempts that fail")
    finally:
        disk.chmod(0o755)
    user.wait_gone(doomed)
    daemon.wait_state("disk", "ready")


# -- mounted file systems (as root) -----------------------------------------------------------------


def fill(directory: pathlib.Path) -> pathlib.Path:
    """Use up every byte of a file system."""
    path = directory / "something-else"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(65536)):
            pass
    assert os.statvfs(directory).f_bavail == 0
    return path


@pytest.fixture
def small(start_file: Start) -> HealingDaemon:
    """A daemon, not started, that promises far more than its small file system has."""
    daemon = start_file()
    daemon.groups["disk"] = {**daemon.groups["disk"], "max_over_subscription_ratio": 10000}
    daemon.write()
    return daemon


def test_a_full_file_system_at_the_start_is_served_so_that_room_can_be_made(small: HealingDaemon) -> None:
    daemon = small
    with mounted_tmpfs(daemon.root / "disk", 2) as disk:
        daemon.start()
        daemon.wait_state("disk", "ready")
        user = User(daemon)
        kept, doomed = user.create(), user.create()
        assert daemon.stop() == 0
        filler = fill(disk)
        daemon.start()
        daemon.wait_state("disk", "ready")
        daemon.wait_for_log("there is no room in .*disk")
        user = User(daemon)
        connection = user.connect(kept)
        assert connection.read(0, 512) == bytes(512)
        user.disconnect(connection)
        daemon.cinder().volumes.delete(doomed)
        user.wait_gone(doomed)
        assert daemon.services()["disk"]["losses"] == 0
        filler.unlink()
        wait_until(lambda: daemon.services()["disk"]["capabilities"]["free_capacity_gb"], "the room to be published")
        user.wait_volume(daemon.cinder().volumes.create(1).id)
        assert daemon.stop() == 0


def test_a_file_system_that_fills_fails_what_needs_room_and_stays_ready(small: HealingDaemon) -> None:
    daemon = small
    with mounted_tmpfs(daemon.root / "disk", 2) as disk:
        daemon.start()
        daemon.wait_state("disk", "ready")
        user = User(daemon)
        source = user.create()
        connection = user.connect(source)
        connection.write(0, b"x" * 4096)
        user.disconnect(connection)
        filler = fill(disk)
        snapshot = user.cinder.volume_snapshots.create(source.id)
        user.wait_snapshot(snapshot.id, "error")
        assert "full" in user.last_error(snapshot.id)
        row = daemon.services()["disk"]
        assert (row["state"], row["losses"]) == ("ready", 0)
        filler.unlink()
        user.snapshot(source)
        assert daemon.stop() == 0


def test_a_file_system_that_becomes_read_only_takes_the_backend_down_until_it_is_writable(small: HealingDaemon) -> None:
    daemon = small
    with mounted_tmpfs(daemon.root / "disk", 4) as disk:
        daemon.start()
        daemon.wait_state("disk", "ready")
        user = User(daemon)
        attached, doomed = user.create(), user.create()
        connection = user.connect(attached)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=False, capture_output=True)
        if os.access(disk, os.W_OK):
            # An open exporter keeps the kernel from remounting it; a bind mount can be read-only beside it.
            subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True, capture_output=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True, capture_output=True)
        try:
            daemon.cinder().volumes.delete(doomed)
            row = daemon.wait_state("disk", "lost")
            assert "Read-only file system" in row["reason"]
            assert connection.read(0, 512) == bytes(512), "a client that reads does not notice"
            assert daemon.cinder().volumes.get(doomed.id).status == "deleting"
        finally:
            subprocess.run(["umount", str(disk)], check=True, capture_output=True)
        user.wait_gone(doomed)
        daemon.wait_state("disk", "ready")
        connection.write(0, b"y" * 512)
        user.disconnect(connection)
        assert daemon.stop() == 0


def test_an_unmounted_file_system_is_missed_and_nothing_is_made_under_it(small: HealingDaemon) -> None:
    daemon = small
    disk = daemon.root / "disk"
    disk.mkdir()
    (disk / "what is under it").touch()
    with mounted_tmpfs(daemon.root / "disk", 4):
        daemon.start()
        daemon.wait_state("disk", "ready")
        user = User(daemon)
        kept = user.create()
        subprocess.run(["umount", "--lazy", str(disk)], check=True, capture_output=True)
        row = daemon.wait_state("disk", "lost")
        assert "mounted" in row["reason"]
        daemon.cinder().volumes.delete(kept)
        wait_until(lambda: daemon.services()["disk"]["attempts"] >= 2, "attempts that fail")
        assert os.listdir(disk) == ["what is under it"]
        assert daemon.cinder().volumes.get(kept.id).status == "deleting"
        daemon.kill()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=True, capture_output=True)
