"""What the volume manager does for each action, and what a driver's failure leaves: fake driver, real store."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.fake_backend import DEADLINE_S, Backend
from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Query
from volsvc.targets.fake import FakeClient
from volsvc.testing.daemon import wait_until
from volsvc.testing.stores import builders as b

# -- volumes and snapshots ---------------------------------------------------------------------------


def test_volumes_are_created_copied_extended_and_deleted(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume(size_gb=2)
    assert (volume.status, volume.size_gb, volume.launched_at is not None) == ("available", 2, True)
    clone = b.volume_record(size_gb=3)
    backend.do(b.create_intent(clone, action="volume_clone", second_id=volume.id))
    taken = b.snapshot_intent(volume)
    backend.do(taken)
    snapshot = backend.store.get_snapshot(taken.resource_id)
    assert (snapshot.status, snapshot.progress) == ("available", "100%")
    copy = b.volume_record(size_gb=2)
    backend.do(b.create_intent(copy, action="volume_create_from_snapshot", second_id=snapshot.id))
    backend.do(b.intent("volume_extend", volume.id, args={"new_size_gb": 5}))
    assert backend.store.get_volume(volume.id).size_gb == 5
    assert {name: file["size"] // models.GIB for name, file in backend.stored.items()} == {
        f"volume-{volume.id}": 5,
        f"volume-{clone.id}": 3,
        f"volume-{copy.id}": 2,
        f"snapshot-{snapshot.id}": 2,
    }
    backend.do(b.intent("snapshot_delete", snapshot.id))
    for made in (volume, clone, copy):
        backend.do(b.intent("volume_delete", made.id))
    assert backend.stored == {}
    assert not backend.store.list_volumes(Query()).items


@pytest.mark.parametrize(
    ("method", "action", "status"),
    [
        ("create_volume", "volume_create", "error"),
        ("create_cloned_volume", "volume_clone", "error"),
        ("create_volume_from_snapshot", "volume_create_from_snapshot", "error"),
        ("extend_volume", "volume_extend", "error_extending"),
        ("delete_volume", "volume_delete", "error_deleting"),
        ("create_snapshot", "snapshot_create", "error"),
        ("delete_snapshot", "snapshot_delete", "error_deleting"),
    ],
)
def test_a_driver_that_fails_leaves_the_status_of_the_table_and_its_reason(
    backend: Backend, method: str, action: str, status: str
) -> None:
    backend.serve()
    volume = backend.volume()
    taken = b.snapshot_intent(volume)
    backend.do(taken)
    backend.script.set(method, fail=True, message="the disk is on holiday")
    new = b.volume_record()
    second = {"volume_clone": volume.id, "volume_create_from_snapshot": taken.resource_id}.get(action)
    intents = {
        "volume_extend": b.intent("volume_extend", volume.id, args={"new_size_gb": 2}),
        "volume_delete": b.intent("volume_delete", volume.id),
        "snapshot_create": b.snapshot_intent(volume),
        "snapshot_delete": b.intent("snapshot_delete", taken.resource_id),
    }
    if action == "volume_delete":
        backend.do(b.intent("snapshot_delete", taken.resource_id))
    wanted = intents.get(action) or b.create_intent(new, action=action, second_id=second)
    ended = backend.do(wanted, state="failed")
    assert (ended.error, ended.error_class) == ("the disk is on holiday", "DriverError")
    kind = "snapshot" if action.startswith("snapshot") else "volume"
    found: Any = getattr(backend.store, f"get_{kind}")(wanted.resource_id)
    assert found.status == status
    assert backend.service.is_up, "an operation that fails says nothing about its backend"


def test_an_extend_of_an_attached_volume_that_fails_leaves_it_in_use(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    backend.attach(volume)
    backend.script.set("extend_volume", fail=1)
    extend = b.intent("volume_extend_attached", volume.id, args={"new_size_gb": 2})
    backend.do(extend, state="failed")
    assert (backend.store.get_volume(volume.id).status, backend.store.get_volume(volume.id).size_gb) == ("in-use", 1)
    backend.do(extend)
    assert (backend.store.get_volume(volume.id).status, backend.store.get_volume(volume.id).size_gb) == ("in-use", 2)


@pytest.mark.parametrize("what", ["snapshot", "attachment"])
def test_a_forced_delete_never_touches_the_storage_of_a_volume_that_is_needed(backend: Backend, what: str) -> None:
    """The API refuses it before; the manager looks again, because much may pass between the two."""
    backend.serve()
    volume = backend.volume()
    if what == "snapshot":
        backend.do(b.snapshot_intent(volume))
    else:
        backend.attach(volume)
    ended = backend.do(b.intent("volume_force_delete", volume.id), state="failed")
    assert "snapshots" in (ended.error or "") or "attached" in (ended.error or "")
    assert f"volume-{volume.id}" in backend.stored
    assert backend.script.calls("delete_volume") == 0


def test_a_backend_that_goes_away_within_an_operation_finishes_it_when_it_is_back(backend: Backend) -> None:
    backend.serve()
    backend.script.set("create_volume", fail=1, error="BackendUnavailable", message="cable pulled")
    volume = backend.volume()
    assert volume.status == "available"
    [operation] = backend.store.list_operations(Query(filters={"resource_id": volume.id})).items
    assert (operation.state, operation.attempts) == ("done", 1)
    wait_until(lambda: backend.service.is_up, "the backend to be back", DEADLINE_S)
    assert backend.service.losses == 1
    assert len(backend.drivers) == 2
    wait_until(lambda: backend.drivers[0].is_closed, "the lost driver to be closed", DEADLINE_S)


# -- attachments -----------------------------------------------------------------------------------------


def test_a_connection_is_written_down_and_serves_until_it_is_ended(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    attachment = backend.attach(volume)
    assert (attachment.status, attachment.attached_at is not None) == ("attached", True)
    assert backend.store.get_volume(volume.id).status == "in-use"
    client = FakeClient(attachment.connection_info["data"])
    client.write(0, b"data")
    backend.do(b.intent("attachment_disconnect", attachment.id))
    with pytest.raises(ConnectionError):
        client.read(0, 4)
    assert (backend.store.get_volume(volume.id).status, backend.exports) == ("available", {})
    with pytest.raises(exc.AttachmentNotFound):
        backend.store.get_attachment(attachment.id)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_that_fails_leaves_no_attachment_and_no_export(backend: Backend, when: str) -> None:
    backend.serve()
    volume = backend.volume()
    backend.script.set("initialize_connection", fail=1, when=when, message="no socket left")
    wanted = b.attach_intent(volume)
    ended = backend.do(wanted, state="failed")
    assert ended.error == "no socket left"
    assert (backend.exports, backend.store.get_volume(volume.id).status) == ({}, "available")
    with pytest.raises(exc.AttachmentNotFound):
        backend.store.get_attachment(wanted.resource_id)
    backend.attach(volume)


def test_undoing_a_connection_that_fails_too_still_says_why_it_failed(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    backend.script.set("initialize_connection", fail=1, message="no socket left")
    backend.script.set("terminate_connection", fail=1, message="and no end of it")
    assert backend.do(b.attach_intent(volume), state="failed").error == "no socket left"


def test_a_superseded_connection_is_left_to_whoever_holds_it_now(backend: Backend) -> None:
    """The old handler must not cut the connection that the newer one has made meanwhile."""
    backend.serve()
    volume = backend.volume()
    backend.script.set("initialize_connection", hang=True, when="after", fail=True)
    operation = backend.store.submit(b.attach_intent(volume))[0]
    wait_until(lambda: backend.exports, "the export", DEADLINE_S)
    backend.managers[-1].runner.stop_claiming()
    backend.store.take_back(b.HOST, "a-newer-instance", 0)
    b.claim(backend.store, operation, "a-newer-instance")
    backend.script.set("initialize_connection", fail=True, when="after")
    wait_until(lambda: not backend.managers[-1].runner.running(), "the old handler to end", DEADLINE_S)
    assert set(backend.exports) == {volume.id}
    assert backend.store.get_operation(operation.id).state == "running"


def test_a_detach_that_fails_keeps_the_volume_in_use_and_may_be_repeated(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    attachment = backend.attach(volume)
    backend.script.set("terminate_connection", fail=1, message="it holds on")
    backend.do(b.intent("attachment_disconnect", attachment.id), state="failed")
    assert backend.store.get_attachment(attachment.id).status == "error_detaching"
    assert backend.store.get_volume(volume.id).status == "in-use"
    backend.do(b.intent("attachment_disconnect", attachment.id))
    assert backend.store.get_volume(volume.id).status == "available"


def test_a_backend_that_goes_away_within_a_connect_has_it_done_again_and_nothing_undone(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    backend.script.set("initialize_connection", fail=1, when="after", error="BackendUnavailable")
    wanted = b.attach_intent(volume)
    backend.do(wanted)
    assert backend.script.calls("terminate_connection") == 0
    FakeClient(backend.store.get_attachment(wanted.resource_id).connection_info["data"]).write(0, b"served")
