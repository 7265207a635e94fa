"""Resets that ask the storage: what is called, what is written, and what is left when it isn't."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.reset.bench import ADMIN, Backend
from volsvc import exceptions as exc
from volsvc.states import Resource


def test_reset_to_available_severs_every_client_and_deletes_the_attachments(backend: Backend) -> None:
    volume = backend.create(multiattach=True)
    (first, client), (second, other) = backend.attach(volume), backend.attach(volume)
    backend.calls.clear()
    backend.reset(volume)
    assert backend.calls == ["inspect_volume", "detach_volume", "detach_volume", "inspect_volume"]
    for severed in (client, other):
        with pytest.raises(OSError):
            severed.write(0, b"late")
    row = backend.row(volume)
    assert (row.status, row.attach_status, backend.attachments(volume)) == ("available", "detached", [])
    result = backend.last_reset(volume).result
    assert [(step["attachment_id"], step["ok"]) for step in result["calls"]] == [(first.id, True), (second.id, True)]
    assert result["written"]["attachments_deleted"] == [first.id, second.id]
    assert backend.inspect(volume)["disagreements"] == []


def test_reset_of_an_unattached_volume_only_looks(backend: Backend) -> None:
    volume = backend.create()
    backend.set_status(Resource.VOLUME, volume.id, "error")
    backend.calls.clear()
    backend.reset(volume)
    assert backend.calls == ["inspect_volume"]
    assert backend.row(volume).status == "available"


def test_reset_when_detach_fails_leaves_the_row_and_says_the_two_ways_on(backend: Backend) -> None:
    volume = backend.create()
    _, client = backend.attach(volume)
    before = backend.as_stored(volume)
    backend.script.set("detach_volume", fail=True, error="DriverError", message="the array is on fire")
    with pytest.raises(exc.ResetFailed, match="array is on fire") as caught:
        backend.reset(volume)
    assert '"force": "ignore"' in str(caught.value)
    assert '"force": "skip"' in str(caught.value)
    assert backend.as_stored(volume) == before
    client.write(0, b"goes on")
    operation = backend.last_reset(volume)
    assert (operation.state, operation.error_class) == ("failed", "ResetFailed")
    assert [step["ok"] for step in operation.result["calls"]] == [False, True]
    assert operation.result["calls"][-1]["call"] == "ensure_export"


def test_what_was_severed_before_the_failure_is_exported_again_and_named(backend: Backend) -> None:
    volume = backend.create(multiattach=True)
    (first, _), (second, _) = backend.attach(volume), backend.attach(volume)
    before = backend.as_stored(volume)
    backend.script.set("detach_volume", skip=1, fail=True)
    with pytest.raises(exc.ResetFailed, match=f"exported again: {first.id}"):
        backend.reset(volume)
    assert backend.as_stored(volume) == before
    assert backend.exports(volume) == {first.id, second.id}
    assert backend.inspect(volume)["disagreements"] == []


def test_what_was_severed_is_put_back_also_when_the_database_is_away_just_then(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = backend.create(multiattach=True)
    (first, _), (second, _) = backend.attach(volume), backend.attach(volume)
    backend.script.set("detach_volume", skip=1, fail=True)
    refusals = iter([exc.StoreUnavailable(reason="away")] * 2)

    def refuse_twice_after_the_failure(*args: Any) -> Any:
        if backend.script.calls("detach_volume") == 2 and (error := next(refusals, None)):
            raise error
        return look(*args)

    look = backend.store.look
    monkeypatch.setattr(backend.store, "look", refuse_twice_after_the_failure)
    monkeypatch.setattr("volsvc.reset_work.STORE_PAUSE_S", 0.01)
    with pytest.raises(exc.ResetFailed, match=f"exported again: {first.id}"):
        backend.reset(volume)
    assert backend.exports(volume) == {first.id, second.id}


def test_exports_that_can_not_be_put_back_are_told_of(backend: Backend) -> None:
    volume = backend.create(multiattach=True)
    (first, _), _ = backend.attach(volume), backend.attach(volume)
    backend.script.set("detach_volume", skip=1, fail=True)
    backend.script.set("ensure_export", fail=True)
    with pytest.raises(exc.ResetFailed, match=f"not put back.*severed: {first.id}"):
        backend.reset(volume)
    assert backend.inspect(volume)["disagreements"] != []


def test_a_driver_without_detach_is_not_supported_and_nothing_is_touched(backend: Backend) -> None:
    volume = backend.create()
    _, client = backend.attach(volume)
    before = backend.as_stored(volume)
    backend.script.set("detach_volume", fail=True, error="NotImplementedError")
    backend.calls.clear()
    with pytest.raises(exc.DetachNotSupported, match="can't sever connections"):
        backend.reset(volume)
    assert "ensure_export" not in backend.calls
    assert backend.as_stored(volume) == before
    client.write(0, b"goes on")


def test_ignore_calls_the_driver_and_goes_on_whatever_it_says(backend: Backend) -> None:
    volume = backend.create()
    attachment, _ = backend.attach(volume)
    backend.script.set("detach_volume", fail=True, message="no")
    backend.reset(volume, force="ignore")
    assert backend.row(volume).status == "available"
    assert backend.attachments(volume) == []
    operation = backend.last_reset(volume)
    assert operation.args["force"] == "ignore"
    assert operation.user_id == ADMIN.user_id
    assert operation.result["calls"][0] | {"took_s": 0} == {
        "call": "detach_volume",
        "attachment_id": attachment.id,
        "host": "client",
        "ok": False,
        "error": "no",
        "took_s": 0,
    }


def test_skip_asks_nobody_and_keeps_what_the_storage_last_said(backend: Backend) -> None:
    volume = backend.create()
    attachment, client = backend.attach(volume)
    inspected = backend.inspect(volume)
    backend.calls.clear()
    backend.reset(volume, force="skip")
    assert backend.calls == []
    client.write(0, b"nobody severed it")
    assert (backend.row(volume).status, backend.attachments(volume)) == ("available", [])
    operation = backend.last_reset(volume)
    assert (operation.state, operation.host, operation.user_id) == ("done", None, ADMIN.user_id)
    assert operation.result["forced"] == "skip"
    assert operation.result["storage_last_said"]["exports"] == inspected["storage"]["exports"] == [attachment.id]
    assert [found["id"] for found in operation.result["attachments_before"]] == [attachment.id]
    assert any("no record knows" in words for words in backend.inspect(volume)["disagreements"])


def test_an_export_that_no_record_knows_is_severed_too(backend: Backend) -> None:
    volume = backend.create()
    _, client = backend.attach(volume)
    backend.reset(volume, force="skip")
    backend.reset(volume)
    with pytest.raises(OSError):
        client.write(0, b"late")
    assert backend.inspect(volume)["disagreements"] == []


def test_a_driver_that_only_says_that_it_severed_is_not_believed(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = backend.create()
    attachment, _ = backend.attach(volume)
    before = backend.as_stored(volume)
    monkeypatch.setattr(backend.driver.target, "sever", lambda volume, attachment: None)
    with pytest.raises(exc.ResetFailed, match=f"still serves {attachment.id}"):
        backend.reset(volume)
    assert backend.as_stored(volume) == before


def test_available_is_not_said_of_a_volume_that_the_storage_does_not_have(backend: Backend) -> None:
    volume = backend.create()
    with backend.driver.store.transaction() as state:
        state["files"].clear()
    backend.set_status(Resource.VOLUME, volume.id, "error_deleting")
    with pytest.raises(exc.ResetFailed, match="the storage has no volume"):
        backend.reset(volume)
    assert backend.row(volume).status == "error_deleting"
    backend.reset(volume, force="ignore")
    assert backend.row(volume).status == "available"


def test_the_size_that_the_storage_has_is_written(backend: Backend) -> None:
    volume = backend.create()
    backend.driver.extend_volume(volume, 3)
    backend.set_status(Resource.VOLUME, volume.id, "error_extending", claimed_gb=3)
    assert any("3 GiB" in words for words in backend.inspect(volume)["disagreements"])
    backend.reset(volume)
    row = backend.row(volume)
    assert (row.status, row.size_gb, row.claimed_gb) == ("available", 3, 3)


def test_a_volume_smaller_than_its_record_is_left_to_the_admin_and_its_clients_connected(backend: Backend) -> None:
    volume = backend.create(2)
    backend.attach(volume)
    with backend.driver.store.transaction() as state:
        for file in state["files"].values():
            file["size"] //= 2
    (words,) = backend.inspect(volume)["disagreements"]
    assert "look at the storage first" in words
    backend.calls.clear()
    with pytest.raises(exc.ResetFailed, match="look at the storage first"):
        backend.reset(volume)
    assert backend.calls == ["inspect_volume"]


def test_in_use_connects_every_attachment_again(backend: Backend) -> None:
    volume = backend.create()
    attachment, _ = backend.attach(volume)
    backend.driver.target.kill_exporter(volume.id)
    backend.set_status(Resource.VOLUME, volume.id, "error")
    backend.calls.clear()
    backend.reset(volume, "in-use")
    assert backend.calls == ["inspect_volume", "initialize_connection"]
    assert (backend.row(volume).status, backend.row(volume).attach_status) == ("in-use", "attached")
    assert [a.status for a in backend.attachments(volume)] == ["attached"]
    assert backend.exports(volume) == {attachment.id}


def test_in_use_without_an_attachment_is_a_conflict(backend: Backend) -> None:
    volume = backend.create()
    for force in (None, "ignore", "skip"):
        with pytest.raises(exc.Conflict, match="attach it"):
            backend.reset(volume, "in-use", force=force)
    backend.api.create_attachment(ADMIN, volume.id)
    with pytest.raises(exc.Conflict, match="attach it"):
        backend.reset(volume, "in-use")
    assert backend.row(volume).status == "reserved"


def test_in_use_that_can_not_be_connected_leaves_the_row(backend: Backend) -> None:
    volume = backend.create()
    backend.attach(volume)
    backend.set_status(Resource.VOLUME, volume.id, "error")
    before = backend.as_stored(volume)
    backend.script.set("initialize_connection", fail=True, error="StorageFull", message="full")
    with pytest.raises(exc.ResetFailed, match="full"):
        backend.reset(volume, "in-use")
    assert backend.as_stored(volume) == before


def test_detached_alone_severs_and_computes_the_status(backend: Backend) -> None:
    volume = backend.create()
    _, client = backend.attach(volume)
    backend.reset(volume, None, attach_status="detached")
    assert (backend.row(volume).status, backend.row(volume).attach_status) == ("available", "detached")
    with pytest.raises(OSError):
        client.write(0, b"late")
    other = backend.create()
    backend.attach(other)
    backend.set_status(Resource.VOLUME, other.id, "maintenance")
    backend.reset(other, None, attach_status="detached")
    assert (backend.row(other).status, backend.row(other).attach_status) == ("maintenance", "detached")


def test_the_migration_status_is_only_written(backend: Backend) -> None:
    volume = backend.create()
    backend.attach(volume)
    backend.calls.clear()
    backend.reset(volume, None, migration_status="error")
    assert backend.row(volume).migration_status == "error"
    backend.reset(volume, None, migration_status="none")
    assert backend.calls == []
    row = backend.row(volume)
    assert (row.migration_status, row.status, len(backend.attachments(volume))) == (None, "in-use", 1)


def test_a_lost_backend_is_noticed_by_the_reset_and_not_queued_for(backend: Backend) -> None:
    volume = backend.create()
    backend.attach(volume)
    before = backend.as_stored(volume)
    backend.script.set("detach_volume", fail=True, error="BackendUnavailable", message="unplugged")
    with pytest.raises(exc.ResetFailed, match="unplugged"):
        backend.reset(volume)
    assert backend.as_stored(volume) == before
    assert backend.last_reset(volume).state == "failed"


def test_snapshot_is_available_only_when_the_storage_has_it(backend: Backend) -> None:
    volume = backend.create()
    snapshot = backend.snapshot(volume)
    backend.set_status(Resource.SNAPSHOT, snapshot.id, "error")
    backend.api.reset_snapshot_status(ADMIN, snapshot.id, status="available")
    assert backend.store.get_snapshot(snapshot.id).status == "available"
    backend.driver.delete_snapshot(snapshot)
    backend.set_status(Resource.SNAPSHOT, snapshot.id, "error_deleting")
    with pytest.raises(exc.ResetFailed, match="the storage has no snapshot"):
        backend.api.reset_snapshot_status(ADMIN, snapshot.id, status="available")
    assert backend.store.get_snapshot(snapshot.id).status == "error_deleting"
    backend.api.reset_snapshot_status(ADMIN, snapshot.id, status="available", force="skip")
    assert backend.store.get_snapshot(snapshot.id).status == "available"


def test_dry_run_names_every_step_and_does_none(backend: Backend) -> None:
    volume = backend.create()
    attachment, client = backend.attach(volume)
    before = backend.as_stored(volume)
    plan = backend.api.reset_status(ADMIN, volume.id, status="available", dry_run=True)
    assert plan is not None
    assert [(step["step"], step.get("call")) for step in plan["steps"]] == [
        ("call", "inspect_volume"),
        ("call", "detach_volume"),
        ("call", "inspect_volume"),
        ("write", None),
    ]
    assert plan["steps"][1]["attachment_id"] == attachment.id
    assert plan["steps"][-1]["status"] == "available"
    assert plan["inspection"]["storage"]["exports"] == [attachment.id]
    assert backend.as_stored(volume) == before
    assert backend.operations(volume.id, "volume_reset") == []
    client.write(0, b"goes on")
    backend.reset(volume)
    done = backend.last_reset(volume).result["calls"]
    assert [step["call"] for step in done] == ["detach_volume"]
