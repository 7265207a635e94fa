"""A posix store that is lost or full while a daemon serves it: shown, refused with the reason, healed; nothing lost."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.functional.backup.backing import (
    BackupUser,
    ScriptedBackups,
    list_files,
    open_store,
    refused,
    require_store,
)
from tests.functional.user import MIB
from volsvc.backup.drivers.base import MARKER_NAME
from volsvc.testing.daemon import Daemon, wait_until
from volsvc.testing.filesystems import mounted_image, mounted_tmpfs

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("backup-posix")]


@dataclass
class Served:
    """A service on a store of its own, with a volume, a backup that is whole and one in error that was never stored."""

    scripted: ScriptedBackups
    user: BackupUser
    volume: Any
    kept: Any
    digest: str
    store: pathlib.Path

    def failed(self) -> Any:
        self.scripted.write({"put_start": {"fail": True, "error": "StorageFull", "message": "no room"}})
        backup = self.user.cinder.backups.create(self.volume.id)
        self.user.wait_backup(backup.id, "error")
        self.scripted.write({})
        return backup

    def require_kept(self) -> None:
        """The backup is as good as it was."""
        self.user.wait_backup(self.kept.id)
        assert self.user.digest(self.user.restore(self.kept, self.volume)) == self.digest
        self.user.require_nothing_lent()
        self.user.require_store(self.store)


def serve(daemon: Daemon, store: pathlib.Path, **options: Any) -> Served:
    scripted = ScriptedBackups(daemon, backup_posix_path=store, backend_loss_threshold=2, **options)
    user = BackupUser(daemon.start().wait_ready())
    volume = user.filled(seed=1, mib=40)
    return Served(scripted, user, volume, user.back_up(volume), user.digest(volume), store)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    store = tmp_path_factory.mktemp("disk") / "store"
    store.mkdir()
    with Daemon(options={}) as daemon:
        yield serve(daemon, store)


# -- ways to lose a store: each yields while it is lost, with words of the reason -------------------------


@contextlib.contextmanager
def missing(store: pathlib.Path) -> Iterator[str]:
    away = store.with_name("away")
    store.rename(away)
    try:
        yield "is not there; is the file system mounted?"
    finally:
        away.rename(store)


@contextlib.contextmanager
def emptied(store: pathlib.Path) -> Iterator[str]:
    """As an unmounted file system leaves it."""
    with missing(store):
        store.mkdir()
        try:
            yield "no marker"
            assert objects_in(store) == [], "the wrong directory was used"
        finally:
            shutil.rmtree(store)


@contextlib.contextmanager
def replaced(store: pathlib.Path) -> Iterator[str]:
    other = "11111111-2222-4333-8444-555555555555"
    with missing(store):
        store.mkdir()
        (store / MARKER_NAME).write_text(f'{{"format": 1, "uuid": "{other}"}}')
        try:
            yield other
            assert objects_in(store) == [MARKER_NAME], "the wrong store was used"
        finally:
            shutil.rmtree(store)


@contextlib.contextmanager
def file_in_its_place(store: pathlib.Path) -> Iterator[str]:
    with missing(store):
        store.write_text("no directory")
        try:
            yield "Not a directory"
        finally:
            store.unlink()


@contextlib.contextmanager
def damaged_marker(store: pathlib.Path) -> Iterator[str]:
    marker = store / MARKER_NAME
    text = marker.read_text()
    marker.write_text("{")
    try:
        yield "is damaged"
    finally:
        marker.write_text(text)


@contextlib.contextmanager
def read_only(store: pathlib.Path) -> Iterator[str]:
    """Root may write anywhere but where the file system is read-only."""
    if os.geteuid() != 0:
        (store / ".part").chmod(0o500)
        try:
            yield "Permission denied"
        finally:
            (store / ".part").chmod(0o700)
        return
    if mount("--bind", str(store), str(store)):
        pytest.skip("this machine can't mount a directory a second time")
    try:
        assert mount("-o", "remount,ro,bind", str(store)) == 0
        yield "Read-only file system"
    finally:
        subprocess.run(["umount", "--lazy", str(store)], check=True, timeout=30)


def mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], capture_output=True, timeout=30, check=False).returncode


def objects_in(store: pathlib.Path) -> list[str]:
    return [name for name in list_files(store) if not name.startswith(".part")]


WAYS = (missing, emptied, replaced, file_in_its_place, damaged_marker, read_only)


@pytest.mark.parametrize("lose", WAYS, ids=lambda way: way.__name__)
def test_a_lost_store_is_shown_refused_with_its_reason_and_used_again_when_it_is_back(
    served: Served, lose: Callable[[pathlib.Path], contextlib.AbstractContextManager[str]]
) -> None:
    user, failed, records = served.user, served.failed(), served.user.backups()
    kept = served.kept.id
    with lose(served.store) as reason:
        user.wait_service("down", reason)
        for method, path, body in (
            ("POST", "/backups", {"backup": {"volume_id": served.volume.id}}),
            ("POST", f"/backups/{kept}/restore", {"restore": {}}),
            ("DELETE", f"/backups/{kept}", None),
            ("POST", f"/backups/{kept}/action", {"os-force_delete": {}}),
        ):
            words = refused(user, 503, path, body, method)
            assert reason in words, (method, path, words)
        assert user.backups() == records
        user.cinder.backups.delete(failed.id)
        user.wait_backups_gone(failed)
        user.create(1)
    user.wait_service("up")
    served.require_kept()


def test_a_deletion_and_a_backup_that_lose_their_store_in_the_middle_end_when_it_is_back(served: Served) -> None:
    """An answer that nothing is there is no proof that it is gone."""
    user, scripted = served.user, served.scripted
    other = user.back_up(served.volume)
    for method, way in (("delete_root", emptied), ("delete_data", missing), ("delete_start", replaced)):
        number = scripted.hang(method)
        user.cinder.backups.delete(other.id)
        scripted.wait_call(method, number)
        with way(served.store) as reason:
            scripted.write({})
            user.wait_service("down", reason)
            [row] = [row for row in user.backups() if row["id"] == other.id]
            assert row["status"] == "deleting"
        user.wait_service("up")
        user.wait_backups_gone(other)
        other = user.back_up(served.volume)
    for method, way in (("put_start", missing), ("put_pack", emptied), ("put_pages", replaced), ("put_root", missing)):
        number = scripted.hang(method)
        backup = user.cinder.backups.create(served.volume.id)
        scripted.wait_call(method, number)
        with way(served.store) as reason:
            scripted.write({})
            user.wait_service("down", reason)
            assert user.cinder.backups.get(backup.id).status == "creating"
        user.wait_backup(backup.id)
        user.require_store(served.store)
    target = user.create(1)
    number = scripted.hang("get_pack", 2)
    user.cinder.restores.restore(other.id, target.id)
    scripted.wait_call("get_pack", number)
    with emptied(served.store) as reason:
        scripted.write({})
        user.wait_service("down", reason)
        assert user.cinder.backups.get(other.id).status == "restoring"
    user.wait_volume(target.id)
    assert user.digest(target) == served.digest
    served.require_kept()


def test_a_store_that_answers_too_little_once_loses_nothing(served: Served) -> None:
    """A directory whose contents are gone for a moment, while somebody asks for everything."""
    user = served.user
    data = served.store / "data" / served.kept.id
    aside = served.store.with_name("packs")
    data.rename(aside)
    target = user.create(1)
    user.cinder.restores.restore(served.kept.id, target.id)
    user.wait_volume(target.id, "error_restoring")
    assert user.cinder.backups.get(served.kept.id).status == "available"
    assert "is gone" in user.fail_reason(served.kept.id)
    aside.rename(data)
    user.cinder.volumes.delete(target)
    user.wait_gone(target)
    served.require_kept()
    assert user.get(f"/backups/{served.kept.id}")["backup"]["fail_reason"] is None


def test_a_backup_and_a_restore_whose_store_stays_away_are_given_up_and_give_all_back(
    make_daemon: Callable[..., Daemon], tmp_path: pathlib.Path
) -> None:
    """While the store is still away: what they were lent is free again, and users are told."""
    store = tmp_path / "store"
    store.mkdir()
    served = serve(make_daemon(), store, operation_queue_timeout=2)
    user, scripted = served.user, served.scripted
    connection = user.connect(served.volume)
    number = scripted.hang("put_pack")
    backup = user.cinder.backups.create(served.volume.id, force=True)
    scripted.wait_call("put_pack", number)
    target = user.create(1)
    number = scripted.calls("get_pack") + 1
    scripted.write({"put_pack": {"hang": True}, "get_pack": {"hang": True}})
    user.cinder.restores.restore(served.kept.id, target.id)
    scripted.wait_call("get_pack", number)
    with emptied(store):
        scripted.write({})
        user.wait_service("down", "no marker")
        user.wait_backup(backup.id, "error")
        assert re.search("until its deadline .*no marker", user.fail_reason(backup.id)), user.fail_reason(backup.id)
        user.wait_volume(target.id, "error_restoring")
        assert user.cinder.backups.get(served.kept.id).status == "available"
        assert user.cinder.volumes.get(served.volume.id).status == "in-use"
        wait_until(lambda: not user.cinder.volume_snapshots.list(), "the temporary snapshot to be gone")
        wait_until(lambda: not list_files(user.daemon.state / "backup-journals"), "the journal to be gone")
        user.require_nothing_lent()
        assert "no marker" in refused(user, 503, f"/backups/{backup.id}", None, "DELETE")
    user.wait_service("up")
    user.cinder.backups.delete(backup.id)
    user.wait_backups_gone(backup)
    user.disconnect(connection)
    served.require_kept()


# -- while no daemon runs -------------------------------------------------------------------------------


def test_without_a_daemon_only_what_was_never_stored_is_deleted_and_the_rest_says_why(
    make_daemon: Callable[..., Daemon], tmp_path: pathlib.Path
) -> None:
    backups = make_daemon(program="volsvc-backup")
    scripted = ScriptedBackups(backups, backup_posix_path=tmp_path)
    backups.start()
    others = [make_daemon(backups.root, program=program) for program in ("volsvc-volume", "volsvc-api")]
    for daemon in others:
        daemon.environment = backups.environment
        daemon.start()
    user = BackupUser(others[1].wait_ready())
    volume = user.filled(seed=1)
    kept = user.back_up(volume)
    served = Served(scripted, user, volume, kept, user.digest(volume), tmp_path)
    failed = [served.failed() for _ in range(2)]
    assert backups.stop() == 0
    user.wait_service("down")
    for method, path, body in (
        ("POST", "/backups", {"backup": {"volume_id": volume.id}}),
        ("POST", f"/backups/{kept.id}/restore", {"restore": {}}),
        ("DELETE", f"/backups/{kept.id}", None),
    ):
        assert "stopped" in refused(user, 503, path, body, method)
    user.cinder.backups.delete(failed[0].id)
    user.cinder.backups.delete(failed[1].id, force=True)
    user.wait_backups_gone(*failed)
    backups.start()
    user.wait_service("up")
    served.require_kept()


# -- a disk that is full, and one that is unmounted --------------------------------------------------------


def test_a_store_that_is_full_at_any_byte_fails_the_backup_and_keeps_nothing_of_it(tmp_path: pathlib.Path) -> None:
    with mounted_tmpfs(tmp_path / "mnt", 200) as disk, Daemon(options={}) as daemon:
        store = disk / "store"
        store.mkdir()
        served = serve(daemon, store)
        user, filler = served.user, disk / "somebody-elses"
        before = list_files(store)
        needed = sum((store / name).stat().st_size for name in before)
        room = [0, 4096, 64 * 1024, needed // 4, needed // 2, needed - MIB, needed - 64 * 1024]
        for leaving in room:
            found = os.statvfs(disk)
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - leaving)
            backup = user.cinder.backups.create(served.volume.id)
            user.wait_backup(backup.id, "error")
            assert "no room" in user.fail_reason(backup.id), leaving
            assert user.service()["state"] == "up", "a full store still gives its backups back"
            assert user.cinder.volumes.get(served.volume.id).status == "available"
            assert list_files(store) == before, f"left of a backup that had room for {leaving} bytes"
            user.cinder.backups.delete(backup.id)
            user.wait_backups_gone(backup)
            if leaving == room[0]:
                assert user.digest(user.restore(served.kept, served.volume)) == served.digest
            filler.unlink()
        again = user.back_up(served.volume)
        require_store(store, {served.kept.id, again.id})
        user.require_nothing_lent()


def test_a_file_system_that_is_unmounted_and_comes_back_has_all_that_it_had(tmp_path: pathlib.Path) -> None:
    with mounted_image(tmp_path / "mnt", "ext4", 300) as disk, Daemon(options={}) as daemon:
        served = serve(daemon, disk)
        user, scripted = served.user, served.scripted
        number = scripted.hang("put_pack", 2)
        backup = user.cinder.backups.create(served.volume.id)
        scripted.wait_call("put_pack", number)
        subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=30)
        try:
            scripted.write({})
            user.wait_service("down", "no marker")
            assert user.cinder.backups.get(backup.id).status == "creating"
            assert "no marker" in refused(user, 503, f"/backups/{served.kept.id}", None, "DELETE")
            assert objects_in(disk) == []
        finally:
            assert mount("-o", "loop", str(disk.with_name("mnt.img")), str(disk)) == 0
        user.wait_backup(backup.id)
        served.require_kept()
        assert open_store(disk).identity is not None
        wait_until(lambda: user.service()["state"] == "up", "the service to be up")
