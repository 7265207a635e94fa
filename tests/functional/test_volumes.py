"""Volumes on a real service: created, filled, copied, grown, deleted, as their owner sees it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest

from tests.functional.user import GIB, MIB, User, expected_files, fill
from volsvc.testing.daemon import Daemon, wait_until


def test_a_new_volume_is_available_and_reads_as_zeros(user: User) -> None:
    volume = user.create(1, name="data", description="mine", metadata={"k": "v"})
    shown = user.cinder.volumes.get(volume.id)
    assert (shown.name, shown.description, shown.size, shown.metadata) == ("data", "mine", 1, {"k": "v"})
    assert shown.bootable == "false"
    assert getattr(shown, "os-vol-host-attr:host") == "node@file#file"
    assert os.path.getsize(user.file_of(volume)) == GIB
    connection = user.connect(volume)
    with connection.open() as nbd:
        assert nbd.size_bytes == GIB
        assert nbd.read(0, MIB) == bytes(MIB)
        assert nbd.read(GIB - MIB, MIB) == bytes(MIB)


def test_a_volume_keeps_what_is_written_over_a_detach(user: User) -> None:
    volume = user.create(1)
    data = os.urandom(MIB)
    first = user.connect(volume)
    first.write(700 * MIB + 512, data)
    user.disconnect(first)
    with pytest.raises(OSError):
        first.open()
    assert user.wait_volume(volume.id).attachments == []
    assert user.connect(volume).read(700 * MIB + 512, MIB) == data


def test_a_deleted_volume_is_gone_from_the_records_and_the_disk(user: User) -> None:
    volume = user.create(1)
    path = user.file_of(volume)
    assert os.path.exists(path)
    user.cinder.volumes.delete(volume)
    user.wait_gone(volume)
    assert not os.path.exists(path)
    assert user.operations(volume.id)[0]["state"] == "done"


def test_names_metadata_and_the_bootable_flag_are_changed_in_place(user: User) -> None:
    volume = user.create(1, name="old", metadata={"keep": "1", "drop": "2"})
    user.cinder.volumes.update(volume, name="new", description="said")
    user.cinder.volumes.set_metadata(volume, {"more": "3"})
    user.cinder.volumes.delete_metadata(volume, ["drop"])
    user.cinder.volumes.set_bootable(volume, True)
    shown = user.cinder.volumes.get(volume.id)
    assert (shown.name, shown.description, shown.bootable) == ("new", "said", "true")
    assert shown.metadata == {"keep": "1", "more": "3"}


def test_lists_are_of_one_project_unless_all_are_asked_for(user: User) -> None:
    mine = user.create(1, name="mine")
    other = User(user.daemon, f"{user.project}-2")
    theirs = other.create(1, name="theirs")
    assert [volume.id for volume in user.cinder.volumes.list()] == [mine.id]
    both = {volume.id for volume in user.cinder.volumes.list(search_opts={"all_tenants": 1})}
    assert {mine.id, theirs.id} <= both
    assert [volume.id for volume in user.cinder.volumes.list(search_opts={"name": "mine"})] == [mine.id]


def test_a_clone_is_independent_of_its_source(user: User) -> None:
    source = user.create(1)
    old, new = os.urandom(4 * MIB), os.urandom(4 * MIB)
    connection = user.connect(source)
    fill(connection, {0: old, 900 * MIB: old})
    clone = user.create(2, source_volid=source.id)
    fill(connection, {0: new})
    assert clone.source_volid == source.id
    cloned = user.connect(clone)
    with cloned.open() as nbd:
        assert nbd.size_bytes == 2 * GIB
        assert nbd.read(0, 4 * MIB) == old
        assert nbd.read(900 * MIB, 4 * MIB) == old
        assert nbd.read(GIB, MIB) == bytes(MIB), "what is beyond the source's end is zero"
    user.disconnect(connection)
    user.cinder.volumes.delete(source)
    user.wait_gone(source)
    assert cloned.read(900 * MIB, 4 * MIB) == old


def test_a_detached_volume_grows(user: User) -> None:
    volume = user.create(1)
    data = os.urandom(MIB)
    connection = user.connect(volume)
    connection.write(0, data)
    user.disconnect(connection)
    user.cinder.volumes.extend(volume, 3)
    wait_until(lambda: user.cinder.volumes.get(volume.id).size == 3, "the volume to have grown")
    assert user.wait_volume(volume.id).size == 3
    with user.connect(volume).open() as nbd:
        assert nbd.size_bytes == 3 * GIB
        assert nbd.read(0, MIB) == data
        assert nbd.read(3 * GIB - MIB, MIB) == bytes(MIB)


def test_an_attached_volume_grows_and_its_client_reconnects_to_the_same_address(user: User) -> None:
    volume = user.create(1)
    connection = user.connect(volume)
    data = os.urandom(MIB)
    connection.write(0, data)
    user.cinder.volumes.extend(volume, 2)
    grown = user.wait_volume(volume.id, "in-use")
    wait_until(lambda: user.cinder.volumes.get(volume.id).size == 2, "the volume to have grown")
    assert grown.attachments[0]["attachment_id"] == connection.id
    with connection.open() as nbd:
        assert nbd.size_bytes == 2 * GIB
        assert nbd.read(0, MIB) == data
        nbd.write(2 * GIB - MIB, data)
        assert nbd.read(2 * GIB - MIB, MIB) == data


def test_cascade_deletes_the_snapshots_too(user: User) -> None:
    volume = user.create(1)
    snapshots = [user.snapshot(volume, name=f"s{i}") for i in range(3)]
    user.cinder.volumes.delete(volume, cascade=True)
    user.wait_gone(volume, *snapshots)
    assert not os.path.exists(user.file_of(snapshots[0], "snapshot"))


def test_many_at_once_all_become_available_and_all_go(user: User) -> None:
    volumes = [user.cinder.volumes.create(1, name=f"v{i}") for i in range(25)]
    for volume in volumes:
        user.wait_volume(volume.id)
    for volume in volumes:
        user.cinder.volumes.delete(volume)
    user.wait_gone(*volumes)


def test_an_operation_tells_who_asked_what_and_how_it_ended(user: User) -> None:
    volume = user.create(1)
    operation = user.operations(volume.id)[0]
    assert (operation["action"], operation["state"], operation["attempts"]) == ("volume_create", "done", 1)
    assert operation["resource_type"] == "volume"
    assert operation["created_at"] <= operation["started_at"] <= operation["finished_at"]
    assert user.get(f"/operations/{operation['id']}")["operation"]["request_id"].startswith("req-")


def test_types_services_limits_and_extensions_answer_a_client(user: User) -> None:
    cinder = user.cinder
    assert cinder.volume_types.default().name == "__DEFAULT__"
    assert [(service.host, service.binary, service.state, service.status) for service in cinder.services.list()] == [
        ("node", "cinder-backup", "up", "enabled"),
        ("node@file", "cinder-volume", "up", "enabled"),
    ]
    assert {limit.name for limit in cinder.limits.get().absolute}
    assert user.get("/extensions")["extensions"] is not None
    kind = cinder.volume_types.create("nbd-only", "what speaks NBD")
    kind.set_keys({"storage_protocol": "nbd"})
    assert user.create(1, volume_type="nbd-only").volume_type == "nbd-only"
    kind.set_keys({"storage_protocol": "iSCSI"})
    from cinderclient import exceptions

    with pytest.raises(exceptions.ClientException, match="storage_protocol") as caught:
        cinder.volumes.create(1, volume_type="nbd-only")
    assert caught.value.code == 503


def test_a_disabled_service_gets_no_new_volumes_and_keeps_its_old_ones(make_daemon: Callable[..., Daemon]) -> None:
    user = User(make_daemon().start().wait_ready())
    volume = user.create(1)
    user.cinder.services.disable_log_reason("node@file", "cinder-volume", "disk is replaced")
    status, body = user.call("POST", "/volumes", {"volume": {"size": 1}})
    assert status == 503
    assert "disk is replaced" in str(body)
    connection = user.connect(volume)
    user.disconnect(connection)
    user.cinder.services.enable("node@file", "cinder-volume")
    user.create(1)


def test_when_all_is_deleted_the_directory_is_as_it_was(make_daemon: Callable[..., Daemon]) -> None:
    user = User(make_daemon().start().wait_ready())
    before = user.state()
    volume = user.create(1)
    connection = user.connect(volume)
    connection.write(0, os.urandom(MIB))
    snapshot = user.snapshot(volume)
    copy = user.create(1, snapshot_id=snapshot.id)
    clone = user.create(1, source_volid=copy.id)
    user.disconnect(connection)
    user.cinder.volume_snapshots.delete(snapshot)
    user.wait_gone(snapshot)
    for made in (volume, copy, clone):
        user.cinder.volumes.delete(made)
    user.wait_gone(volume, copy, clone)
    after = user.state()
    assert set(after.files) == expected_files(after) == set(before.files)
    assert not after.exporters
    assert not list(pathlib.Path(user.daemon.root, "run", "nbd").iterdir())
