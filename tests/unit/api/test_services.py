from __future__ import annotations

import pytest

from tests.unit.api.harness import ApiHarness, add_service


def only_service(api: ApiHarness, version: int = 71) -> dict[str, object]:
    (service,) = api.get("/v3/os-services", version=version).body["services"]
    return dict(service)


def test_services_say_whether_they_are_up_and_why_not(api: ApiHarness) -> None:
    service = only_service(api)
    assert (service["host"], service["binary"], service["state"], service["status"]) == (
        *("node@file", "volsvc-volume"),
        *("up", "enabled"),
    )
    assert service["backend_state"] == "up"
    assert service["updated_at"]
    (row,) = api.store.list_services()
    api.store.report_service(row.id, {"state": "retrying", "step": "do_setup", "reason": "no such directory"})
    service = only_service(api)
    assert (service["state"], service["backend_state"]) == ("down", "down")
    assert (service["volsvc:init_step"], service["volsvc:init_reason"]) == ("do_setup", "no such directory")


def test_fields_grow_with_the_microversion(api: ApiHarness) -> None:
    assert not {"cluster", "backend_state"} & set(only_service(api, 6))
    assert "cluster" in only_service(api, 7)
    assert "backend_state" not in only_service(api, 48)
    assert "backend_state" in only_service(api, 49)


def test_services_are_filtered(api: ApiHarness) -> None:
    add_service(api.store, "node@other")
    add_service(api.store, "far@file")

    def hosts(query: str) -> set[str]:
        return {service["host"] for service in api.get(f"/v3/os-services?{query}").body["services"]}

    assert hosts("host=node@file") == {"node@file"}
    assert hosts("host=node") == {"node@file", "node@other"}
    assert hosts("binary=volsvc-volume&host=far@file") == {"far@file"}
    assert hosts("binary=cinder-scheduler") == set()


def test_disabling_and_enabling_are_written(api: ApiHarness) -> None:
    which = {"host": "node@file", "binary": "volsvc-volume"}
    answer = api.put("/v3/os-services/disable-log-reason", {**which, "disabled_reason": " new disk "})
    assert answer.body == {
        **which,
        "service": "",
        "status": "disabled",
        "disabled": True,
        "disabled_reason": " new disk ",
    }
    service = only_service(api)
    assert (service["status"], service["disabled_reason"]) == ("disabled", "new disk")
    assert api.post("/v3/volumes", {"volume": {"size": 1}}).fault[0] == "serviceUnavailable"
    assert api.put("/v3/os-services/enable", which).body["status"] == "enabled"
    service = only_service(api)
    assert (service["status"], service["disabled_reason"]) == ("enabled", None)
    assert api.put("/v3/os-services/disable", {"host": "node@file", "service": "volsvc-volume"}).status == 200
    assert only_service(api)["status"] == "disabled"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"binary": "volsvc-volume"}, 400),
        ({"binary": "volsvc-volume", "host": "nowhere"}, 404),
        ({"binary": "other", "host": "node@file"}, 404),
    ],
)
def test_a_service_that_is_not_there(api: ApiHarness, body: object, status: int) -> None:
    assert api.put("/v3/os-services/disable", body).status == status


def test_a_reason_must_say_something(api: ApiHarness) -> None:
    body = {"host": "node@file", "binary": "volsvc-volume", "disabled_reason": "  "}
    assert api.put("/v3/os-services/disable-log-reason", body).status == 400
    assert only_service(api)["status"] == "enabled"


def test_pools(api: ApiHarness) -> None:
    assert api.get("/v3/scheduler-stats/get_pools").body == {"pools": [{"name": "node@file#file"}]}
    api.new_volume(size=7)
    (pool,) = api.get("/v3/scheduler-stats/get_pools?detail=True").body["pools"]
    capabilities = pool["capabilities"]
    assert (capabilities["total_capacity_gb"], capabilities["allocated_capacity_gb"]) == (1000.0, 7)
    assert capabilities["volume_backend_name"] == "file"
    assert api.get("/v3/scheduler-stats/get_pools?name=other").body == {"pools": []}
    assert api.get("/v3/scheduler-stats/get_pools?taste=sweet").status == 400


def test_a_zone_is_available_while_a_service_in_it_can_take_volumes(api: ApiHarness) -> None:
    add_service(api.store, "node@down", state="lost", availability_zone="attic")
    assert api.get("/v3/os-availability-zone").body == {
        "availabilityZoneInfo": [
            {"zoneName": "attic", "zoneState": {"available": False}},
            {"zoneName": "nova", "zoneState": {"available": True}},
        ]
    }


def test_limits_and_quotas_say_what_is_used(api: ApiHarness) -> None:
    api.new_snapshot(api.new_volume(size=3)["id"])
    absolute = api.get("/v3/limits").body["limits"]["absolute"]
    assert (absolute["totalVolumesUsed"], absolute["totalGigabytesUsed"], absolute["totalSnapshotsUsed"]) == (1, 3, 1)
    assert absolute["maxTotalVolumes"] == -1
    other = api.get("/v3/limits?project_id=lab").body["limits"]["absolute"]
    assert other["totalVolumesUsed"] == 0
    assert api.get("/v3/os-quota-sets/project").body["quota_set"]["volumes"] == -1
    used = api.get("/v3/os-quota-sets/project?usage=True").body["quota_set"]["gigabytes"]
    assert used == {"limit": -1, "in_use": 3, "reserved": 0}
    assert api.get("/v3/os-quota-sets/project/defaults").body["quota_set"]["id"] == "project"


def test_extensions_have_what_clients_read(api: ApiHarness) -> None:
    extensions = api.get("/v3/extensions").body["extensions"]
    assert {"os-services", "scheduler-stats"} <= {found["alias"] for found in extensions}
    assert all(set(found) == {"alias", "name", "description", "links", "updated"} for found in extensions)
