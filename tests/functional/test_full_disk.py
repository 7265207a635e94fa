"""A disk that is full: an error with the reason, nothing partial, and a service that goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.user import GIB, MIB, User, files_in, fill
from volsvc.testing.daemon import Daemon, wait_until
from volsvc.testing.filesystems import mounted_image


@dataclasses.dataclass(frozen=True)
class SmallDisk:
    """A service whose two backends, thin and thick, are on one small file system."""

    user: User
    path: pathlib.Path

    def create(self, kind: str, **fields: Any) -> Any:
        return self.user.cinder.volumes.create(1, volume_type=kind, **fields)

    @contextlib.contextmanager
    def filled(self, leaving_mib: int) -> Iterator[None]:
        """Somebody else's file takes all but so much."""
        filler = self.path / "somebody-elses"
        with filler.open("wb") as file:
            found = os.statvfs(self.path)
            os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - leaving_mib * MIB)
        try:
            yield
        finally:
            filler.unlink()

    def files(self, kind: str) -> set[str]:
        return set(files_in(self.path / kind))

    def require_full(self, item: Any, kind: str = "volume") -> None:
        """It is in error, its operation says why, and nothing of it is on the disk."""
        wait = self.user.wait_volume if kind == "volume" else self.user.wait_snapshot
        wait(item.id, "error")
        operation = self.user.operations(item.id)[0]
        assert operation["state"] == "failed"
        assert re.search("full.*Free some room", operation["error"]), operation["error"]
        for backend in ("thin", "thick"):
            assert not [name for name in self.files(backend) if item.id in name or name.startswith(".part")]


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with mounted_image(tmp_path_factory.mktemp("disk") / "mnt", "ext4", 2600) as path, Daemon() as daemon:
        groups = {}
        for name in ("thin", "thick"):
            (path / name).mkdir()
            groups[name] = {"file_store_path": path / name, "file_allocation": name}
        daemon.configure({"enabled_backends": "thin,thick"}, groups)
        user = User(daemon.start().wait_ready())
        for name in groups:
            user.cinder.volume_types.create(name).set_keys({"volume_backend_name": name})
        yield SmallDisk(user, path)


def test_a_disk_that_is_full_while_creating_leaves_an_error_with_the_reason(small_disk: SmallDisk) -> None:
    with small_disk.filled(leaving_mib=100):
        failed = small_disk.create("thick")
        small_disk.require_full(failed)
        other = small_disk.create("thin")
        small_disk.user.wait_volume(other.id)
    small_disk.user.cinder.volumes.delete(failed)
    small_disk.user.wait_gone(failed)
    again = small_disk.create("thick")
    small_disk.user.wait_volume(again.id)
    small_disk.user.cinder.volumes.delete(again)
    small_disk.user.cinder.volumes.delete(other)
    small_disk.user.wait_gone(again, other)


@pytest.mark.parametrize("is_attached", [False, True])
def test_a_disk_that_is_full_while_copying_or_snapshotting_leaves_an_error_with_the_reason(
    small_disk: SmallDisk, is_attached: bool
) -> None:
    user = small_disk.user
    source = user.wait_volume(small_disk.create("thin").id)
    connection = user.connect(source)
    fill(connection, {at * MIB: os.urandom(4 * MIB) for at in range(0, 800, 50)})
    if not is_attached:
        user.disconnect(connection)
    snapshot = user.snapshot(source)
    with small_disk.filled(leaving_mib=30):
        failed = [small_disk.create("thin", source_volid=source.id), small_disk.create("thin", snapshot_id=snapshot.id)]
        failed_snapshot = user.cinder.volume_snapshots.create(source.id, force=True)
        for volume in failed:
            small_disk.require_full(volume)
        small_disk.require_full(failed_snapshot, "snapshot")
        if is_attached:
            connection.write(0, b"the client goes on")
    user.cinder.volume_snapshots.delete(failed_snapshot)
    user.wait_gone(failed_snapshot)
    clone = user.wait_volume(small_disk.create("thin", source_volid=source.id).id)
    if is_attached:
        user.disconnect(connection)
    user.cinder.volume_snapshots.delete(snapshot)
    user.wait_gone(snapshot)
    for volume in (*failed, clone, source):
        user.cinder.volumes.delete(volume)
    user.wait_gone(*failed, clone, source)
    assert small_disk.files("thin") == {".volsvc-backend.json"}


@pytest.mark.parametrize(("is_attached", "status"), [(False, "error_extending"), (True, "in-use")])
def test_a_disk_that_is_full_while_extending_keeps_the_size_and_says_why(
    small_disk: SmallDisk, is_attached: bool, status: str
) -> None:
    user = small_disk.user
    volume = user.wait_volume(small_disk.create("thick").id)
    path = small_disk.path / "thick" / f"volume-{volume.id}"
    connection = user.connect(volume) if is_attached else None
    with small_disk.filled(leaving_mib=100):
        user.cinder.volumes.extend(volume, 2)
        wait_until(lambda: user.operations(volume.id)[0]["state"] == "failed", "the extend to fail")
        assert re.search("full.*Free some room", user.last_error(volume.id))
        shown = user.cinder.volumes.get(volume.id)
        assert (shown.status, shown.size, path.stat().st_size) == (status, 1, GIB)
        if connection is not None:
            connection.write(GIB - MIB, os.urandom(MIB))
            user.disconnect(connection)
    user.cinder.volumes.delete(volume)
    user.wait_gone(volume)
    again = user.wait_volume(small_disk.create("thick").id)
    user.cinder.volumes.extend(again, 2)
    user.wait_volume(again.id)
    user.cinder.volumes.delete(again)
    user.wait_gone(again)
