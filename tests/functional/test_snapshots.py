"""Snapshots on a real service: of a point in time, also under a writer, and independent of everything."""

from __future__ import annotations

import os

import pytest
from cinderclient import exceptions

from tests.functional.user import GIB, MIB, User, fill
from tests.functional.writer import StampWriter, read_stamps


def test_a_snapshot_holds_the_old_bytes_after_an_overwrite(user: User) -> None:
    volume = user.create(1)
    old, new = os.urandom(2 * MIB), os.urandom(2 * MIB)
    connection = user.connect(volume)
    fill(connection, {0: old, 800 * MIB: old})
    snapshot = user.snapshot(volume, name="before", description="the change", metadata={"k": "v"})
    fill(connection, {0: new, 800 * MIB: new})
    assert (snapshot.name, snapshot.size, snapshot.volume_id) == ("before", 1, volume.id)
    assert (snapshot.description, snapshot.metadata) == ("the change", {"k": "v"})
    restored = user.connect(user.create(2, snapshot_id=snapshot.id))
    with restored.open() as nbd:
        assert nbd.size_bytes == 2 * GIB
        assert nbd.read(0, 2 * MIB) == old
        assert nbd.read(800 * MIB, 2 * MIB) == old
    assert connection.read(0, 2 * MIB) == new


def test_a_snapshot_under_a_writer_is_of_one_point_in_time_and_the_writer_notices_nothing(user: User) -> None:
    volume = user.create(1)
    connection = user.connect(volume)
    fill(connection, {64 * MIB: os.urandom(64 * MIB)})
    with StampWriter(connection) as writer:
        snapshots = [user.snapshot(volume, name=f"s{i}") for i in range(3)]
        writer.wait_more(20)
    for snapshot in snapshots:
        first, second = read_stamps(user.connect(user.create(1, snapshot_id=snapshot.id)))
        assert 0 < first <= writer.count
        assert 0 <= first - second <= 1, f"stamps {first} and {second} are of two times"


def test_a_volume_made_from_a_snapshot_outlives_it_and_the_first_volume(user: User) -> None:
    volume = user.create(1)
    data = os.urandom(MIB)
    connection = user.connect(volume)
    connection.write(5 * MIB, data)
    user.disconnect(connection)
    snapshot = user.snapshot(volume)
    made = user.create(1, snapshot_id=snapshot.id)
    user.cinder.volume_snapshots.delete(snapshot)
    user.wait_gone(snapshot)
    user.cinder.volumes.delete(volume)
    user.wait_gone(volume)
    assert user.connect(made).read(5 * MIB, MIB) == data
    assert user.cinder.volumes.get(made.id).snapshot_id == snapshot.id


def test_a_snapshot_of_a_volume_that_grew_afterwards_keeps_its_size(user: User) -> None:
    volume = user.create(1)
    snapshot = user.snapshot(volume)
    user.cinder.volumes.extend(volume, 2)
    user.wait_volume(volume.id)
    assert user.cinder.volume_snapshots.get(snapshot.id).size == 1
    assert user.create(None, snapshot_id=snapshot.id).size == 1


def test_a_deleted_snapshot_is_gone_from_the_records_and_the_disk(user: User) -> None:
    volume = user.create(1)
    snapshot = user.snapshot(volume)
    path = user.file_of(snapshot, "snapshot")
    assert os.path.exists(path)
    user.cinder.volume_snapshots.delete(snapshot)
    user.wait_gone(snapshot)
    assert not os.path.exists(path)
    assert user.cinder.volume_snapshots.list() == []


def test_an_attached_volume_is_snapshotted_only_with_force_in_old_versions(user: User) -> None:
    volume = user.create(1)
    user.connect(volume)
    old = user.daemon.cinder(user.project, "3.65")
    with pytest.raises(exceptions.BadRequest, match="force"):
        old.volume_snapshots.create(volume.id)
    assert old.volume_snapshots.list() == []
    user.wait_snapshot(old.volume_snapshots.create(volume.id, force=True).id)
    new = user.daemon.cinder(user.project, "3.66")
    user.wait_snapshot(new.volume_snapshots.create(volume.id).id)


def test_names_and_metadata_of_a_snapshot_are_changed_in_place(user: User) -> None:
    snapshot = user.snapshot(user.create(1), name="old", metadata={"keep": "1", "drop": "2"})
    snapshots = user.cinder.volume_snapshots
    snapshots.update(snapshot, name="new")
    snapshots.set_metadata(snapshot, {"more": "3"})
    snapshots.delete_metadata(snapshot, ["drop"])
    shown = snapshots.get(snapshot.id)
    assert (shown.name, shown.metadata) == ("new", {"keep": "1", "more": "3"})
    assert [found.id for found in snapshots.list(search_opts={"volume_id": shown.volume_id})] == [snapshot.id]
