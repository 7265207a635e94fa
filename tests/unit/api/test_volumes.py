from __future__ import annotations

from typing import Any

import pytest

from tests.unit.api.harness import Answer, ApiHarness

NOWHERE = "00000000-0000-0000-0000-000000000000"


def action(api: ApiHarness, volume_id: str, body: object, **more: Any) -> Answer:
    return api.post(f"/v3/volumes/{volume_id}/action", body, **more)


def test_a_new_volume_is_creating_and_then_available(api: ApiHarness) -> None:
    answer = api.post(
        "/v3/project/volumes",
        {"volume": {"size": "2", "name": "  data ", "description": "d", "metadata": {"k": "v"}, "multiattach": True}},
    )
    assert answer.status == 202
    made = answer.body["volume"]
    assert (made["status"], made["size"], made["name"], made["metadata"], made["multiattach"]) == (
        *("creating", 2, "data"),
        {"k": "v"},
        True,
    )
    assert api.work() == 1
    assert api.get(f"/v3/volumes/{made['id']}").body["volume"]["status"] == "available"


BASE = {
    "attachments", "availability_zone", "bootable", "consistencygroup_id", "created_at", "description", "encrypted",
    "id", "links", "metadata", "migration_status", "multiattach", "name", "os-vol-host-attr:host",
    "os-vol-mig-status-attr:migstat", "os-vol-mig-status-attr:name_id", "os-vol-tenant-attr:tenant_id",
    "replication_status", "size", "snapshot_id", "source_volid", "status", "updated_at", "user_id", "volume_type",
}  # fmt: skip


@pytest.mark.parametrize(
    ("version", "more"),
    [
        (0, set()),
        (13, {"group_id"}),
        (21, {"group_id", "provider_id"}),
        (48, {"group_id", "provider_id", "shared_targets", "service_uuid"}),
        (61, {"group_id", "provider_id", "shared_targets", "service_uuid", "cluster_name"}),
        (63, {"group_id", "provider_id", "shared_targets", "service_uuid", "cluster_name", "volume_type_id"}),
        (
            71,
            {"group_id", "provider_id", "shared_targets", "service_uuid", "cluster_name", "volume_type_id"}
            | {"consumes_quota"},
        ),
    ],
)
def test_fields_grow_with_the_microversion(api: ApiHarness, version: int, more: set[str]) -> None:
    volume_id = api.new_volume()["id"]
    assert set(api.get(f"/v3/volumes/{volume_id}", version=version).body["volume"]) == BASE | more


def test_times_have_microseconds_and_no_zone(api: ApiHarness) -> None:
    created_at = api.new_volume()["created_at"]
    assert len(created_at) == len("2024-01-02T03:04:05.678901")
    assert "Z" not in created_at


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "size is needed"),
        ({"size": 1, "imageRef": "cirros"}, "images"),
        ({"size": 1, "group_id": NOWHERE}, "volume groups"),
        ({"size": 1, "snapshot_id": NOWHERE, "source_volid": NOWHERE}, "exclude each other"),
    ],
)
def test_what_can_not_be_made_is_refused_and_leaves_nothing(api: ApiHarness, fields: object, sentence: str) -> None:
    answer = api.post("/v3/volumes", {"volume": fields})
    assert answer.fault[0] == "badRequest"
    assert sentence in answer.fault[1]
    assert api.operations() == []


@pytest.mark.parametrize("fields", [{"volume_type": "none"}, {"snapshot_id": NOWHERE}, {"source_volid": NOWHERE}])
def test_a_source_or_type_that_is_not_there_is_a_404(api: ApiHarness, fields: dict[str, str]) -> None:
    assert api.post("/v3/volumes", {"volume": {"size": 1, **fields}}).status == 404


def test_scheduler_hints_are_refused_not_ignored(api: ApiHarness) -> None:
    body = {"volume": {"size": 1}, "OS-SCH-HNT:scheduler_hints": {"same_host": [NOWHERE]}}
    assert "hints" in api.post("/v3/volumes", body).fault[1]
    assert api.post("/v3/volumes", {**body, "OS-SCH-HNT:scheduler_hints": {}}).status == 202


def test_a_volume_beyond_the_backend_is_refused(api: ApiHarness) -> None:
    answer = api.post("/v3/volumes", {"volume": {"size": 900000}})
    assert answer.status in (413, 503)


def test_name_description_and_metadata_can_be_changed(api: ApiHarness) -> None:
    volume_id = api.new_volume(name="a", metadata={"old": "1"})["id"]
    answer = api.put(f"/v3/volumes/{volume_id}", {"volume": {"display_name": "b", "description": None, "metadata": {}}})
    assert answer.status == 200
    changed = answer.body["volume"]
    assert (changed["name"], changed["description"], changed["metadata"]) == ("b", None, {})


def test_metadata_by_key(api: ApiHarness) -> None:
    path = f"/v3/volumes/{api.new_volume(metadata={'a': '1'})['id']}/metadata"
    assert api.post(path, {"metadata": {"b/c d": "2"}}).body == {"metadata": {"a": "1", "b/c d": "2"}}
    # The server leaves %2F as it is, the test's client decodes once: so it is encoded twice here.
    assert api.get(f"{path}/b%252Fc%20d").body == {"meta": {"b/c d": "2"}}
    assert api.put(f"{path}/a", {"meta": {"a": "3"}}).body == {"meta": {"a": "3"}}
    assert api.put(f"{path}/a", {"meta": {"b": "3"}}).status == 400
    answer = api.delete(f"{path}/a")
    assert (answer.status, answer.body) == (200, None)
    assert api.delete(f"{path}/a").status == 404
    assert api.get(f"{path}/a").status == 404
    assert api.put(path, {"metadata": {"z": "9"}}).body == {"metadata": {"z": "9"}}
    assert api.get(path).body == {"metadata": {"z": "9"}}


def test_an_etag_guards_metadata_against_a_change_in_between(api: ApiHarness) -> None:
    path = f"/v3/volumes/{api.new_volume(metadata={'a': '1'})['id']}/metadata"
    assert "etag" not in api.get(path, version=14).headers
    etag = api.get(path).headers["etag"]
    assert api.put(f"{path}/a", {"meta": {"a": "2"}}, headers={"If-Match": etag}).status == 200
    for stale in (
        api.put(f"{path}/a", {"meta": {"a": "3"}}, headers={"If-Match": etag}),
        api.put(path, {"metadata": {}}, headers={"If-Match": etag}),
    ):
        assert stale.status == 412
    assert api.get(path).body == {"metadata": {"a": "2"}}
    assert api.put(path, {"metadata": {}}, headers={"If-Match": "*"}).status == 200


def test_extend(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    assert action(api, volume_id, {"os-extend": {"new_size": 3}}).status == 202
    assert api.get(f"/v3/volumes/{volume_id}").body["volume"]["status"] == "extending"
    api.work()
    assert api.get(f"/v3/volumes/{volume_id}").body["volume"]["size"] == 3
    answer = action(api, volume_id, {"os-extend": {"new_size": 2}})
    assert answer.fault[0] == "badRequest"
    assert "greater than current size" in answer.fault[1]


def test_an_attached_volume_is_extended_from_3_42_on(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    body = {"attachment": {"volume_uuid": volume_id, "connector": {"host": "c"}}}
    attachment_id = api.post("/v3/attachments", body).body["attachment"]["id"]
    api.post(f"/v3/attachments/{attachment_id}/action", {"os-complete": {}})
    extend = {"os-extend": {"new_size": 3}}
    assert "3.42" in action(api, volume_id, extend, version=41).fault[1]
    assert action(api, volume_id, extend, version=42).status == 202


def test_set_bootable(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    answer = action(api, volume_id, {"os-set_bootable": {"bootable": "yes"}})
    assert (answer.status, answer.body) == (200, None)
    assert api.get(f"/v3/volumes/{volume_id}").body["volume"]["bootable"] == "true"


def test_delete(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    answer = api.delete(f"/v3/volumes/{volume_id}")
    assert (answer.status, answer.body) == (202, None)
    assert api.get(f"/v3/volumes/{volume_id}").body["volume"]["status"] == "deleting"
    assert api.delete(f"/v3/volumes/{volume_id}").fault[0] == "badRequest"
    api.work()
    assert api.get(f"/v3/volumes/{volume_id}").status == 404
    assert api.delete(f"/v3/volumes/{volume_id}").status == 404


def test_a_volume_with_snapshots_goes_only_with_cascade(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    api.new_snapshot(volume_id)
    assert "snapshot" in api.delete(f"/v3/volumes/{volume_id}").fault[1]
    assert api.delete(f"/v3/volumes/{volume_id}?cascade=maybe").status == 400
    assert api.delete(f"/v3/volumes/{volume_id}?cascade=True").status == 202
    api.work()
    assert api.get("/v3/snapshots").body == {"snapshots": []}
    assert api.get("/v3/volumes").body == {"volumes": []}


@pytest.mark.parametrize("how", ["parameter", "action"])
def test_a_stuck_volume_can_be_deleted_by_force(api: ApiHarness, how: str) -> None:
    volume_id = api.post("/v3/volumes", {"volume": {"size": 1}}).body["volume"]["id"]
    assert api.delete(f"/v3/volumes/{volume_id}?force=true", version=22).status == 400
    if how == "parameter":
        answer = api.delete(f"/v3/volumes/{volume_id}?force=true", version=23)
    else:
        answer = action(api, volume_id, {"os-force_delete": {}})
    assert answer.status == 202
    api.work()
    assert api.get(f"/v3/volumes/{volume_id}").status == 404


def test_only_attachments_in_place_are_shown_with_the_volume(api: ApiHarness) -> None:
    volume_id = api.new_volume(multiattach=True)["id"]
    body = {"attachment": {"volume_uuid": volume_id, "connector": {"host": "client", "mountpoint": "/dev/vdb"}}}
    first = api.post("/v3/attachments", body).body["attachment"]["id"]
    api.post("/v3/attachments", {"attachment": {"volume_uuid": volume_id}})
    assert api.get(f"/v3/volumes/{volume_id}").body["volume"]["attachments"] == []
    api.post(f"/v3/attachments/{first}/action", {"os-complete": {}})
    shown = api.get(f"/v3/volumes/{volume_id}").body["volume"]
    assert shown["status"] == "in-use"
    (attachment,) = shown["attachments"]
    assert (attachment["attachment_id"], attachment["host_name"], attachment["device"]) == (first, "client", "/dev/vdb")
    assert attachment["attached_at"]
    (listed,) = api.get("/v3/volumes/detail").body["volumes"]
    assert listed["attachments"] == shown["attachments"]


def test_summary_counts_volumes_and_from_3_36_their_metadata(api: ApiHarness) -> None:
    api.new_volume(size=2, metadata={"k": "a"})
    api.new_volume(size=3, metadata={"k": "b"})
    expected = {"total_count": 2, "total_size": 5}
    assert api.get("/v3/volumes/summary", version=12).body == {"volume-summary": expected}
    assert api.get("/v3/volumes/summary").body == {"volume-summary": {**expected, "metadata": {"k": ["a", "b"]}}}


def test_a_type_has_its_new_name_at_once(api: ApiHarness) -> None:
    type_id = api.post("/v3/types", {"volume_type": {"name": "gold"}}).body["volume_type"]["id"]
    volume = api.new_volume(volume_type="gold")
    assert (volume["volume_type"], volume["volume_type_id"]) == ("gold", type_id)
    api.put(f"/v3/types/{type_id}", {"volume_type": {"name": "silver"}})
    assert api.get(f"/v3/volumes/{volume['id']}").body["volume"]["volume_type"] == "silver"
