"""A backup of a volume in use holds the bytes of one moment, and doesn't stand in its users' way."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.functional.backup.backing import BackupUser, ScriptedBackups, refused
from tests.functional.user import MIB, Connection, fill
from tests.functional.writer import StampWriter, read_stamps


def filled_and_attached(user: BackupUser) -> tuple[Any, Connection]:
    """A volume with enough to store that its backup can be stopped in the middle."""
    volume = user.create(1)
    connection = user.connect(volume)
    fill(connection, {256 * MIB: random.Random(1).randbytes(40 * MIB)})
    return volume, connection


def stamps_of(user: BackupUser, backup: Any) -> tuple[int, int]:
    volume = user.restore(backup)
    connection = user.connect(volume)
    stamps = read_stamps(connection)
    user.disconnect(connection)
    user.cinder.volumes.delete(volume)
    return stamps


def test_a_backup_shows_one_moment_of_a_volume_that_a_client_writes_to_all_the_time(
    scripted: ScriptedBackups, scripted_user: BackupUser
) -> None:
    user = scripted_user
    volume, connection = filled_and_attached(user)
    with StampWriter(connection) as writer:
        before = writer.count
        number = scripted.hang("put_pack", 2)
        backup = user.cinder.backups.create(volume.id, force=True)
        scripted.wait_call("put_pack", number)
        taken = writer.count
        writer.wait_more(200)
        assert user.cinder.volumes.get(volume.id).status == "backing-up"
        scripted.write({})
        user.wait_backup(backup.id)
        writer.wait_more(20)
        assert user.cinder.volumes.get(volume.id).status == "in-use"
    first, second = stamps_of(user, backup)
    assert 0 <= first - second <= 1, "bytes of two moments"
    assert before <= second <= taken + 1, "bytes of another moment than the backup's start"
    user.require_nothing_lent()


@pytest.mark.parametrize("cut", [("put_pack", 2), ("create_snapshot", 1), ("open_blocks", 1)])
def test_a_client_that_detaches_in_the_middle_of_a_backup_gets_its_detach_and_a_free_volume(
    scripted: ScriptedBackups, scripted_user: BackupUser, cut: tuple[str, int]
) -> None:
    user = scripted_user
    volume, connection = filled_and_attached(user)
    with StampWriter(connection) as writer:
        number = scripted.hang(*cut)
        backup = user.cinder.backups.create(volume.id, force=True)
        scripted.wait_call(cut[0], number)
        writer.wait_more(20)
    if cut[0] == "create_snapshot":
        # The copy of that moment uses the export, so the detach has to wait for it.
        scripted.write({})
    user.disconnect(connection)
    scripted.write({})
    user.wait_backup(backup.id)
    assert user.cinder.volumes.get(volume.id).status == "available"
    first, second = stamps_of(user, backup)
    assert 0 <= first - second <= 1
    assert second > 0
    user.cinder.volumes.delete(volume)
    user.wait_gone(volume)
    user.require_nothing_lent()


def test_a_volume_that_is_backed_up_is_not_attached_grown_deleted_or_restored_to(
    scripted: ScriptedBackups, scripted_user: BackupUser
) -> None:
    user = scripted_user
    volume = user.filled(seed=1)
    old = user.back_up(volume)
    number = scripted.hang("put_pack")
    backup = user.cinder.backups.create(volume.id)
    scripted.wait_call("put_pack", number)
    for path, body in (
        ("/attachments", {"attachment": {"volume_uuid": volume.id, "connector": {"host": "x"}}}),
        (f"/volumes/{volume.id}/action", {"os-extend": {"new_size": 2}}),
        (f"/backups/{old.id}/restore", {"restore": {"volume_id": volume.id}}),
        ("/backups", {"backup": {"volume_id": volume.id, "force": True}}),
    ):
        assert "backing-up" in refused(user, 400, path, body)
    assert "backing-up" in refused(user, 400, f"/volumes/{volume.id}", None, "DELETE")
    scripted.write({})
    user.wait_backup(backup.id)
    assert user.cinder.volumes.get(volume.id).status == "available"
    connection = user.connect(volume)
    user.disconnect(connection)


@pytest.mark.parametrize(
    ("method", "status"), [("extend_volume", "extending"), ("delete_volume", "deleting"), ("create_volume", "creating")]
)
def test_a_volume_that_grows_or_goes_or_comes_is_not_backed_up(
    scripted: ScriptedBackups, scripted_user: BackupUser, method: str, status: str
) -> None:
    user = scripted_user
    volume = None if method == "create_volume" else user.create(1)
    number = scripted.hang(method)
    if volume is None:
        volume = user.cinder.volumes.create(1)
    elif method == "extend_volume":
        user.cinder.volumes.extend(volume, 2)
    else:
        user.cinder.volumes.delete(volume)
    scripted.wait_call(method, number)
    assert status in refused(user, 400, "/backups", {"backup": {"volume_id": volume.id, "force": True}})
    scripted.write({})
    user.wait_idle()
