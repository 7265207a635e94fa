"""Backups, restores and deletions that meet: what waits, what is refused, and what a cancel leaves."""

from __future__ import annotations

from typing import Any

import pytest

from tests.functional.backup.backing import BackupUser, ScriptedBackups, refused
from volsvc.testing.daemon import wait_until

MISSING = "aaaaaaaa-1111-4222-8333-444444444444"


def states(user: BackupUser, items: list[Any]) -> list[str]:
    """Of the newest operation of each."""
    return sorted(user.operations(item.id)[0]["state"] for item in items)


def test_no_more_backups_run_at_a_time_than_the_limit_and_the_others_wait(
    scripted: ScriptedBackups, scripted_user: BackupUser
) -> None:
    user = scripted_user
    volumes = [user.filled(seed=number, mib=2) for number in range(4)]
    number = scripted.hang("put_pack")
    backups = [user.cinder.backups.create(volume.id, name=f"b{i}") for i, volume in enumerate(volumes)]
    scripted.wait_call("put_pack", number + 1)
    wait_until(lambda: states(user, backups) == ["queued", "queued", "running", "running"], "two to run")
    other = user.create(1)
    assert other.status == "available", "a volume's work waits for no backup"
    assert scripted.calls("put_pack") == number + 1
    scripted.write({})
    for volume, backup in zip(volumes, backups, strict=True):
        user.wait_backup(backup.id)
        before = user.digest(volume)
        assert user.digest(user.restore(backup)) == before
    user.require_nothing_lent()


def test_a_volume_and_its_snapshots_are_backed_up_at_once(scripted: ScriptedBackups, scripted_user: BackupUser) -> None:
    user = scripted_user
    volume = user.filled(seed=1)
    before = user.digest(volume)
    snapshot = user.snapshot(volume)
    connection = user.connect(volume)
    connection.write(0, b"later")
    number = scripted.hang("put_pack")
    of_snapshot = user.cinder.backups.create(volume.id, snapshot_id=snapshot.id)
    of_volume = user.cinder.backups.create(volume.id, force=True)
    scripted.wait_call("put_pack", number + 1)
    again = {"backup": {"volume_id": volume.id, "snapshot_id": snapshot.id}}
    assert "backing-up" in refused(user, 400, "/backups", again)
    assert "backing-up" in refused(user, 400, f"/snapshots/{snapshot.id}", None, "DELETE")
    scripted.write({})
    user.wait_backup(of_snapshot.id)
    user.wait_backup(of_volume.id)
    assert user.cinder.volume_snapshots.get(snapshot.id).status == "available"
    user.disconnect(connection)
    assert user.digest(user.restore(of_snapshot)) == before
    assert user.digest(user.restore(of_volume)) == user.digest(volume) != before
    user.require_nothing_lent()


def test_a_backup_is_restored_only_whole_and_to_a_volume_that_is_large_enough(
    scripted: ScriptedBackups, scripted_user: BackupUser
) -> None:
    user = scripted_user
    volume, small = user.filled(seed=1, size_gb=2), user.create(1)
    backup = user.back_up(volume)
    words = refused(user, 400, f"/backups/{backup.id}/restore", {"restore": {"volume_id": small.id}})
    assert "too small" in words
    assert "extend it" in words
    refused(user, 404, f"/backups/{MISSING}/restore", {"restore": {"volume_id": volume.id}})

    number = scripted.hang("put_pack")
    unfinished = user.cinder.backups.create(volume.id)
    scripted.wait_call("put_pack", number)
    for target in ({}, {"volume_id": small.id}):
        assert "creating" in refused(user, 400, f"/backups/{unfinished.id}/restore", {"restore": target})
    assert "creating" in refused(user, 400, f"/backups/{unfinished.id}", None, "DELETE")
    scripted.write({})
    user.wait_backup(unfinished.id)

    number = scripted.hang("delete_root")
    user.cinder.backups.delete(backup.id)
    scripted.wait_call("delete_root", number)
    assert "deleting" in refused(user, 400, f"/backups/{backup.id}/restore", {"restore": {}})
    scripted.write({})
    user.wait_backups_gone(backup)

    number = scripted.hang("get_pack")
    user.cinder.restores.restore(unfinished.id, volume.id)
    scripted.wait_call("get_pack", number)
    assert "restoring" in refused(user, 400, f"/backups/{unfinished.id}", None, "DELETE")
    assert "restoring" in refused(user, 400, f"/backups/{unfinished.id}/restore", {"restore": {"volume_id": small.id}})
    assert "restoring" in refused(user, 400, f"/volumes/{volume.id}", None, "DELETE")
    scripted.write({})
    user.wait_volume(volume.id)
    user.require_nothing_lent()


@pytest.mark.parametrize("kind", ["roots/", "{}/d-", "{}/m-"])
def test_a_byte_that_was_changed_in_the_store_is_found_before_anybody_gets_it(
    scripted: ScriptedBackups, scripted_user: BackupUser, kind: str
) -> None:
    user = scripted_user
    volume, target = user.filled(seed=1), user.create(1)
    backup = user.back_up(volume)
    objects = [path for path in scripted.store.rglob("*") if backup.id in str(path) and path.is_file()]
    path = next(path for path in objects if f"{path.parent.name}/{path.name}".startswith(kind.format(backup.id)))
    whole = path.read_bytes()
    path.chmod(0o600)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    user.cinder.restores.restore(backup.id, target.id)
    user.wait_volume(target.id, "error_restoring")
    assert "damaged" in user.fail_reason(backup.id)
    path.write_bytes(whole)
    user.cinder.volumes.reset_state(target, "available")
    user.restore(backup, target)
    assert user.digest(target) == user.digest(volume)
    user.require_nothing_lent()


def test_a_backup_that_is_deleted_by_force_in_the_middle_leaves_nothing_and_a_volume_as_it_was(
    scripted: ScriptedBackups, scripted_user: BackupUser
) -> None:
    user = scripted_user
    volume = user.filled(seed=1, mib=40)
    connection = user.connect(volume)
    scripted.write({"put_pack": {"delay_s": 1.0}})
    number = scripted.calls("put_pack")
    backup = user.cinder.backups.create(volume.id, force=True)
    scripted.wait_call("put_pack", number + 2)
    user.cinder.backups.delete(backup.id, force=True)
    user.wait_backups_gone(backup)
    assert user.wait_volume(volume.id, "in-use").status == "in-use"
    user.disconnect(connection)
    user.require_nothing_lent()
    user.require_store(scripted.store)
    assert {o["action"]: o["state"] for o in user.operations(backup.id)} == {
        "backup_force_delete": "done",
        "backup_create": "cancelled",
    }


def test_a_restore_whose_backup_is_deleted_by_force_ends_and_says_so(
    scripted: ScriptedBackups, scripted_user: BackupUser
) -> None:
    user = scripted_user
    volume = user.filled(seed=1, mib=40)
    backup = user.back_up(volume)
    target = user.create(1)
    scripted.write({"get_pack": {"delay_s": 0.5}})
    number = scripted.calls("get_pack")
    user.cinder.restores.restore(backup.id, target.id)
    scripted.wait_call("get_pack", number + 2)
    user.cinder.backups.delete(backup.id, force=True)
    user.wait_backups_gone(backup)
    user.wait_volume(target.id, "error_restoring")
    user.require_nothing_lent()
    user.require_store(scripted.store)
    for item in (target, volume):
        user.cinder.volumes.delete(item)
    user.wait_gone(target, volume)


def test_a_queued_restore_to_a_new_volume_ends_with_its_backup(
    scripted: ScriptedBackups, scripted_user: BackupUser
) -> None:
    """The volume that it would have filled must not wait for ever."""
    user = scripted_user
    volume = user.filled(seed=1, mib=1)
    backup = user.back_up(volume)
    number = scripted.hang("create_volume")
    restore = user.cinder.restores.restore(backup.id)
    scripted.wait_call("create_volume", number)
    user.cinder.backups.delete(backup.id, force=True)
    scripted.write({})
    user.wait_backups_gone(backup)
    wait_until(lambda: user.cinder.volumes.get(restore.volume_id).status.startswith("error"), "the volume to say so")
    user.cinder.volumes.delete(restore.volume_id)
    wait_until(lambda: len(user.cinder.volumes.list()) == 1, "the volume to be gone")
    user.require_nothing_lent()
