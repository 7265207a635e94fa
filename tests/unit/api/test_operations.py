from __future__ import annotations

import dataclasses
import datetime as dt

from tests.unit.api.harness import ApiHarness
from volsvc import models
from volsvc.api.views.operations import _seconds_left
from volsvc.ports import Outcome


def test_an_operation_is_shown_from_the_queue_to_its_end(api: ApiHarness) -> None:
    volume_id = api.post("/v3/volumes", {"volume": {"size": 1}}).body["volume"]["id"]
    (listed,) = api.get("/v3/operations").body["operations"]
    assert (listed["action"], listed["resource_id"], listed["state"]) == ("volume_create", volume_id, "queued")
    assert listed["progress"] == {"done_bytes": 0, "total_bytes": 0, "percent": None, "seconds_left": None}
    assert "args" not in listed
    claimed = api.store.claim(listed["id"], "daemon")
    assert claimed is not None
    api.store.report_progress(claimed, 512, 1024)
    path = f"/v3/operations/{listed['id']}"
    running = api.get(path).body["operation"]
    assert (running["state"], running["progress"]["percent"], running["attempts"]) == ("running", 50, 1)


def test_a_result_that_opens_a_volume_is_shown_to_nobody(api: ApiHarness) -> None:
    api.post("/v3/volumes", {"volume": {"size": 1}})
    (queued,) = api.get("/v3/operations").body["operations"]
    claimed = api.store.claim(queued["id"], "daemon")
    assert claimed is not None
    secret = {"connection_info": {"data": {"psk_key": "secret"}}, "size_gb": 1}
    api.store.finish(claimed, Outcome("done", result=secret))
    shown = api.get(f"/v3/operations/{queued['id']}").body["operation"]
    assert shown["result"] == {"connection_info": "***", "size_gb": 1}


def test_operations_are_filtered_and_paged(api: ApiHarness) -> None:
    first, second = api.new_volume()["id"], api.new_volume()["id"]
    api.delete(f"/v3/volumes/{first}")
    shown = api.get("/v3/operations").body["operations"]
    assert [found["action"] for found in shown] == ["volume_delete", "volume_create", "volume_create"]
    (queued,) = api.get("/v3/operations?state=queued").body["operations"]
    assert queued["resource_id"] == first
    (of_second,) = api.get(f"/v3/operations?resource_id={second}").body["operations"]
    assert of_second["state"] == "done"
    page = api.get("/v3/operations?limit=2").body
    (rest,) = api.get(page["operations_links"][0]["href"].partition(".org")[2]).body["operations"]
    assert rest["resource_id"] == first
    assert "taste" in api.get("/v3/operations?taste=sweet").fault[1]


def test_a_queued_operation_is_cancelled_at_once(api: ApiHarness) -> None:
    api.post("/v3/volumes", {"volume": {"size": 1}})
    (queued,) = api.get("/v3/operations").body["operations"]
    path = f"/v3/operations/{queued['id']}"
    answer = api.post(f"{path}/action", {"os-cancel": {}})
    assert answer.status == 202
    assert answer.body["operation"]["state"] == "cancelled"
    assert api.work() == 0


def test_a_running_operation_is_asked_to_cancel(api: ApiHarness) -> None:
    api.post("/v3/volumes", {"volume": {"size": 1}})
    (queued,) = api.get("/v3/operations").body["operations"]
    claimed = api.store.claim(queued["id"], "daemon")
    assert claimed is not None
    asked = api.post(f"/v3/operations/{queued['id']}/action", {"os-cancel": {}}).body["operation"]
    assert (asked["state"], asked["cancel_requested"]) == ("running", True)
    assert api.store.report_progress(claimed, 1, 2) is True


def test_an_operation_that_is_not_there(api: ApiHarness) -> None:
    assert api.get("/v3/operations/none").fault[0] == "itemNotFound"
    assert api.post("/v3/operations/none/action", {"os-cancel": {}}).status == 404


def test_the_time_left_follows_from_the_pace_of_the_first_attempt() -> None:
    started = dt.datetime(2024, 1, 2, 3, 0, 0)
    running = models.Operation(
        *("id", 1, "backup_create", "backup", "resource", "running"),
        claim_epoch=1,
        progress_done=25,
        progress_total=100,
        started_at=started,
        updated_at=started + dt.timedelta(seconds=10),
    )
    assert _seconds_left(running) == 30
    assert _seconds_left(dataclasses.replace(running, progress_done=100)) == 0
    for changes in (
        {"progress_done": 0},
        {"progress_done": 0, "progress_total": 0},
        {"state": "queued"},
        {"state": "done"},
        {"claim_epoch": 2},
        {"started_at": None},
    ):
        assert _seconds_left(dataclasses.replace(running, **changes)) is None, changes
