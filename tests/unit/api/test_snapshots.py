from __future__ import annotations

import pytest

from tests.unit.api.harness import ApiHarness

NOWHERE = "00000000-0000-0000-0000-000000000000"
BASE = {
    "created_at", "description", "id", "metadata", "name", "os-extended-snapshot-attributes:progress",
    "os-extended-snapshot-attributes:project_id", "size", "status", "updated_at", "volume_id",
}  # fmt: skip


def attach(api: ApiHarness, volume_id: str) -> None:
    body = {"attachment": {"volume_uuid": volume_id, "connector": {"host": "client"}}}
    attachment_id = api.post("/v3/attachments", body).body["attachment"]["id"]
    assert api.post(f"/v3/attachments/{attachment_id}/action", {"os-complete": {}}).status == 204


def test_a_snapshot_is_made_of_an_available_volume(api: ApiHarness) -> None:
    volume_id = api.new_volume(size=3)["id"]
    answer = api.post("/v3/snapshots", {"snapshot": {"volume_id": volume_id, "name": " s ", "metadata": {"k": "v"}}})
    assert answer.status == 202
    made = answer.body["snapshot"]
    assert (made["status"], made["size"], made["name"], made["metadata"]) == ("creating", 3, "s", {"k": "v"})
    assert made["os-extended-snapshot-attributes:progress"] == "0%"
    api.work()
    shown = api.get(f"/v3/snapshots/{made['id']}").body["snapshot"]
    assert (shown["status"], shown["os-extended-snapshot-attributes:progress"]) == ("available", "100%")


@pytest.mark.parametrize(
    ("version", "more"),
    [
        (0, set()),
        (14, {"group_snapshot_id"}),
        (41, {"group_snapshot_id", "user_id"}),
        (65, {"group_snapshot_id", "user_id", "consumes_quota"}),
    ],
)
def test_fields_grow_with_the_microversion(api: ApiHarness, version: int, more: set[str]) -> None:
    snapshot_id = api.new_snapshot(api.new_volume()["id"])["id"]
    assert set(api.get(f"/v3/snapshots/{snapshot_id}", version=version).body["snapshot"]) == BASE | more


def test_before_3_66_an_attached_volume_needs_force_and_after_it_none(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    attach(api, volume_id)
    plain, forced = {"volume_id": volume_id}, {"volume_id": volume_id, "force": True}
    assert api.post("/v3/snapshots", {"snapshot": plain}, version=65).status == 400
    assert api.post("/v3/snapshots", {"snapshot": forced}, version=65).status == 202
    assert api.post("/v3/snapshots", {"snapshot": plain}, version=66).status == 202
    assert api.post("/v3/snapshots", {"snapshot": forced}, version=66).status == 202
    assert "force" in api.post("/v3/snapshots", {"snapshot": {**plain, "force": "no"}}, version=66).fault[1]


def test_a_volume_that_is_not_there_is_a_404(api: ApiHarness) -> None:
    assert api.post("/v3/snapshots", {"snapshot": {"volume_id": NOWHERE}}).status == 404


def test_update_and_metadata(api: ApiHarness) -> None:
    path = f"/v3/snapshots/{api.new_snapshot(api.new_volume()['id'], name='a')['id']}"
    assert api.put(path, {"snapshot": {}}).status == 400
    assert api.put(path, {"snapshot": {"display_description": "d"}}).body["snapshot"]["description"] == "d"
    assert api.post(f"{path}/metadata", {"metadata": {"k": "v"}}).body == {"metadata": {"k": "v"}}
    assert api.get(f"{path}/metadata/k").body == {"meta": {"k": "v"}}
    assert api.delete(f"{path}/metadata/k").status == 200
    assert api.get(f"{path}/metadata").body == {"metadata": {}}


@pytest.mark.parametrize("force", [False, True])
def test_delete(api: ApiHarness, force: bool) -> None:
    path = f"/v3/snapshots/{api.new_snapshot(api.new_volume()['id'])['id']}"
    answer = api.post(f"{path}/action", {"os-force_delete": {}}) if force else api.delete(path)
    assert (answer.status, answer.body) == (202, None)
    api.work()
    assert api.get(path).status == 404


def test_a_volume_is_made_from_a_snapshot_with_its_size(api: ApiHarness) -> None:
    snapshot_id = api.new_snapshot(api.new_volume(size=4)["id"])["id"]
    made = api.post("/v3/volumes", {"volume": {"snapshot_id": snapshot_id}}).body["volume"]
    assert (made["size"], made["snapshot_id"]) == (4, snapshot_id)
    too_small = api.post("/v3/volumes", {"volume": {"snapshot_id": snapshot_id, "size": 3}})
    assert too_small.fault[0] == "badRequest"
