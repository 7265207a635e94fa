"""What only the file driver has: directories, links, full and lost disks."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc.drivers.base import DriverContext, NoWork
from volsvc.drivers.file import FileDriver
from volsvc.drivers.marker import MARKER_NAME
from volsvc.targets.local import LocalTarget
from volsvc.testing import cuts
from volsvc.testing.driver_contract import MIB, World
from volsvc.testing.file_harness import FileHarness
from volsvc.testing.filesystems import mounted_image, mounted_tmpfs
from volsvc.testing.snapshots import options_of


@pytest.fixture
def harness(tmp_path: pathlib.Path, runtime_path: str) -> FileHarness:
    store = tmp_path / "store"
    store.mkdir()
    return FileHarness(store, runtime_path, LocalTarget)


@pytest.fixture
def world(harness: FileHarness) -> World:
    return World.start(harness)


@pytest.fixture
def small_world(tmp_path: pathlib.Path, runtime_path: str) -> Iterator[World]:
    with mounted_tmpfs(tmp_path / "small", 24) as path:
        world = World.start(FileHarness(path, runtime_path))
        yield world
        world.clear()


def new_driver(path: pathlib.Path, **options: Any) -> FileDriver:
    context = DriverContext("backend", "host@backend", options_of(FileDriver, **options), str(path), str(path))
    return FileDriver(context)


# -- set-up ------------------------------------------------------------------------------


def test_default_directory_is_made_private_below_state_path(tmp_path: pathlib.Path) -> None:
    driver = new_driver(tmp_path)
    driver.do_setup()
    driver.check_for_setup_error()
    assert pathlib.Path(driver.path) == tmp_path / "volumes" / "backend"
    assert os.stat(driver.path).st_mode & 0o777 == 0o700


def test_configured_directory_is_never_made(tmp_path: pathlib.Path) -> None:
    driver = new_driver(tmp_path, file_store_path=str(tmp_path / "unmounted"))
    driver.do_setup()
    for call in (driver.check_for_setup_error, driver.read_identity, driver.get_volume_stats):
        with pytest.raises(exc.BackendUnavailable, match="mounted"):
            call()
    assert not (tmp_path / "unmounted").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"file_store_path": "relative/path"}, "absolute"),
        ({"max_over_subscription_ratio": "0.5"}, "max_over_subscription_ratio"),
    ],
)
def test_options_that_make_no_sense_are_configuration_errors(
    tmp_path: pathlib.Path, options: dict[str, str], words: str
) -> None:
    with pytest.raises(exc.DriverConfigurationError, match=words):
        new_driver(tmp_path, **options).do_setup()


def test_read_only_file_system_is_unavailable_at_set_up(tmp_path: pathlib.Path) -> None:
    with mounted_tmpfs(tmp_path / "disk", 8) as path:
        subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True, timeout=30)
        driver = new_driver(tmp_path, file_store_path=str(path))
        with pytest.raises(exc.BackendUnavailable, match="Read-only"):
            driver.check_for_setup_error()


def test_directory_without_permission_is_unavailable(tmp_path: pathlib.Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("permissions don't stop root")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(exc.BackendUnavailable):
            new_driver(tmp_path, file_store_path=str(tmp_path)).check_for_setup_error()
    finally:
        tmp_path.chmod(0o700)


def test_reflink_is_declared_only_where_the_file_system_has_it(tmp_path: pathlib.Path, runtime_path: str) -> None:
    with mounted_tmpfs(tmp_path / "tmpfs", 8) as path:
        assert "reflink" not in World.start(FileHarness(path, runtime_path, LocalTarget)).driver.abilities
    with mounted_image(tmp_path / "xfs", "xfs", 320) as path:
        abilities = World.start(FileHarness(path, runtime_path, LocalTarget)).driver.abilities
        assert {"reflink", "snapshot_attached"} <= abilities


def test_snapshot_of_a_volume_on_a_local_path_is_refused_without_reflink(
    tmp_path: pathlib.Path, runtime_path: str
) -> None:
    with mounted_tmpfs(tmp_path / "tmpfs", 8) as path:
        world = World.start(FileHarness(path, runtime_path, LocalTarget))
        assert "snapshot_attached" not in world.driver.abilities
        volume = world.create()
        world.attach(volume)
        with pytest.raises(exc.AbilityMissing):
            world.snapshot(volume)
        assert world.harness.leftovers() == []


# -- the marker ---------------------------------------------------------------------------


def test_marker_says_whose_directory_it_is(world: World, harness: FileHarness) -> None:
    found = json.loads((harness.store_path / MARKER_NAME).read_text())
    assert found["uuid"] == world.driver.read_identity()
    assert found["backend"] == "backend"
    assert found["created_at"]


def test_damaged_marker_is_neither_trusted_nor_replaced(world: World, harness: FileHarness) -> None:
    (harness.store_path / MARKER_NAME).write_text("{")
    with pytest.raises(exc.BackendUnavailable, match="damaged"):
        world.create()
    with pytest.raises(exc.BackendUnavailable, match="damaged"):
        harness.new_driver().read_identity()
    assert (harness.store_path / MARKER_NAME).read_text() == "{"


def test_another_backends_marker_stops_every_change(world: World, harness: FileHarness) -> None:
    volume = world.create()
    marker = harness.store_path / MARKER_NAME
    marker.write_text(json.dumps({"uuid": str(uuid.uuid4())}))
    with pytest.raises(exc.BackendUnavailable, match="right file system mounted"):
        world.driver.delete_volume(volume)
    assert (harness.store_path / f"volume-{volume.id}").exists()


def test_marker_is_whole_or_absent_wherever_its_writing_is_cut(harness: FileHarness) -> None:
    marker = harness.store_path / MARKER_NAME
    for cut in cuts.each_cut():
        driver = harness.new_driver()
        assert driver.read_identity() is None
        identity = str(uuid.uuid4())
        try:
            with cut:
                driver.write_identity(identity)
        except cuts.Cut:
            pass
        assert harness.new_driver().read_identity() in (None, identity)
        marker.unlink(missing_ok=True)
    for name in harness.leftovers():
        (harness.store_path / name).unlink()


# -- names -------------------------------------------------------------------------------


def test_links_in_the_directory_are_not_followed(world: World, harness: FileHarness, tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    volume = world.new_volume()
    (harness.store_path / f"volume-{volume.id}").symlink_to(secret)
    calls = [
        lambda: world.driver.create_volume(volume),
        lambda: world.driver.initialize_connection(volume, world.new_attachment(volume)),
        lambda: world.driver.extend_volume(volume, 2),
        lambda: world.snapshot(volume),
    ]
    for call in calls:
        with pytest.raises(exc.DriverError):
            call()
    assert secret.read_bytes() == b"secret" * 1000
    world.driver.delete_volume(volume)
    assert secret.exists()


def test_file_that_is_too_short_is_not_taken_for_the_volume(world: World, harness: FileHarness) -> None:
    volume = world.new_volume()
    path = harness.store_path / f"volume-{volume.id}"
    path.write_bytes(b"somebody's")
    with pytest.raises(exc.DriverError, match="not overwritten"):
        world.driver.create_volume(volume)
    assert path.read_bytes() == b"somebody's"


def test_only_volumes_and_snapshots_are_listed(world: World, harness: FileHarness) -> None:
    volume = world.create()
    for name in ("volume-notes.txt", "other", "volume-", "snapshot-123"):
        (harness.store_path / name).write_text("")
    assert world.driver.list_stored() == {f"volume-{volume.id}"}


def test_missing_volume_file_is_an_error_of_that_volume_alone(world: World) -> None:
    volume = world.new_volume()
    with pytest.raises(exc.DriverError, match=volume.id) as caught:
        world.driver.extend_volume(volume, 2)
    assert not isinstance(caught.value, exc.BackendUnavailable)


# -- leftovers ---------------------------------------------------------------------------


def test_leftovers_of_dead_processes_go_and_those_of_living_threads_stay(world: World, harness: FileHarness) -> None:
    dead = harness.store_path / ".part-volume-dead-1234"
    dead.write_bytes(b"x")
    driver = world.driver
    assert isinstance(driver, FileDriver)
    with driver._directory.opened("test") as store, store.part("volume-living") as part:
        assert driver.remove_leftovers() == [dead.name]
        dead.write_bytes(b"x")
        assert driver.remove_abandoned() == [dead.name]
        assert harness.leftovers() == [part.name]
        store.delete(part.name)


# -- size and room ------------------------------------------------------------------------


def test_volume_is_never_made_smaller(world: World, harness: FileHarness) -> None:
    volume = world.create(2)
    world.driver.extend_volume(volume, 1)
    assert (harness.store_path / f"volume-{volume.id}").stat().st_size == 2 * 1024 * MIB


def test_thin_volume_takes_no_room_and_copies_only_data(world: World, harness: FileHarness) -> None:
    volume = world.create_written()
    snapshot = world.snapshot(volume)
    for name in (f"volume-{volume.id}", f"snapshot-{snapshot.id}"):
        assert (harness.store_path / name).stat().st_blocks * 512 <= 64 * 1024


def test_thick_volume_that_does_not_fit_leaves_nothing(tmp_path: pathlib.Path, runtime_path: str) -> None:
    with mounted_tmpfs(tmp_path / "small", 24) as path:
        harness = FileHarness(path, runtime_path, LocalTarget, file_allocation="thick")
        world = World.start(harness)
        with pytest.raises(exc.StorageFull):
            world.create()
        assert world.driver.list_stored() == frozenset()
        assert harness.leftovers() == []


def test_thick_extension_that_does_not_fit_leaves_the_volume_as_it_was(
    tmp_path: pathlib.Path, runtime_path: str
) -> None:
    with mounted_tmpfs(tmp_path / "small", 24) as path:
        volume = (world := World.start(FileHarness(path, runtime_path, LocalTarget))).create()
        thick = FileHarness(path, runtime_path, LocalTarget, file_allocation="thick").new_driver()
        thick.read_identity()
        with pytest.raises(exc.StorageFull):
            thick.extend_volume(volume, 2)
        assert (path / f"volume-{volume.id}").stat().st_size == 1024 * MIB
        assert world.holds(volume, b"")


@pytest.mark.parametrize("is_attached", [False, True], ids=["detached", "attached"])
def test_copy_onto_a_full_disk_leaves_nothing_and_the_volume_unharmed(small_world: World, is_attached: bool) -> None:
    volume = small_world.create()
    data = os.urandom(16 * MIB)
    with small_world.client(volume) as client:
        client.write(0, data)
        client.flush()
        free = os.statvfs(small_world.driver.path).f_bfree  # type: ignore[attr-defined]
        if is_attached:
            with pytest.raises(exc.StorageFull):
                small_world.snapshot(volume)
            assert client.read(0, len(data)) == data
    if not is_attached:
        with pytest.raises(exc.StorageFull):
            small_world.driver.create_cloned_volume(small_world.new_volume(), volume, NoWork())
    assert small_world.harness.leftovers() == []
    assert os.statvfs(small_world.driver.path).f_bfree == free  # type: ignore[attr-defined]
    assert small_world.driver.list_stored() == {f"volume-{volume.id}"}


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN])
def test_lost_disk_in_the_middle_takes_the_backend_down(world: World, error: int) -> None:
    cut = cuts.CutOs(8, error)
    with cut, pytest.raises(exc.BackendUnavailable):
        world.create()
    assert cut.was_cut


def test_full_disk_at_any_step_leaves_no_file_behind(world: World, harness: FileHarness) -> None:
    volume = world.create_written()
    for cut in cuts.each_cut(errno.ENOSPC):
        before = world.driver.list_stored()
        snapshot = world.new_snapshot(volume)
        try:
            with cut:
                world.driver.create_snapshot(snapshot, volume, NoWork())
        except exc.StorageFull:
            # Cut between a name's birth and its sync, the whole file may stay: it is found when repeated.
            assert world.driver.list_stored() - before <= {f"snapshot-{snapshot.id}"}
        assert harness.leftovers() == []


# -- capacity -----------------------------------------------------------------------------


def test_stats_count_what_is_promised_and_what_is_taken(world: World) -> None:
    world.create_written()
    stats = world.driver.get_volume_stats()
    assert stats.total_capacity_gb is not None
    assert stats.free_capacity_gb is not None
    assert stats.total_capacity_gb >= stats.free_capacity_gb > 0
    assert stats.extra["provisioned_capacity_gb"] == 1
    assert 0 < stats.extra["allocated_capacity_gb"] < 0.001
    assert stats.max_over_subscription_ratio == 20.0
    assert stats.storage_protocol == "local"


def test_auto_ratio_follows_how_full_the_volumes_are(tmp_path: pathlib.Path, runtime_path: str) -> None:
    harness = FileHarness(tmp_path, runtime_path, LocalTarget, max_over_subscription_ratio="auto")
    world = World.start(harness)
    assert world.driver.get_volume_stats().max_over_subscription_ratio == 20.0
    volume = world.create()
    with world.client(volume) as client:
        client.write(0, b"x" * 64 * MIB)
        client.flush()
    assert world.driver.get_volume_stats().max_over_subscription_ratio == pytest.approx(17, rel=0.05)


def test_sizes_beyond_the_file_system_are_a_plain_error(world: World, harness: FileHarness) -> None:
    with pytest.raises(exc.DriverError):
        world.create(64 * 1024 * 1024)
    assert harness.leftovers() == []
