"""The clients that people use back volumes up: python-cinderclient, ``cinder``, ``openstack``, and wrong requests.

They stand in for the Tempest tests that the specification asks for.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
from cinderclient import exceptions

from tests.functional.backup.backing import BackupUser, refused
from tests.functional.test_api_clients import run_openstack
from tests.functional.test_field_clients import Address, cinder, field
from volsvc.testing.daemon import Daemon, wait_until

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
MISSING = "aaaaaaaa-1111-4222-8333-444444444444"


@pytest.mark.slow
def test_the_cinder_command_takes_a_backup_through_its_life(backup_daemon: Daemon, tmp_path: pathlib.Path) -> None:
    user = BackupUser(backup_daemon, "shell")

    def run(*arguments: str) -> str:
        return cinder(backup_daemon, tmp_path, *arguments)

    volume = user.filled(seed=1)
    before = user.digest(volume)
    made = run("backup-create", volume.id, "--name", "one", "--description", "the first", "--container", "box")
    backup = user.wait_backup(field(made, "id"))
    shown = run("backup-show", "one")
    assert {name: field(shown, name) for name in ("status", "size", "volume_id", "container", "fail_reason")} == {
        "status": "available",
        "size": "1",
        "volume_id": volume.id,
        "container": "box",
        "fail_reason": "None",
    }
    assert int(field(shown, "object_count")) >= 2
    run("backup-update", "one", "--name", "renamed", "--description", "again")
    assert "renamed" in run("backup-list", "--volume-id", volume.id)

    snapshot = user.snapshot(volume)
    of_snapshot = field(run("backup-create", volume.id, "--snapshot-id", snapshot.id, "--name", "of-snapshot"), "id")
    user.wait_backup(of_snapshot)
    connection = user.connect(volume)
    connection.write(0, b"written after both")
    assert "force" in refused(user, 400, "/backups", {"backup": {"volume_id": volume.id}})
    forced = field(run("backup-create", volume.id, "--force"), "id")
    user.wait_backup(forced)
    user.disconnect(connection)
    changed = user.digest(volume)

    restored = field(run("backup-restore", "renamed", "--name", "restored"), "volume_id")
    assert user.digest(user.wait_volume(restored)) == before
    assert field(run("show", "restored"), "bootable") == "false"
    run("backup-restore", of_snapshot, "--volume", volume.id)
    assert user.digest(user.wait_volume(volume.id)) == before
    run("backup-restore", forced, "--volume", volume.id)
    assert user.digest(user.wait_volume(volume.id)) == changed
    run("backup-reset-state", "--state", "error", "renamed")
    assert field(run("backup-show", "renamed"), "status") == "error"
    run("backup-reset-state", "--state", "available", "renamed")
    assert field(run("backup-show", "renamed"), "status") == "available"

    record = run("backup-export", backup.id)
    user.lose_record(backup)
    with pytest.raises(exceptions.NotFound):
        user.cinder.backups.get(backup.id)
    imported = run("backup-import", field(record, "backup_service"), field(record, "backup_url"))
    assert field(imported, "id") == backup.id
    again = user.wait_backup(backup.id)
    assert (again.name, again.size, again.volume_id) == ("renamed", 1, volume.id)
    run("backup-restore", backup.id, "--volume", volume.id)
    assert user.digest(user.wait_volume(volume.id)) == before

    run("backup-delete", "renamed", of_snapshot)
    run("backup-delete", "--force", forced)
    wait_until(lambda: not user.cinder.backups.list(), "the backups to be gone")
    assert not re.findall(UUID, run("backup-list"))
    run("snapshot-delete", snapshot.id)
    user.wait_gone(snapshot)
    run("delete", volume.id, restored)
    wait_until(lambda: not user.cinder.volumes.list(), "the volumes to be gone")
    user.require_nothing_lent()
    user.require_store(backup_daemon.state / "backup")


@pytest.mark.slow
def test_the_openstack_command_takes_a_backup_through_its_life(backup_daemon: Daemon, tmp_path: pathlib.Path) -> None:
    user = BackupUser(backup_daemon, "admin")
    volume = user.filled(seed=2)
    before = user.digest(volume)

    def run(*lines: str) -> list[Any]:
        return run_openstack(Address(backup_daemon), tmp_path, *lines)

    [made] = run(f"volume backup create --name os --description words --property k=v {volume.id} -f json")
    backup = user.wait_backup(made["id"])
    listed, shown, record, restored = run(
        "volume backup list -f json",
        "volume backup set --name named --description other --property more=1 os",
        "volume backup show named -f json",
        "volume backup record export named -f json",
        "volume backup restore named back -f json",
    )
    assert [(row["Name"], row["Status"], row["Size"]) for row in listed] == [("os", "available", 1)]
    assert (shown["name"], shown["description"], shown["status"]) == ("named", "other", "available")
    assert user.get(f"/backups/{backup.id}")["backup"]["metadata"] == {"k": "v", "more": "1"}
    restored_volume = user.wait_volume(restored["volume_id"])
    assert user.digest(restored_volume) == before
    # Its own "record import" and "unset --property" ask for addresses that Cinder doesn't have either.
    assert record["backup_url"] == user.get(f"/backups/{backup.id}/export_record")["backup-record"]["backup_url"]
    run(f"volume backup set --state error {backup.id}")
    assert user.cinder.backups.get(backup.id).status == "error"
    run(f"volume backup set --state available {backup.id}", f"volume backup restore --force {backup.id} back")
    assert user.digest(user.wait_volume(restored_volume.id)) == before
    run(f"volume backup delete {backup.id}", f"volume delete {volume.id} back")
    wait_until(lambda: not user.cinder.backups.list() and not user.cinder.volumes.list(), "all to be gone")
    user.require_nothing_lent()


def test_wrong_requests_are_refused_with_a_reason_and_change_nothing(user: BackupUser) -> None:
    volume = user.filled(seed=3)
    backup = user.back_up(volume, name="good")
    other = user.create(1)

    def create(**fields: Any) -> dict[str, Any]:
        return {"backup": {"volume_id": volume.id, **fields}}

    for status, words, body in (
        (404, "could not be found", create(volume_id=MISSING)),
        (400, "volume_id", {"backup": {}}),
        (400, "volume_id", create(volume_id="../../etc")),
        (400, "backup", {}),
        (400, "name", create(name="x" * 256)),
        (400, "force", create(force="perhaps")),
        (400, "incremental", create(incremental=True)),
        (404, "Snapshot", create(snapshot_id=MISSING)),
        (400, "metadata", create(metadata={"k": 5})),
        (400, "zone", create(availability_zone=7)),
    ):
        assert words in refused(user, status, "/backups", body), (words, body)
    snapshot = user.snapshot(other)
    assert "match" in refused(user, 400, "/backups", create(snapshot_id=snapshot.id))
    assert "Malformed request body" in refused(user, 400, "/backups", "{not json")
    assert "is in the availability zone" in refused(user, 503, "/backups", create(availability_zone="mars"))

    restore = f"/backups/{backup.id}/restore"
    for status, words, path, body in (
        (404, "could not be found", f"/backups/{MISSING}/restore", {"restore": {}}),
        (404, "could not be found", restore, {"restore": {"volume_id": MISSING}}),
        (400, "volume_id", restore, {"restore": {"volume_id": 5}}),
        (400, "restore", restore, {}),
        (400, "backup_url", "/backups/import_record", {"backup-record": {"backup_service": "posix"}}),
        (400, "record", "/backups/import_record", {"backup-record": {"backup_service": "p", "backup_url": "bm9uZQ=="}}),
        (400, "status", f"/backups/{backup.id}/action", {"os-reset_status": {"status": "restoring"}}),
    ):
        assert words in refused(user, status, path, body), (words, body)
    record = user.get(f"/backups/{backup.id}/export_record")["backup-record"]
    assert "already exists" in refused(user, 400, "/backups/import_record", {"backup-record": record})
    assert "could not be found" in refused(user, 404, f"/backups/{MISSING}", None, "DELETE")


def test_names_and_descriptions_may_be_anything_and_come_back_from_the_store(user: BackupUser) -> None:
    volume = user.filled(seed=4, mib=1)
    words = [
        "'; DROP TABLE backups; --",
        "%s{0}$(id)`id`",
        "../../../etc/passwd",
        "\u2603\U0001f512\u202e <b>",
        " x ",
        "",
    ]
    for text in words:
        backup = user.back_up(volume, name=text, description=text * 2, container="a box", metadata={"k/ :1": text})
        shown = user.get(f"/backups/{backup.id}")["backup"]
        assert (shown["name"] or "", shown["description"] or "") == (text.strip(), (text * 2).strip()), shown
        assert shown["metadata"] == {"k/ :1": text}
        record = user.get(f"/backups/{backup.id}/export_record")["backup-record"]
        user.lose_record(backup)
        status, answer = user.call("POST", "/backups/import_record", {"backup-record": record})
        assert status == 201, answer
        again = user.wait_backup(backup.id)
        assert (again.name, again.description, again.container) == (shown["name"], shown["description"], "a box")
        user.cinder.backups.delete(again)
        user.wait_backups_gone(again)
    user.require_nothing_lent()
