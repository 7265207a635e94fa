"""Resets beside everything else: what runs, what waits, what hangs, what ends the daemon in the middle."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.reset.bench import ADMIN, Backend
from volsvc import exceptions as exc
from volsvc import models
from volsvc.operations import OperationControl
from volsvc.ports import Correction, Intent, Query
from volsvc.resets import plan_volume
from volsvc.states import Resource
from volsvc.testing.daemon import wait_until
from volsvc.testing.stores import builders as b


class SlowOnce:
    """A driver's method that works until it is stopped, the first time, and does what it should the second."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.is_inside = threading.Event()
        self._method = method

    def __call__(self, *args: Any) -> Any:
        if not self.is_inside.is_set():
            self.is_inside.set()
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                args[-1].checkpoint(0, 0)
                time.sleep(0.01)
        return self._method(*args)


class Asking:
    """A request in a thread of its own."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.result: Any = None
        self._ask = ask
        self._thread = threading.Thread(target=self._run, name="asking")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._ask()
        except BaseException as error:
            self.error = error

    def wait(self) -> Asking:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the request has no end"
        return self

    @property
    def is_waiting(self) -> bool:
        return self._thread.is_alive()


def wait_running(backend: Backend, resource_id: str) -> models.Operation:
    def look() -> models.Operation | None:
        return next((o for o in backend.operations(resource_id) if o.state == "running"), None)

    found = wait_until(look, "an operation to run")
    assert found is not None
    return found


# -- what runs on the volume ------------------------------------------------------------------


def test_a_copy_from_the_volume_stops_lets_the_reset_go_first_and_is_done_afterwards(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = backend.create()
    _, client = backend.attach(volume)
    copying = SlowOnce(backend.driver.create_snapshot)
    monkeypatch.setattr(backend.driver, "create_snapshot", copying)
    snapshot = backend.api.create_snapshot(ADMIN, volume.id, force=True)
    assert copying.is_inside.wait(10)
    backend.reset(volume)
    with pytest.raises(OSError):
        client.write(0, b"late")
    assert backend.row(volume).status == "available"
    backend.wait(lambda: backend.store.get_snapshot(snapshot.id), "available")
    operation = backend.operations(snapshot.id, "snapshot_create")[0]
    assert operation.claim_epoch == 2
    assert backend.last_reset(volume).result["cancelled"] == []


def test_a_creation_that_is_stopped_for_a_refused_reset_goes_on(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = backend.snapshot(backend.create())
    copying = SlowOnce(backend.driver.create_volume_from_snapshot)
    monkeypatch.setattr(backend.driver, "create_volume_from_snapshot", copying)
    volume = backend.api.create(ADMIN, size_gb=None, snapshot_id=snapshot.id)
    assert copying.is_inside.wait(10)
    with pytest.raises(exc.ResetFailed, match="the storage has no volume"):
        backend.reset(volume)
    backend.wait(lambda: backend.row(volume), "available")
    operation = backend.operations(volume.id, "volume_create_from_snapshot")[0]
    assert (operation.state, operation.claim_epoch) == ("done", 2)


def test_what_does_not_stop_in_time_fails_the_reset_and_goes_on(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend(answer_timeout_s=4.0)
    volume = backend.create()
    backend.script.set("extend_volume", hang=True)
    backend.api.extend(ADMIN, volume.id, 2)
    operation = wait_running(backend, volume.id)
    with pytest.raises(exc.Conflict, match=f"{operation.id}.*did not stop"):
        backend.reset(volume)
    assert backend.row(volume).status == "extending"
    backend.script.clear()
    backend.wait(lambda: backend.row(volume), "available")
    assert backend.row(volume).size_gb == 2


def test_an_operation_that_waits_in_the_queue_is_cancelled_with_its_claim_on_the_status(backend: Backend) -> None:
    """Behind an attachment that is about to be made, as after a daemon's restart."""
    volume = backend.create()
    lease = backend.manager.runner.alone(volume.id, _control(backend), 1.0)
    backend.api.extend(ADMIN, volume.id, 2)
    asking = Asking(lambda: backend.reset(volume))
    wait_until(lambda: backend.operations(volume.id, "volume_reset"), "the reset to be recorded")
    lease.release()
    assert asking.wait().error is None
    extend = backend.operations(volume.id, "volume_extend")[0]
    row = backend.row(volume)
    assert extend.state == "cancelled"
    assert extend.error is not None
    assert backend.last_reset(volume).id in extend.error
    assert (row.status, row.size_gb, row.claimed_gb) == ("available", 1, 1)
    assert backend.last_reset(volume).result["cancelled"] == [extend.id]


def _control(backend: Backend) -> Any:
    """Stands for the control of some operation that holds a resource."""
    operation = b.submit(backend.store, b.reinit_intent("nobody"))
    return OperationControl(operation, backend.store, threading.Event(), time.monotonic)


def test_a_reset_does_not_wait_behind_busy_workers(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    volume = backend.create()
    others = [backend.create() for _ in range(8)]
    backend.script.set("extend_volume", hang=True)
    for other in others:
        backend.api.extend(ADMIN, other.id, 2)
    wait_until(lambda: len(backend.manager.runner.running()) == 8, "every worker to be busy")
    backend.reset(volume)
    assert backend.row(volume).status == "available"
    backend.script.clear()


def test_reset_during_an_attach_that_ends_severs_it_again(backend: Backend) -> None:
    volume = backend.create()
    backend.script.set("initialize_connection", delay_s=0.3, when="after")
    attaching = Asking(lambda: backend.attach(volume, complete=False))
    wait_until(lambda: list(backend.manager.runner.running()), "the attach to run")
    backend.reset(volume)
    error = attaching.wait().error  # its client comes in time, or finds the record or the export gone
    assert error is None or isinstance(error, exc.AttachmentNotFound | ConnectionResetError)
    assert (backend.row(volume).status, backend.attachments(volume)) == ("available", [])
    assert backend.exports(volume) == set()


def test_reset_during_a_delete_that_ends_finds_no_volume(backend: Backend) -> None:
    volume = backend.create()
    backend.script.set("delete_volume", delay_s=0.3)
    backend.api.delete(ADMIN, volume.id)
    wait_running(backend, volume.id)
    with pytest.raises(exc.VolumeNotFound):
        backend.reset(volume)


# -- what changes meanwhile -----------------------------------------------------------------------


def test_two_resets_at_once_take_turns(backend: Backend) -> None:
    volume = backend.create()
    backend.attach(volume)
    backend.script.set("detach_volume", delay_s=0.2)
    asking = [Asking(lambda: backend.reset(volume)) for _ in range(4)]
    assert [a.wait().error for a in asking] == [None] * 4
    first, *others = reversed(backend.operations(volume.id, "volume_reset"))
    assert [len(o.result["calls"]) for o in (first, *others)] == [1, 0, 0, 0]
    for earlier, later in zip((first, *others), others, strict=False):
        assert earlier.finished_at is not None
        assert later.started_at is not None
        assert earlier.finished_at <= later.started_at


def test_an_attachment_made_meanwhile_fails_the_reset_and_is_kept(backend: Backend) -> None:
    volume = backend.create(multiattach=True)
    attachment, _ = backend.attach(volume)
    backend.script.set("detach_volume", hang=True)
    asking = Asking(lambda: backend.reset(volume))
    wait_until(lambda: backend.script.calls("detach_volume"), "the driver to be called")
    reserved = backend.api.create_attachment(ADMIN, volume.id)
    backend.script.clear()
    error = asking.wait().error
    assert isinstance(error, exc.Conflict)
    assert attachment.id in str(error), "it says what was severed and exported again"
    assert {a.id for a in backend.attachments(volume)} == {attachment.id, reserved.id}
    assert backend.exports(volume) == {attachment.id}
    assert backend.inspect(volume)["disagreements"] == []


def test_a_record_only_reset_wins_over_one_that_asks_the_storage(backend: Backend) -> None:
    volume = backend.create()
    attachment, _ = backend.attach(volume)
    backend.script.set("detach_volume", hang=True)
    asking = Asking(lambda: backend.reset(volume))
    wait_until(lambda: backend.script.calls("detach_volume"), "the driver to be called")
    backend.reset(volume, "error")
    backend.script.clear()
    assert isinstance(asking.wait().error, exc.Conflict)
    assert backend.row(volume).status == "error"
    assert [a.id for a in backend.attachments(volume)] == [attachment.id]
    assert backend.exports(volume) == {attachment.id}


def test_a_forced_delete_meanwhile_is_done_after_the_reset_has_failed(backend: Backend) -> None:
    volume = backend.create()
    backend.script.set("inspect_volume", hang=True)
    asking = Asking(lambda: backend.reset(volume))
    wait_until(lambda: backend.script.calls("inspect_volume"), "the driver to be called")
    backend.api.delete(ADMIN, volume.id, force=True)
    assert backend.row(volume).status == "deleting"
    backend.script.clear()
    assert isinstance(asking.wait().error, exc.Conflict)
    wait_until(lambda: not backend.store.list_volumes(Query()).items, "the volume to be deleted")


def test_work_recorded_while_a_reset_runs_waits_for_its_end(backend: Backend) -> None:
    volume = backend.create()
    backend.script.set("inspect_volume", hang=True)
    asking = Asking(lambda: backend.reset(volume))
    wait_until(lambda: backend.script.calls("inspect_volume"), "the driver to be called")
    snapshot = backend.api.create_snapshot(ADMIN, volume.id)
    assert backend.store.claimable(b.HOST, 10) == []
    backend.script.clear()
    assert isinstance(asking.wait().error, exc.Conflict), "another request is about the volume now"
    backend.wait(lambda: backend.store.get_snapshot(snapshot.id), "available")


def test_a_superseded_handler_writes_nothing_of_a_reset_record(backend: Backend) -> None:
    volume = backend.create()
    backend.script.set("extend_volume", hang=True)
    backend.api.extend(ADMIN, volume.id, 2)
    operation = wait_running(backend, volume.id)
    backend.reset(volume, "error")
    ended = backend.store.get_operation(operation.id)
    assert (ended.state, ended.claim_epoch) == ("cancelled", operation.claim_epoch + 1)
    backend.script.clear()
    wait_until(lambda: not backend.manager.runner.running(), "the handler to end")
    row = backend.row(volume)
    assert (row.status, row.size_gb, row.claimed_gb) == ("error", 1, 1)
    assert backend.store.get_operation(operation.id) == ended


# -- a driver that hangs -----------------------------------------------------------------------------


def test_a_hanging_driver_gives_an_error_in_time_and_is_reconciled_when_it_comes_back(
    make_backend: Callable[..., Backend],
) -> None:
    backend = make_backend(detach_timeout_s=0.2)
    volume = backend.create()
    attachment, client = backend.attach(volume)
    before = backend.as_stored(volume)
    backend.script.set("detach_volume", hang=True)
    with pytest.raises(exc.ResetFailed, match="has not come back within"):
        backend.reset(volume)
    assert backend.as_stored(volume) == before
    client.write(0, b"not severed yet")
    with pytest.raises(exc.Conflict, match="held by a call to the driver"):
        make_short(backend).reset_status(ADMIN, volume.id, status="available")
    backend.script.clear()
    operation = backend.operations(volume.id, "volume_reset")[-1]
    wait_until(lambda: backend.store.get_operation(operation.id).result.get("late"), "the late result to be recorded")
    late = backend.store.get_operation(operation.id).result["late"]
    assert [(entry["error"], entry["reconciled"]) for entry in late] == [
        (None, "the storage serves what the record says")
    ]
    assert backend.exports(volume) == {attachment.id}
    assert backend.as_stored(volume) == before
    backend.reset(volume)
    assert backend.row(volume).status == "available"


def test_what_was_severed_before_a_call_that_hangs_is_named_and_served_again_when_it_ends(
    make_backend: Callable[..., Backend],
) -> None:
    backend = make_backend(detach_timeout_s=0.2)
    volume = backend.create(multiattach=True)
    (first, _), (second, _) = backend.attach(volume), backend.attach(volume)
    backend.script.set("detach_volume", skip=1, hang=True)
    with pytest.raises(exc.ResetFailed, match=f"Severed by then: {first.id}; exported again when"):
        backend.reset(volume)
    assert backend.exports(volume) == {second.id}
    backend.script.clear()
    wait_until(lambda: not backend.manager.runner.locks.held(), "the volume to be let go")
    assert backend.exports(volume) == {first.id, second.id}


def make_short(backend: Backend) -> Any:
    """Requests to the same daemon whose resets wait less for a volume that is held."""
    manager = backend.manager
    manager._settings = replace(manager._settings, reset=replace(manager._settings.reset, answer_timeout_s=1.0))
    return backend.api


def test_a_late_failure_is_recorded_too(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend(detach_timeout_s=0.2)
    volume = backend.create()
    attachment, _ = backend.attach(volume)
    backend.script.set("detach_volume", hang=True)
    with pytest.raises(exc.ResetFailed):
        backend.reset(volume)
    backend.driver.target.kill_exporter(volume.id)
    backend.script.set("target.sever", fail=True, message="too late")
    backend.script.clear("detach_volume")
    operation = backend.last_reset(volume)
    wait_until(lambda: backend.store.get_operation(operation.id).result.get("late"), "the late result")
    assert backend.store.get_operation(operation.id).result["late"][0]["error"] == "too late"
    assert backend.exports(volume) == {attachment.id}


def test_ignore_goes_on_beside_a_driver_that_hangs_and_what_it_does_late_is_undone(
    make_backend: Callable[..., Backend],
) -> None:
    backend = make_backend(detach_timeout_s=0.2)
    volume = backend.create(multiattach=True)
    (_, client), (second, _) = backend.attach(volume), backend.attach(volume)
    backend.script.set("detach_volume", hang=True)
    backend.reset(volume, force="ignore")
    assert (backend.row(volume).status, backend.attachments(volume)) == ("available", [])
    steps = backend.last_reset(volume).result["calls"]
    assert "has not come back" in steps[0]["error"]
    assert "was not called" in next(s for s in steps if s.get("attachment_id") == second.id)["error"]
    backend.script.clear()
    wait_until(lambda: not backend.manager.runner.locks.held(), "the volume to be let go")
    assert backend.exports(volume) == set()
    with pytest.raises(OSError):
        client.write(0, b"late")


@pytest.mark.slow
def test_others_go_on_while_a_call_about_one_volume_hangs(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend(detach_timeout_s=0.1)
    volumes = [backend.create() for _ in range(10)]
    for volume in volumes:
        backend.attach(volume)
    backend.script.set("detach_volume", hang=True)
    for volume in volumes:
        with pytest.raises(exc.ResetFailed):
            backend.reset(volume)
        # Each leaves work behind that can't be begun: it must not hide what comes after it.
        backend.api.extend(ADMIN, volume.id, 2)
    assert backend.create().status == "available"
    backend.script.clear()
    for volume in volumes:
        wait_until(lambda v=volume: backend.row(v).size_gb == 2, "the extend to be done at last")  # type: ignore[misc]


def test_a_hanging_inspection_is_answered_in_time_and_no_second_one_is_begun_beside_it(
    make_backend: Callable[..., Backend],
) -> None:
    backend = make_backend(detach_timeout_s=0.1)
    volume = backend.create()
    backend.script.set("inspect_volume", hang=True)
    report = backend.inspect(volume)
    assert report["storage"] is None
    assert "has not come back" in report["storage_error"]
    asked = backend.script.calls("inspect_volume")
    report = backend.inspect(volume)
    assert (report["storage"], report["storage_error"]) == (None, "an inspection before this one has not come back")
    assert backend.script.calls("inspect_volume") == asked
    assert backend.inspect(backend.create())["volume"]["status"] == "available"
    backend.script.clear()
    wait_until(lambda: backend.inspect(volume)["storage"], "the storage to be asked again")


# -- a daemon that isn't there --------------------------------------------------------------------------


def test_reset_of_a_volume_whose_daemon_is_gone_is_taken_back_and_names_skip(backend: Backend) -> None:
    volume = backend.create()
    backend.doorbell.unregister(b.HOST)
    backend.manager.runner.stop_claiming()
    with pytest.raises(
        exc.ServiceDown,
        match=r'process\. The request was taken back, the record was not changed\. With "force": "skip"',
    ):
        backend.reset(volume)
    assert [o.state for o in backend.operations(volume.id, "volume_reset")] == ["cancelled"]
    backend.reset(volume, "error")
    backend.reset(volume, force="skip")
    assert backend.row(volume).status == "available"
    report = backend.inspect(volume)
    assert report["storage"] is None
    assert "no such backend" in report["storage_error"]


def test_a_reset_that_was_begun_and_is_taken_back_says_that_clients_may_have_been_severed(backend: Backend) -> None:
    volume = backend.create()
    backend.attach(volume)
    before = backend.as_stored(volume)
    backend.script.set("detach_volume", hang=True, when="after")
    asking = Asking(lambda: backend.reset(volume))
    wait_until(lambda: backend.script.calls("detach_volume"), "the driver to be called")
    backend.manager.runner.stop_claiming()
    backend.manager.runner.interrupt()
    backend.doorbell.unregister(b.HOST)
    backend.script.clear()
    error = asking.wait().error
    assert isinstance(error, exc.ServiceDown)
    assert "severed are served again when the daemon has started" in str(error)
    assert backend.last_reset(volume).state == "cancelled"
    assert backend.as_stored(volume) == before


def test_reset_while_the_backend_is_down_is_refused_at_once_with_its_state(backend: Backend) -> None:
    volume = backend.create()
    backend.script.set("check_for_setup_error", fail=True, error="BackendUnavailable", message="no light")
    backend.manager._lose("no light", step="operation")
    with pytest.raises(exc.ServiceDown, match=r"lost.*no light.*skip"):
        backend.reset(volume)
    assert backend.operations(volume.id, "volume_reset") == []


def test_a_backend_lost_after_the_request_was_recorded_gives_it_back(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = backend.create()
    monkeypatch.setattr("volsvc.volume_api.resets.WAIT_SLICE_S", 0.1)
    backend.manager._is_swapping = True  # ready, and claims nothing
    asking = Asking(lambda: backend.reset(volume))
    wait_until(lambda: backend.operations(volume.id, "volume_reset"), "the reset to be recorded")
    assert asking.is_waiting
    backend.manager._lose("unplugged", step="operation")
    error = asking.wait().error
    assert isinstance(error, exc.ServiceDown)
    assert "unplugged" in str(error)
    assert [o.state for o in backend.operations(volume.id, "volume_reset")] == ["cancelled"]


def test_one_hung_backend_takes_only_its_share_of_those_who_wait(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    volumes = [backend.create() for _ in range(9)]
    backend.script.set("inspect_volume", hang=True)
    asking = [Asking(lambda v=volume: backend.reset(v)) for volume in volumes[:8]]  # type: ignore[misc]
    wait_until(lambda: backend.script.calls("inspect_volume") == 8, "eight to wait")
    with pytest.raises(exc.BackendBusy, match="8 requests"):
        backend.reset(volumes[8])
    assert backend.operations(volumes[8].id, "volume_reset") == []
    backend.script.clear()
    assert [a.wait().error for a in asking] == [None] * 8


def test_a_reset_that_nobody_waits_for_any_more_is_not_done(backend: Backend) -> None:
    volume = backend.create()
    _, client = backend.attach(volume)
    late = Intent(
        "volume_reset",
        ADMIN,
        volume.id,
        host=b.HOST,
        args=plan_volume("available").arguments(),
        deadline_at=b.utcnow(),
    )
    operation = backend.store.submit(late)[0]
    backend.manager.runner.ring()
    wait_until(lambda: not backend.store.get_operation(operation.id).is_open, "it to end")
    ended = backend.store.get_operation(operation.id)
    assert (ended.state, ended.error_class) == ("failed", "OperationTimeout")
    client.write(0, b"goes on")


def test_a_reset_cut_by_the_daemons_end_is_finished_by_the_next_one(backend: Backend) -> None:
    volume = backend.create()
    attachment, client = backend.attach(volume)
    operation = cut_reset(backend, volume, attachment, deadline_s=30)
    wait_until(lambda: not backend.store.get_operation(operation.id).is_open, "the reset to end")
    assert backend.store.get_operation(operation.id).state == "done"
    assert (backend.row(volume).status, backend.attachments(volume)) == ("available", [])
    with pytest.raises(OSError):
        client.write(0, b"late")


def test_a_reset_cut_by_the_daemons_end_is_put_back_when_nobody_waits_any_more(backend: Backend) -> None:
    volume = backend.create()
    attachment, _ = backend.attach(volume)
    before = backend.as_stored(volume)
    operation = cut_reset(backend, volume, attachment, deadline_s=-1)
    wait_until(lambda: not backend.store.get_operation(operation.id).is_open, "the reset to end")
    assert backend.store.get_operation(operation.id).state == "failed"
    assert backend.as_stored(volume) == before
    assert backend.exports(volume) == {attachment.id}


def cut_reset(
    backend: Backend, volume: models.Volume, attachment: models.Attachment, deadline_s: float
) -> models.Operation:
    """A reset whose daemon was killed between the driver's call and the write, and the next daemon."""
    backend.manager.stop(5.0)
    intent = Intent(
        "volume_reset",
        ADMIN,
        volume.id,
        host=b.HOST,
        args=plan_volume("available").arguments(),
        deadline_at=b.utcnow() + dt.timedelta(seconds=deadline_s),
    )
    operation = backend.store.submit(intent)[0]
    claimed = b.claim(backend.store, operation, "instance-1")
    backend.build().detach_volume(volume, attachment)
    backend.manager = backend._new_manager()
    backend.start()
    return claimed


# -- who writes what -------------------------------------------------------------------------------------


def test_a_correction_whose_situation_has_changed_writes_nothing(backend: Backend) -> None:
    volume = backend.create()
    seen = backend.store.look("volume", volume.id)
    backend.set_status(Resource.VOLUME, volume.id, "maintenance")
    intent = Intent("volume_reset", ADMIN, volume.id)
    with pytest.raises(exc.Conflict, match="changed by another request"):
        backend.store.correct(intent, Correction(status="available", seen=seen), {})
    assert backend.row(volume).status == "maintenance"
    assert backend.operations(volume.id, "volume_reset") == []
