from __future__ import annotations

from typing import Any

import pytest

from tests.unit.api.harness import ApiHarness

NOWHERE = "00000000-0000-0000-0000-000000000000"
CONNECTOR = {"host": "client", "ip": "192.0.2.7", "mountpoint": "/dev/vdb"}


def create(api: ApiHarness, volume_id: str, version: int = 71, **fields: Any) -> Any:
    return api.post("/v3/attachments", {"attachment": {"volume_uuid": volume_id, **fields}}, version=version)


def test_without_a_connector_the_volume_is_only_reserved(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    answer = create(api, volume_id, version=27, instance_uuid=NOWHERE)
    assert answer.status == 200
    made = answer.body["attachment"]
    assert made == {
        "id": made["id"],
        "status": "reserved",
        "instance": NOWHERE,
        "volume_id": volume_id,
        "attached_at": "",
        "detached_at": "",
        "attach_mode": "rw",
        "connection_info": {},
    }
    assert api.get(f"/v3/volumes/{volume_id}").body["volume"]["status"] == "reserved"


def test_with_a_connector_the_answer_says_how_to_connect(api: ApiHarness) -> None:
    made = create(api, api.new_volume()["id"], connector=CONNECTOR, mode="ro").body["attachment"]
    assert made["status"] == "attaching"
    assert made["attach_mode"] == "ro"
    info = made["connection_info"]
    assert (info["driver_volume_type"], info["export"], info["access_mode"]) == ("nbd", "volume", "ro")
    assert info["attachment_id"] == made["id"]
    assert "data" not in info


def test_a_reserved_attachment_is_connected_later_and_completed(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    path = f"/v3/attachments/{create(api, volume_id).body['attachment']['id']}"
    assert api.post(f"{path}/action", {"os-complete": {}}).status == 400
    answer = api.put(path, {"attachment": {"connector": CONNECTOR}})
    assert answer.status == 200
    assert answer.body["attachment"]["connection_info"]["driver_volume_type"] == "nbd"
    done = api.post(f"{path}/action", {"os-complete": None}, version=44)
    assert (done.status, done.body) == (204, None)
    assert api.get(path).body["attachment"]["status"] == "attached"
    assert api.get(f"/v3/volumes/{volume_id}").body["volume"]["status"] == "in-use"


def test_delete_answers_with_those_that_remain(api: ApiHarness) -> None:
    volume_id = api.new_volume(multiattach=True)["id"]
    first, second = (create(api, volume_id, connector=CONNECTOR).body["attachment"]["id"] for _ in range(2))
    answer = api.delete(f"/v3/attachments/{first}")
    assert answer.status == 200
    assert [attachment["id"] for attachment in answer.body["attachments"]] == [second]
    assert api.delete(f"/v3/attachments/{second}").body == {"attachments": []}
    assert api.delete(f"/v3/attachments/{second}").status == 404
    assert api.get(f"/v3/volumes/{volume_id}").body["volume"]["status"] == "available"


def test_a_second_attachment_needs_multiattach(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    create(api, volume_id)
    assert create(api, volume_id).fault[0] == "badRequest"


def test_an_attached_volume_is_not_deleted(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    create(api, volume_id, connector=CONNECTOR)
    assert api.delete(f"/v3/volumes/{volume_id}").fault[0] == "badRequest"


def test_attachments_are_listed_and_filtered(api: ApiHarness) -> None:
    volume_ids = [api.new_volume()["id"] for _ in range(2)]
    ids = [create(api, volume_id, connector=CONNECTOR).body["attachment"]["id"] for volume_id in volume_ids]
    assert {a["id"] for a in api.get("/v3/attachments").body["attachments"]} == set(ids)
    (only,) = api.get(f"/v3/attachments?volume_id={volume_ids[0]}").body["attachments"]
    assert set(only) == {"id", "status", "instance", "volume_id"}
    (detailed,) = api.get("/v3/attachments/detail?limit=1").body["attachments"]
    assert "connection_info" in detailed
    assert api.get("/v3/attachments?status=attached").body["attachments"] == []
    assert "taste" in api.get("/v3/attachments?taste=sweet").fault[1]


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b'"\\u0000"', b'"\\udfff"'])
def test_a_connector_with_what_no_database_takes_is_refused(api: ApiHarness, value: bytes) -> None:
    volume_id = api.new_volume()["id"]
    raw = b'{"attachment": {"volume_uuid": "%s", "connector": {"host": "c", "x": %s}}}' % (volume_id.encode(), value)
    assert "Malformed" in api.request("POST", "/v3/attachments", raw=raw).fault[1]


@pytest.mark.parametrize(
    "request_of",
    [
        lambda api: create(api, NOWHERE),
        lambda api: api.get(f"/v3/attachments/{NOWHERE}"),
        lambda api: api.put(f"/v3/attachments/{NOWHERE}", {"attachment": {"connector": CONNECTOR}}),
        lambda api: api.post(f"/v3/attachments/{NOWHERE}/action", {"os-complete": {}}),
    ],
)
def test_what_is_not_there_is_a_404(api: ApiHarness, request_of: Any) -> None:
    assert request_of(api).fault[0] == "itemNotFound"


def test_a_backend_that_is_down_is_a_503_and_leaves_nothing(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    (service,) = api.store.list_services()
    api.store.report_service(service.id, {"state": "lost", "reason": "no route to the storage"})
    answer = create(api, volume_id, connector=CONNECTOR)
    assert answer.fault[0] == "serviceUnavailable"
    assert "no route to the storage" in answer.fault[1]
    assert api.get("/v3/attachments").body["attachments"] == []
    assert api.get(f"/v3/volumes/{volume_id}").body["volume"]["status"] == "available"


def test_a_driver_that_fails_is_a_500_with_its_reason(api: ApiHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.api import harness

    volume_id = api.new_volume()["id"]
    monkeypatch.setattr(
        harness.WorkingDoorbell,
        "wait_for",
        lambda self, operation, timeout_s: harness.work(self._store, state="failed", error="the export broke"),
    )
    answer = create(api, volume_id, connector=CONNECTOR)
    assert answer.fault == ("computeFault", "the export broke")
