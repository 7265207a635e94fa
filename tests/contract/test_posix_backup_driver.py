"""The posix backup driver keeps the contract, on disks and in memory, and survives being cut anywhere."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import MARKER_NAME, BackupDriverContext
from volsvc.backup.drivers.posix import PosixBackupDriver
from volsvc.backup.drivers.posix_files import PART_DIRECTORY
from volsvc.testing import cuts
from volsvc.testing.backup_driver_contract import (
    MIB,
    BackupDriverContract,
    BackupDriverHarness,
    aligned,
    names_of,
    start,
)
from volsvc.testing.filesystems import mounted_image, mounted_tmpfs
from volsvc.testing.snapshots import options_of

_KILL_DEADLINE_S = 30.0


class PosixHarness(BackupDriverHarness):
    notices_at_once = True

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def new_driver(self) -> PosixBackupDriver:
        options = options_of(PosixBackupDriver, backup_posix_path=str(self.path))
        return PosixBackupDriver(BackupDriverContext("host", options, "/nowhere"))

    @contextlib.contextmanager
    def swap_store(self) -> Iterator[None]:
        hidden = self.path.with_name(f"{self.path.name}-hidden")
        self.path.rename(hidden)
        self.path.mkdir()
        yield
        assert set(os.listdir(self.path)) <= {PART_DIRECTORY}
        for left in self.path.glob("*"):
            left.rmdir()
        self.path.rmdir()
        hidden.rename(self.path)


@pytest.fixture
def store(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


class TestPosixBackupDriver(BackupDriverContract):
    @pytest.fixture
    def harness(self, store: pathlib.Path) -> PosixHarness:
        return PosixHarness(store)


class TestPosixBackupDriverOnXfs(BackupDriverContract):
    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path) -> Iterator[PosixHarness]:
        with mounted_image(tmp_path / "xfs", "xfs", 320) as path:
            (path / "store").mkdir()
            yield PosixHarness(path / "store")


class TestPosixBackupDriverInMemory(BackupDriverContract):
    """tmpfs takes no O_DIRECT on older kernels."""

    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path) -> Iterator[PosixHarness]:
        with mounted_tmpfs(tmp_path / "tmpfs", 200) as path:
            (path / "store").mkdir()
            yield PosixHarness(path / "store")


# -- set-up ------------------------------------------------------------------------------


def test_the_default_directory_is_made_private(tmp_path: pathlib.Path) -> None:
    driver = PosixBackupDriver(BackupDriverContext("host", options_of(PosixBackupDriver), str(tmp_path)))
    driver.do_setup()
    driver.check()
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o700


def test_a_directory_of_ones_own_is_never_made(tmp_path: pathlib.Path) -> None:
    driver = PosixHarness(tmp_path / "unmounted").new_driver()
    driver.do_setup()
    with pytest.raises(exc.BackendUnavailable, match="mounted"):
        driver.check()
    assert not (tmp_path / "unmounted").exists()


def test_nothing_is_left_in_a_directory_before_it_is_known_whose_it_is(store: pathlib.Path) -> None:
    driver = PosixHarness(store).new_driver()
    driver.do_setup()
    driver.check()
    assert list(store.iterdir()) == []


def test_a_relative_directory_is_a_configuration_error() -> None:
    with pytest.raises(exc.DriverConfigurationError, match="backup_posix_path"):
        PosixHarness(pathlib.Path("backups")).new_driver().do_setup()


def test_what_is_stored_is_readable_by_its_owner_only(store: pathlib.Path) -> None:
    driver = start(PosixHarness(store))
    driver.put("a/b", b"secret")
    assert stat.S_IMODE((store / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((store / "a" / "b").stat().st_mode) == 0o600


def test_a_read_only_store_is_unavailable(tmp_path: pathlib.Path) -> None:
    with mounted_tmpfs(tmp_path / "ro", 8) as path:
        driver = start(PosixHarness(path))
        subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True, timeout=30)
        for call in (driver.check, lambda: driver.put("a", b"1"), lambda: driver.delete(MARKER_NAME)):
            with pytest.raises(exc.BackendUnavailable):
                call()
        subprocess.run(["mount", "-o", "remount,rw", str(path)], check=True, timeout=30)
        driver.check()


def test_a_full_store_says_so_and_keeps_nothing_partial(tmp_path: pathlib.Path) -> None:
    with mounted_tmpfs(tmp_path / "full", 4) as path:
        driver = start(PosixHarness(path))
        driver.put("kept", b"1" * MIB)
        with pytest.raises(exc.StorageFull):
            driver.put("large", aligned(b"x" * 5 * MIB))
        assert names_of(driver) == ["kept", MARKER_NAME]
        assert os.listdir(path / PART_DIRECTORY) == []
        driver.put("small", b"2" * MIB)


# -- never outside -----------------------------------------------------------------------


def test_links_are_not_followed(store: pathlib.Path, tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"theirs")
    driver = start(PosixHarness(store))
    (store / "data").symlink_to(outside)
    (store / "link").symlink_to(outside / "file")
    for call in (
        lambda: driver.put("data/x", b"1"),
        lambda: driver.get("data/file"),
        lambda: driver.get("link"),
        lambda: driver.delete("data/file"),
        lambda: list(driver.list("data/")),
    ):
        with pytest.raises(exc.DriverError):
            call()
    driver.delete("link")
    assert names_of(driver) == [MARKER_NAME]
    assert [path.name for path in outside.iterdir()] == ["file"]


def test_what_is_no_file_is_not_read(store: pathlib.Path) -> None:
    driver = start(PosixHarness(store))
    os.mkfifo(store / "pipe")
    (store / "directory").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(exc.DriverError):
            driver.get(name)
    with pytest.raises(exc.DriverError):
        driver.delete("directory")


# -- cut anywhere ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["put", "put_if_absent", "delete"])
def test_cut_at_each_step_and_repeated(store: pathlib.Path, method: str) -> None:
    cuts_seen = 0
    for cut in cuts.each_cut():
        driver = start(PosixHarness(store))
        driver.put("d/old", b"old")
        call = {
            "put": lambda d: d.put("d/x", aligned(b"n" * 2 * MIB)),
            "put_if_absent": lambda d: d.put_if_absent("d/x", b"n" * 100),
            "delete": lambda d: d.delete("d/old"),
        }[method]
        with cut, contextlib.suppress(cuts.Cut):
            call(driver)
        cuts_seen += cut.was_cut
        again = start(PosixHarness(store))
        for page in again.list("d/"):
            for item in page:
                assert set(again.get(item.name)) in ({ord("n")}, set(b"old"))
                assert item.size_bytes == len(again.get(item.name))
        with contextlib.suppress(exc.BackupObjectExists):
            call(again)
        assert names_of(again, "d/") == ([] if method == "delete" else ["d/old", "d/x"])
        assert os.listdir(store / PART_DIRECTORY) == []
        again.delete_many(["d/x", "d/old"])
        assert sorted(os.listdir(store)) == [PART_DIRECTORY, MARKER_NAME]
    assert cuts_seen > 5


_WRITER = """
import sys
from volsvc.backup.drivers.base import BackupDriverContext
from volsvc.backup.drivers.posix import PosixBackupDriver
from volsvc.testing.backup_driver_contract import aligned
from volsvc.testing.snapshots import options_of
options = options_of(PosixBackupDriver, backup_posix_path=sys.argv[1])
driver = PosixBackupDriver(BackupDriverContext("host", options, "/nowhere"))
driver.read_identity()
number = 0
while True:
    driver.put(f"x/{number % 3}", aligned(bytes([number % 251]) * 2_000_003))
    number += 1
"""


def test_killed_while_it_writes_leaves_whole_objects_and_what_a_sweep_removes(store: pathlib.Path) -> None:
    start(PosixHarness(store))
    for round_number in range(4):
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(store)], start_new_session=True)
        try:
            deadline = time.monotonic() + _KILL_DEADLINE_S
            seen = (store / "x/2").stat().st_mtime_ns if round_number else 0
            while not (store / "x/2").exists() or (store / "x/2").stat().st_mtime_ns == seen:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.003)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(_KILL_DEADLINE_S)
        driver = start(PosixHarness(store))
        assert os.listdir(store / PART_DIRECTORY) == []
        for name in names_of(driver, "x/"):
            data = driver.get(name)
            assert len(data) == 2_000_003
            assert len(set(data)) == 1


def test_a_sweep_leaves_files_alone_that_are_being_written(store: pathlib.Path) -> None:
    from volsvc.backup.drivers import posix_files

    driver = start(PosixHarness(store))
    driver.put("a", b"1")
    parts = os.open(store / PART_DIRECTORY, os.O_RDONLY)
    name, fd = posix_files._create_locked(parts)
    try:
        assert start(PosixHarness(store)).remove_leftovers() == []
        assert os.listdir(store / PART_DIRECTORY) == [name]
    finally:
        os.close(fd)
        os.close(parts)
    assert driver.remove_leftovers() == [name]
