from __future__ import annotations

import base64
import json
import pathlib
from typing import Any

import pytest

from tests.unit.api.harness import BACKUP_HOST, STORE_UUID, ApiHarness, add_backup_service, add_service
from volsvc import models
from volsvc.api.policies import Policy
from volsvc.ports import Intent, Store

NOWHERE = "00000000-0000-0000-0000-000000000000"
BASE = {
    "availability_zone", "container", "created_at", "data_timestamp", "description", "fail_reason",
    "has_dependent_backups", "id", "is_incremental", "links", "name", "object_count", "size", "snapshot_id", "status",
    "updated_at", "volume_id",
}  # fmt: skip
PROJECT, OWNER = "os-backup-project-attr:project_id", "user_id"


@pytest.fixture
def api(store: Store) -> ApiHarness:
    add_service(store)
    add_backup_service(store)
    return ApiHarness(store)


def only(api: ApiHarness, action: str) -> models.Operation:
    (found,) = (operation for operation in api.operations() if operation.action == action)
    return found


def attach(api: ApiHarness, volume_id: str) -> None:
    body = {"attachment": {"volume_uuid": volume_id, "connector": {"host": "client"}}}
    attachment_id = api.post("/v3/attachments", body).body["attachment"]["id"]
    assert api.post(f"/v3/attachments/{attachment_id}/action", {"os-complete": {}}).status == 204


def volume_status(api: ApiHarness, volume_id: str) -> str:
    return str(api.get(f"/v3/volumes/{volume_id}").body["volume"]["status"])


def backup_status(api: ApiHarness, backup_id: str) -> str:
    return str(api.get(f"/v3/backups/{backup_id}").body["backup"]["status"])


def report(api: ApiHarness, host: str, **fields: Any) -> None:
    (row,) = (found for found in api.store.list_services() if found.host == host)
    api.store.report_service(row.id, fields)


def backup_in_error(api: ApiHarness, volume_id: str | None = None) -> str:
    """A backup that failed before anything was stored."""
    body = {"backup": {"volume_id": volume_id or api.new_volume()["id"]}}
    backup_id = str(api.post("/v3/backups", body).body["backup"]["id"])
    api.work(state="failed", error="no room")
    assert backup_status(api, backup_id) == "error"
    return backup_id


# -- creating ------------------------------------------------------------------------------------


def test_a_backup_is_recorded_for_the_daemon_and_made(api: ApiHarness) -> None:
    volume_id = api.new_volume(size=3, name="data")["id"]
    asked = {"volume_id": volume_id, "name": " b ", "description": "d", "metadata": {"k": "v"}, "container": "shelf"}
    answer = api.post("/v3/backups", {"backup": asked})
    assert (answer.status, set(answer.body["backup"])) == (202, {"id", "name", "links"})
    backup_id = answer.body["backup"]["id"]
    assert answer.body["backup"]["links"][0]["href"].endswith(f"/v3/backups/{backup_id}")
    shown = api.get(f"/v3/backups/{backup_id}").body["backup"]
    assert (shown["status"], shown["size"], shown["name"]) == ("creating", 3, "b")
    assert (shown["container"], shown["metadata"], shown["availability_zone"]) == ("shelf", {"k": "v"}, "nova")
    assert volume_status(api, volume_id) == "backing-up"
    operation = only(api, "backup_create")
    assert (operation.host, operation.second_id) == (BACKUP_HOST, volume_id)
    api.work()
    assert (backup_status(api, backup_id), volume_status(api, volume_id)) == ("available", "available")
    assert api.store.get_backup(backup_id).volume_name == "data"


@pytest.mark.parametrize(
    ("version", "more"),
    [
        (0, set()),
        (18, {PROJECT}),
        (43, {PROJECT, "metadata"}),
        (56, {PROJECT, "metadata", OWNER}),
        (71, {PROJECT, "metadata", OWNER}),
    ],
)
def test_fields_grow_with_the_microversion(api: ApiHarness, version: int, more: set[str]) -> None:
    backup_id = api.new_backup(api.new_volume()["id"])["id"]
    assert set(api.get(f"/v3/backups/{backup_id}", version=version).body["backup"]) == BASE | more
    (listed,) = api.get("/v3/backups/detail", version=version).body["backups"]
    assert set(listed) == BASE | more


@pytest.mark.parametrize("name", ["", "😀 \"quoted\" 'too' <b>", "x" * 255, "../../etc/passwd", "%s %00 \\", "名前"])
def test_a_name_may_be_anything_that_fits(api: ApiHarness, name: str) -> None:
    volume_id = api.new_volume()["id"]
    made = api.post("/v3/backups", {"backup": {"volume_id": volume_id, "name": name, "description": name}})
    shown = api.get(f"/v3/backups/{made.body['backup']['id']}").body["backup"]
    assert (shown["name"], shown["description"]) == (name, name)


@pytest.mark.parametrize(
    ("version", "fields", "words"),
    [
        (71, {"name": "x" * 256}, "255"),
        (71, {"name": "two\nlines"}, "name"),
        (71, {"volume_id": "no uuid"}, "volume_id"),
        (71, {"volume_id": None}, "volume_id"),
        (71, {"taste": "sweet"}, "taste"),
        (71, {"force": "perhaps"}, "force"),
        (71, {"container": "../elsewhere"}, "container"),
        (71, {"metadata": {"k": 1}}, "metadata"),
        (42, {"metadata": {"k": "v"}}, "metadata"),
        (50, {"availability_zone": "nova"}, "availability_zone"),
        (71, {"incremental": True}, "incremental backups are not there yet"),
    ],
)
def test_a_wrong_body_is_refused_by_the_name_of_its_field(
    api: ApiHarness, version: int, fields: dict[str, Any], words: str
) -> None:
    volume_id = api.new_volume()["id"]
    answer = api.post("/v3/backups", {"backup": {"volume_id": volume_id, **fields}}, version=version)
    assert answer.fault[0] == "badRequest"
    assert words in answer.fault[1]
    assert volume_status(api, volume_id) == "available"


def test_an_attached_volume_needs_force_and_is_in_use_again_afterwards(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    attach(api, volume_id)
    refused = api.post("/v3/backups", {"backup": {"volume_id": volume_id}})
    assert "must use the force flag" in refused.fault[1]
    assert api.post("/v3/backups", {"backup": {"volume_id": volume_id, "force": "True"}}).status == 202
    assert volume_status(api, volume_id) == "backing-up"
    api.work()
    assert volume_status(api, volume_id) == "in-use"


def test_a_volume_that_something_happens_to_is_not_backed_up(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    api.post(f"/v3/volumes/{volume_id}/action", {"os-extend": {"new_size": 2}})
    assert api.post("/v3/backups", {"backup": {"volume_id": volume_id}}).fault == (
        "badRequest",
        "Invalid volume: Volume to be backed up must be available or in-use, "
        f"but the current status of {volume_id} is extending.",
    )
    assert api.post("/v3/backups", {"backup": {"volume_id": NOWHERE}}).status == 404


def test_a_snapshot_is_backed_up_with_its_own_size(api: ApiHarness) -> None:
    volume_id = api.new_volume(size=2)["id"]
    snapshot = api.new_snapshot(volume_id)
    api.post(f"/v3/volumes/{volume_id}/action", {"os-extend": {"new_size": 5}})
    api.work()
    made = api.post("/v3/backups", {"backup": {"volume_id": volume_id, "snapshot_id": snapshot["id"]}})
    path = f"/v3/backups/{made.body['backup']['id']}"
    shown = api.get(path).body["backup"]
    assert (shown["size"], shown["snapshot_id"]) == (2, snapshot["id"])
    assert shown["data_timestamp"] == snapshot["created_at"]
    assert api.get(f"/v3/snapshots/{snapshot['id']}").body["snapshot"]["status"] == "backing-up"
    assert volume_status(api, volume_id) == "available"
    again = api.post("/v3/backups", {"backup": {"volume_id": volume_id, "snapshot_id": snapshot["id"]}})
    assert "current status is backing-up" in again.fault[1]
    api.work()
    assert api.get(f"/v3/snapshots/{snapshot['id']}").body["snapshot"]["status"] == "available"


def test_a_snapshot_must_be_of_the_volume_that_is_named(api: ApiHarness) -> None:
    snapshot_id = api.new_snapshot(api.new_volume()["id"])["id"]
    other_id = api.new_volume()["id"]
    answer = api.post("/v3/backups", {"backup": {"volume_id": other_id, "snapshot_id": snapshot_id}})
    assert "does not match" in answer.fault[1]


# -- which daemon --------------------------------------------------------------------------------


def host_of_new(api: ApiHarness, **fields: Any) -> str | None:
    volume_id = api.new_volume()["id"]
    backup_id = api.post("/v3/backups", {"backup": {"volume_id": volume_id, **fields}}).body["backup"]["id"]
    return api.store.get_backup(backup_id).host


def test_the_volumes_own_machine_makes_the_backup_else_who_has_least_to_do(api: ApiHarness) -> None:
    add_backup_service(api.store, "a")
    add_backup_service(api.store, "b")
    assert host_of_new(api) == BACKUP_HOST
    report(api, BACKUP_HOST, state="lost", step="check", reason="no mount")
    assert [host_of_new(api), host_of_new(api), host_of_new(api)] == ["a", "b", "a"]


def test_a_zone_chooses_the_daemon(api: ApiHarness) -> None:
    add_backup_service(api.store, "far", availability_zone="west")
    assert host_of_new(api, availability_zone="west") == "far"
    volume_id = api.new_volume()["id"]
    answer = api.post("/v3/backups", {"backup": {"volume_id": volume_id, "availability_zone": "east"}})
    assert (answer.fault[0], "not east" in answer.fault[1]) == ("serviceUnavailable", True)


def test_without_a_daemon_every_request_is_refused_at_once_with_the_reason(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    backup = api.new_backup(volume_id)
    record = api.get(f"/v3/backups/{backup['id']}/export_record").body
    record["backup-record"]["backup_url"] = reencode(record, id=NOWHERE)
    report(api, BACKUP_HOST, state="retrying", step="do_setup", reason="the bucket is not there")
    path = f"/v3/backups/{backup['id']}"
    before = len(api.operations())
    for answer in (
        api.post("/v3/backups", {"backup": {"volume_id": volume_id}}),
        api.post(f"{path}/restore", {"restore": {}}),
        api.delete(path),
        api.post(f"{path}/action", {"os-force_delete": {}}),
        api.post(f"{path}/action", {"os-reset_status": {"status": "available"}}),
        api.post("/v3/backups/import_record", record),
    ):
        assert answer.fault[0] == "serviceUnavailable"
        assert "retrying (do_setup: the bucket is not there)" in answer.fault[1]
    assert len(api.operations()) == before
    assert (volume_status(api, volume_id), backup_status(api, backup["id"])) == ("available", "available")


def test_a_disabled_daemon_gets_nothing_new_and_goes_on_with_what_it_has(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    backup_id = api.new_backup(volume_id)["id"]
    body = {"host": BACKUP_HOST, "binary": "cinder-backup", "disabled_reason": "new disk"}
    assert api.put("/v3/os-services/disable-log-reason", body).status == 200
    assert "new disk" in api.post("/v3/backups", {"backup": {"volume_id": volume_id}}).fault[1]
    assert api.delete(f"/v3/backups/{backup_id}").status == 202


def test_no_daemon_has_ever_reported(store: Store) -> None:
    add_service(store)
    api = ApiHarness(store)
    answer = api.post("/v3/backups", {"backup": {"volume_id": api.new_volume()["id"]}})
    assert "is volsvc-backup running?" in answer.fault[1]


def test_another_daemon_with_the_same_store_takes_over(api: ApiHarness) -> None:
    backup_id = api.new_backup(api.new_volume()["id"])["id"]
    add_backup_service(api.store, "stranger", backend_uuid=NOWHERE)
    report(api, BACKUP_HOST, state="stopped")
    assert "it is stopped" in api.delete(f"/v3/backups/{backup_id}").fault[1]
    add_backup_service(api.store, "sibling")
    assert api.delete(f"/v3/backups/{backup_id}").status == 202
    assert only(api, "backup_delete").host == "sibling"


def test_a_daemon_that_has_another_store_now_is_not_asked_for_what_it_made(api: ApiHarness) -> None:
    backup_id = api.new_backup(api.new_volume()["id"])["id"]
    report(api, BACKUP_HOST, backend_uuid=NOWHERE)
    answer = api.post(f"/v3/backups/{backup_id}/restore", {"restore": {}})
    assert answer.fault[0] == "serviceUnavailable"
    assert STORE_UUID in answer.fault[1]


# -- deleting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_delete(api: ApiHarness, force: bool) -> None:
    path = f"/v3/backups/{api.new_backup(api.new_volume()['id'])['id']}"
    answer = api.post(f"{path}/action", {"os-force_delete": None}) if force else api.delete(path)
    assert (answer.status, answer.body) == (202, None)
    assert api.get(path).body["backup"]["status"] == "deleting"
    api.work()
    assert api.get(path).status == 404
    assert api.delete(path).status == 404


def test_what_never_reached_a_store_is_deleted_while_every_daemon_is_down(api: ApiHarness) -> None:
    backup_id = backup_in_error(api)
    report(api, BACKUP_HOST, state="unrecoverable", reason="obstore is missing")
    assert api.delete(f"/v3/backups/{backup_id}").status == 202
    assert api.get(f"/v3/backups/{backup_id}").status == 404


def test_what_a_daemon_that_was_cut_has_left_of_the_backup_goes_too(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    attach(api, volume_id)
    made = api.post("/v3/backups", {"backup": {"volume_id": volume_id, "force": True}})
    backup_id = made.body["backup"]["id"]
    reading = api.store.claim(only(api, "backup_create").id, "daemon")
    assert reading is not None
    snapshot = models.Snapshot(
        *("5a5a5a5a-0000-4000-8000-000000000000", volume_id, 1, "", "project", "user"), host="node@file#file"
    )
    api.store.note(reading, {"temp_snapshot_id": snapshot.id})
    context = models.RequestContext("user", "project")
    api.store.submit(Intent("backup_snapshot_create", context, snapshot.id, host="node@file", insert=snapshot))
    api.work()
    report(api, BACKUP_HOST, state="stopped")
    assert api.post(f"/v3/backups/{backup_id}/action", {"os-reset_status": {"status": "error"}}).status == 202
    assert api.delete(f"/v3/backups/{backup_id}").status == 202
    assert api.get(f"/v3/backups/{backup_id}").status == 404
    api.work()
    assert api.get(f"/v3/snapshots/{snapshot.id}").status == 404
    assert volume_status(api, volume_id) == "in-use"


def test_one_in_error_of_which_something_is_stored_needs_its_daemon(api: ApiHarness) -> None:
    backup_id = api.new_backup(api.new_volume()["id"])["id"]
    path = f"/v3/backups/{backup_id}"
    assert api.post(f"{path}/action", {"os-reset_status": {"status": "error"}}).status == 202
    report(api, BACKUP_HOST, state="lost", reason="no mount")
    assert "no mount" in api.delete(path).fault[1]
    report(api, BACKUP_HOST, state="ready")
    assert api.delete(path).status == 202


def test_only_force_deletes_a_backup_that_is_being_made(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    backup_id = api.post("/v3/backups", {"backup": {"volume_id": volume_id}}).body["backup"]["id"]
    assert "must be available or error" in api.delete(f"/v3/backups/{backup_id}").fault[1]
    claimed = api.store.claim(only(api, "backup_create").id, "daemon")
    assert claimed is not None
    assert api.post(f"/v3/backups/{backup_id}/action", {"os-force_delete": {}}).status == 202
    assert api.store.report_progress(claimed, 1, 2) is True


# -- restoring -----------------------------------------------------------------------------------


def test_a_new_volume_is_made_and_filled_by_one_request(api: ApiHarness) -> None:
    gold = api.post("/v3/types", {"volume_type": {"name": "gold"}}).body["volume_type"]
    origin = api.new_volume(size=2, volume_type="gold")
    backup_id = api.new_backup(origin["id"])["id"]
    answer = api.post(f"/v3/backups/{backup_id}/restore", {"restore": {"volume_id": None, "name": None}})
    assert answer.status == 202
    made = answer.body["restore"]
    assert (made["backup_id"], made["volume_name"]) == (backup_id, f"restore_backup_{backup_id}")
    volume = api.get(f"/v3/volumes/{made['volume_id']}").body["volume"]
    assert (volume["status"], volume["size"], volume["volume_type"]) == ("restoring-backup", 2, gold["name"])
    assert backup_status(api, backup_id) == "restoring"
    create, restore = only(api, "volume_create_to_restore"), only(api, "backup_restore_to_new")
    assert (create.host, restore.host, restore.second_id) == ("node@file", BACKUP_HOST, made["volume_id"])
    assert api.store.claim(restore.id, "daemon") is None, "it waits for the volume"
    api.work()
    assert (volume_status(api, made["volume_id"]), backup_status(api, backup_id)) == ("available", "available")
    assert api.store.get_backup(backup_id).restore_volume_id == made["volume_id"]


def test_a_restore_outlives_the_volume_it_came_from(api: ApiHarness) -> None:
    origin = api.new_volume()
    backup_id = api.new_backup(origin["id"])["id"]
    api.delete(f"/v3/volumes/{origin['id']}")
    api.work()
    answer = api.post(f"/v3/backups/{backup_id}/restore", {"restore": {"name": " back "}})
    assert answer.body["restore"]["volume_name"] == "back"
    assert api.get("/v3/volumes?name=back").body["volumes"]


def test_without_a_backend_for_the_new_volume_nothing_is_recorded(api: ApiHarness) -> None:
    backup_id = api.new_backup(api.new_volume()["id"])["id"]
    report(api, "node@file", state="lost", reason="gone")
    answer = api.post(f"/v3/backups/{backup_id}/restore", {"restore": {}})
    assert (answer.fault[0], "gone" in answer.fault[1]) == ("serviceUnavailable", True)
    assert backup_status(api, backup_id) == "available"


@pytest.mark.parametrize("action", ["volume_create_to_restore", "backup_restore_to_new"])
def test_a_restore_that_is_cancelled_leaves_nothing_stuck(api: ApiHarness, action: str) -> None:
    backup_id = api.new_backup(api.new_volume()["id"])["id"]
    answer = api.post(f"/v3/backups/{backup_id}/restore", {"restore": {}})
    volume_id = answer.body["restore"]["volume_id"]
    assert api.post(f"/v3/operations/{only(api, action).id}/action", {"os-cancel": {}}).status == 202
    api.work(state="failed", error="its volume is not there")
    assert backup_status(api, backup_id) == "available"
    left = api.get(f"/v3/volumes/{volume_id}")
    assert left.status == 404 or left.body["volume"]["status"].startswith("error")
    assert api.store.list_stuck() == []


def test_a_new_volume_that_could_not_be_made_can_be_deleted(api: ApiHarness) -> None:
    backup_id = api.new_backup(api.new_volume()["id"])["id"]
    answer = api.post(f"/v3/backups/{backup_id}/restore", {"restore": {}})
    volume_id = answer.body["restore"]["volume_id"]
    api.work(state="failed", error="no room")
    assert (volume_status(api, volume_id), backup_status(api, backup_id)) == ("error", "available")
    assert api.delete(f"/v3/volumes/{volume_id}").status == 202
    api.work()
    assert api.get(f"/v3/volumes/{volume_id}").status == 404


def test_an_existing_volume_is_overwritten(api: ApiHarness) -> None:
    backup_id = api.new_backup(api.new_volume(size=2)["id"])["id"]
    target = api.new_volume(size=3, name="target")
    answer = api.post(f"/v3/backups/{backup_id}/restore", {"restore": {"volume_id": target["id"], "name": "ignored"}})
    assert answer.body["restore"] == {
        "backup_id": backup_id,
        "volume_id": target["id"],
        "volume_name": "target",
    }
    assert volume_status(api, target["id"]) == "restoring-backup"
    again = api.post(f"/v3/backups/{backup_id}/restore", {"restore": {}})
    assert "is restoring" in again.fault[1]
    api.work(state="failed", error="torn")
    assert (volume_status(api, target["id"]), backup_status(api, backup_id)) == ("error_restoring", "available")


def test_a_restore_must_fit_and_its_target_be_free(api: ApiHarness) -> None:
    backup_id = api.new_backup(api.new_volume(size=2)["id"])["id"]
    path = f"/v3/backups/{backup_id}/restore"
    small, busy = api.new_volume(size=1)["id"], api.new_volume(size=2)["id"]
    attach(api, busy)
    too_small = api.post(path, {"restore": {"volume_id": small}})
    assert "volume size 1 is too small to restore backup of size 2" in too_small.fault[1]
    assert "is in-use" in api.post(path, {"restore": {"volume_id": busy}}).fault[1]
    assert api.post(path, {"restore": {"volume_id": NOWHERE}}).status == 404
    assert api.post(path, {"restore": {"volume_id": "no uuid"}}).status == 400
    assert api.post(f"/v3/backups/{NOWHERE}/restore", {"restore": None}).status == 404
    assert backup_status(api, backup_id) == "available"


def test_a_backup_that_is_being_deleted_is_not_restored(api: ApiHarness) -> None:
    backup_id = api.new_backup(api.new_volume()["id"])["id"]
    api.delete(f"/v3/backups/{backup_id}")
    answer = api.post(f"/v3/backups/{backup_id}/restore", {"restore": {}})
    assert (answer.fault[0], "is deleting" in answer.fault[1]) == ("badRequest", True)


def test_a_volume_is_created_from_a_backup_since_3_47(api: ApiHarness) -> None:
    backup_id = api.new_backup(api.new_volume(size=2)["id"])["id"]
    body = {"volume": {"backup_id": backup_id, "size": 4, "name": "bigger", "metadata": {"k": "v"}}}
    assert "3.47" in api.post("/v3/volumes", body, version=46).fault[1]
    small = {"volume": {"backup_id": backup_id, "size": 1}}
    assert "cannot be smaller" in api.post("/v3/volumes", small).fault[1]
    both = {"volume": {"backup_id": backup_id, "source_volid": NOWHERE}}
    assert "excludes" in api.post("/v3/volumes", both).fault[1]
    made = api.post("/v3/volumes", body, version=47)
    assert made.status == 202
    api.work()
    shown = api.get(f"/v3/volumes/{made.body['volume']['id']}").body["volume"]
    assert (shown["status"], shown["size"], shown["name"], shown["metadata"]) == ("available", 4, "bigger", {"k": "v"})


def test_whoever_may_not_restore_creates_no_volume_from_a_backup_either(store: Store, tmp_path: pathlib.Path) -> None:
    add_service(store)
    add_backup_service(store)
    rules = tmp_path / "policy.yaml"
    rules.write_text('"backup:restore": "!"\n')
    api = ApiHarness(store, policy=Policy(str(rules)))
    backup_id = api.new_backup(api.new_volume()["id"])["id"]
    assert api.post(f"/v3/backups/{backup_id}/restore", {"restore": {}}).status == 403
    assert api.post("/v3/volumes", {"volume": {"backup_id": backup_id}}).status == 403


# -- lists and changes -----------------------------------------------------------------------------


def test_lists_are_filtered_sorted_counted_and_paged(api: ApiHarness) -> None:
    first, second = api.new_volume()["id"], api.new_volume()["id"]
    for volume_id, name in ((first, "b"), (first, "a"), (second, "c")):
        api.new_backup(volume_id, name=name)
    backup_in_error(api, second)

    def names(query: str, **more: Any) -> list[str]:
        return [found["name"] for found in api.get(f"/v3/backups?{query}", **more).body["backups"]]

    assert names(f"volume_id={first}&sort=name:asc") == ["a", "b"]
    assert names("name=c") == ["c"]
    assert names("name~=b", version=34) == ["b"]
    assert names("status=error") == [None]
    page = api.get("/v3/backups/detail?limit=3&sort=name:desc&with_count=true").body
    assert ([found["name"] for found in page["backups"]], page["count"]) == (["c", "b", "a"], 4)
    (link,) = page["backups_links"]
    (rest,) = api.get(link["href"].partition(".org")[2]).body["backups"]
    assert rest["name"] is None
    assert "taste" in api.get("/v3/backups?taste=sweet").fault[1]
    assert api.get("/v3/backups?taste=sweet", version=30).status == 200
    assert api.get("/v3/backups?marker=none").status == 404


def test_update_since_3_9_and_metadata_since_3_43(api: ApiHarness) -> None:
    path = f"/v3/backups/{api.new_backup(api.new_volume()['id'], name='a')['id']}"
    assert api.put(path, {"backup": {"name": "b"}}, version=8).status == 404
    assert api.put(path, {"backup": {"name": " b "}}, version=9).body["backup"]["name"] == "b"
    assert api.put(path, {"backup": {"metadata": {"k": "v"}}}, version=42).status == 400
    assert api.put(path, {"backup": {"metadata": {"k": "v"}, "description": "d"}}).status == 200
    assert api.put(path, {"backup": {}}).body["backup"]["name"] == "b"
    shown = api.get(path).body["backup"]
    assert (shown["metadata"], shown["description"]) == ({"k": "v"}, "d")


def test_limits_and_filters_know_backups(api: ApiHarness) -> None:
    api.new_backup(api.new_volume(size=3)["id"])
    absolute = api.get("/v3/limits").body["limits"]["absolute"]
    assert (absolute["totalBackupsUsed"], absolute["totalBackupGigabytesUsed"]) == (1, 3)
    (found,) = api.get("/v3/resource_filters?resource=backup").body["resource_filters"]
    assert found["filters"] == ["name~", "status", "volume_id"]


# -- records that travel ---------------------------------------------------------------------------


def reencode(exported: dict[str, Any], **fields: Any) -> str:
    record = json.loads(base64.b64decode(exported["backup-record"]["backup_url"]))
    return base64.b64encode(json.dumps(record | fields).encode()).decode()


def test_a_record_is_exported_and_imported_after_the_database_was_lost(api: ApiHarness) -> None:
    volume_id = api.new_volume(size=2)["id"]
    made = api.new_backup(volume_id, name="kept 😀", metadata={"k": "v"})
    path = f"/v3/backups/{made['id']}"
    exported = api.get(f"{path}/export_record").body
    assert exported["backup-record"]["backup_service"] == "posix"
    assert api.post("/v3/backups/import_record", exported).fault == (
        "badRequest",
        f"Invalid backup: Backup {made['id']} already exists in database.",
    )
    api.delete(path)
    api.work()
    add_backup_service(api.store, "a", backend_uuid=NOWHERE)
    answer = api.post("/v3/backups/import_record", exported)
    assert (answer.status, answer.body["backup"]["id"], answer.body["backup"]["name"]) == (201, made["id"], "kept 😀")
    operation = only(api, "backup_import")
    assert operation.host == BACKUP_HOST, "the daemon whose store has it"
    assert operation.args["record"]["store_uuid"] == STORE_UUID
    assert api.store.get_backup(made["id"]).is_stored is False
    api.work()
    back = api.get(path).body["backup"]
    kept = ("volume_id", "size", "name", "metadata", "object_count", "data_timestamp", "status")
    assert {key: back[key] for key in kept} == {key: made[key] for key in kept}


def test_only_an_available_backup_is_exported(api: ApiHarness) -> None:
    answer = api.get(f"/v3/backups/{backup_in_error(api)}/export_record")
    assert "must be available and not error" in answer.fault[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, "no id"),
        ({"id": "../../x"}, "id must be a UUID"),
        ({"size": 0}, "size"),
        ({"size": True}, "size"),
        ({"size": 2**40}, "size"),
        ({"size": None}, "size"),
        ({"volume_id": 5}, "volume_id"),
        ({"display_name": "x" * 256}, "display_name"),
        ({"display_name": "nul\0"}, "display_name"),
        ({"display_name": "\ud800"}, "display_name"),
        ({"metadata": {"k": {}}}, "metadata"),
        ({"metadata": []}, None),
        ({"metadata": [1]}, "metadata"),
        ({"data_timestamp": "yesterday"}, "data_timestamp"),
        ({"data_timestamp": 5}, "data_timestamp"),
        ({"data_timestamp": "0001-01-01T00:00:00+23:00"}, "data_timestamp"),
        ({"data_timestamp": "0999-01-01T00:00:00"}, "data_timestamp"),
        ({"volume_name": "two\nlines"}, "volume_name"),
        ({"store_uuid": "x"}, "store_uuid"),
        ({"version": 2}, "version 2"),
    ],
)
def test_a_record_is_not_believed(api: ApiHarness, change: dict[str, Any], words: str | None) -> None:
    exported = api.get(f"/v3/backups/{api.new_backup(api.new_volume()['id'])['id']}/export_record").body
    url = reencode(exported, **({"id": NOWHERE} | change))
    answer = api.post("/v3/backups/import_record", {"backup-record": {"backup_service": "posix", "backup_url": url}})
    if words is None:
        assert answer.status == 201
    else:
        assert answer.fault[0] == "badRequest"
        assert words in answer.fault[1]


@pytest.mark.parametrize("url", ["%%%", "bm8ganNvbg==", "W10=", base64.b64encode(b"[" * 50000).decode(), "/w=="])
def test_what_is_no_record_is_refused(api: ApiHarness, url: str) -> None:
    answer = api.post("/v3/backups/import_record", {"backup-record": {"backup_service": "posix", "backup_url": url}})
    assert answer.fault[0] == "badRequest"
    assert "is no backup record" in answer.fault[1]
    assert api.operations() == []


# -- resets ----------------------------------------------------------------------------------------


def test_a_reset_to_available_is_the_daemons_word(api: ApiHarness) -> None:
    backup_id = api.new_backup(api.new_volume()["id"])["id"]
    path = f"/v3/backups/{backup_id}/action"
    assert api.post(path, {"os-reset_status": {"status": "error"}}).status == 202
    assert backup_status(api, backup_id) == "error"
    assert api.post(path, {"os-reset_status": {"status": "available"}}).status == 202
    assert backup_status(api, backup_id) == "available"
    by_word, by_daemon = sorted(
        (found for found in api.operations() if found.action == "backup_reset"), key=lambda found: found.seq
    )
    assert (by_word.host, by_daemon.host) == (None, models.express_host(BACKUP_HOST))


def test_force_skip_writes_the_record_while_the_daemon_is_down(api: ApiHarness) -> None:
    backup_id = backup_in_error(api)
    report(api, BACKUP_HOST, state="lost", reason="no mount")
    path = f"/v3/backups/{backup_id}/action"
    assert '"force": "skip"' in api.post(path, {"os-reset_status": {"status": "available"}}).fault[1]
    plan = api.post(path, {"os-reset_status": {"status": "available", "dry_run": True}})
    assert plan.status == 200
    steps = plan.body["dry_run"]["steps"]
    assert [step["step"] for step in steps] == ["refused"]
    assert "no mount" in steps[0]["reason"]
    assert backup_status(api, backup_id) == "error"
    assert api.post(path, {"os-reset_status": {"status": "available", "force": "skip"}}).status == 202
    assert backup_status(api, backup_id) == "available"


@pytest.mark.parametrize("status", ["creating", "deleting", "restoring", "AVAILABLE!", None, ""])
def test_a_backup_is_reset_to_available_or_error_only(api: ApiHarness, status: str | None) -> None:
    backup_id = backup_in_error(api)
    assert api.post(f"/v3/backups/{backup_id}/action", {"os-reset_status": {"status": status}}).status == 400
    assert api.post(f"/v3/backups/{NOWHERE}/action", {"os-reset_status": {"status": "error"}}).status == 404


def test_all_projects_are_listed_for_an_admin_who_asks(api: ApiHarness) -> None:
    backup_id = api.new_backup(api.new_volume()["id"])["id"]
    elsewhere = {"token": "bob:shop"}
    assert api.get("/v3/backups", **elsewhere).body["backups"] == []
    (found,) = api.get("/v3/backups?all_tenants=1", **elsewhere).body["backups"]
    assert found["id"] == backup_id
    assert api.get("/v3/backups?all_tenants=1&project_id=shop", **elsewhere).body["backups"] == []
