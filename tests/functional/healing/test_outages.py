"""A backend that goes away again and again, and work that meets it each time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.functional.healing.backends import GONE, HealingDaemon
from volsvc.testing.daemon import wait_until

pytestmark = pytest.mark.slow

Start = Callable[..., HealingDaemon]

CUT = {"fail": True, "error": "BackendUnavailable", "message": "wire cut"}


def test_work_that_takes_the_backend_down_each_time_meets_its_deadline_and_nothing_spins(start: Start) -> None:
    interval_s = 2
    daemon = start(operation_queue_timeout=7, backend_stats_polling_interval=interval_s)
    daemon.wait_state("one", "ready")
    daemon.one.script(create_volume=CUT)
    started, before = time.monotonic(), daemon.one.calls("do_setup")
    poison = daemon.cinder().volumes.create(1)
    daemon.wait_volume(poison.id, "error")
    attempts, creates = daemon.one.calls("do_setup") - before, daemon.one.calls("create_volume")
    most = (time.monotonic() - started) / (interval_s * 0.9) + 2
    assert 2 <= attempts <= most
    assert 2 <= creates <= most + 1
    assert daemon.services()["one"]["losses"] >= 2, "a backend that flaps is seen for what it is"
    (failed,) = daemon.operations_of(poison.id)
    assert "deadline" in failed["error"]
    assert "wire cut" in failed["error"]
    daemon.one.script()
    daemon.wait_state("one", "ready")
    daemon.new_volume()


@pytest.mark.parametrize("method", ["create_volume", "create_snapshot", "extend_volume", "delete_volume"])
def test_an_operation_that_was_cut_goes_on_after_the_recovery(start: Start, method: str) -> None:
    daemon = start()
    daemon.wait_state("one", "ready")
    cinder = daemon.cinder()
    volume = daemon.new_volume()
    daemon.one.script(**{method: {**CUT, "fail": 2}})
    before = daemon.one.calls(method)
    if method == "create_volume":
        daemon.wait_volume(cinder.volumes.create(1).id, "available")
    elif method == "create_snapshot":
        made = cinder.volume_snapshots.create(volume.id)
        wait_until(lambda: cinder.volume_snapshots.get(made.id).status == "available", "the snapshot")
    elif method == "extend_volume":
        cinder.volumes.extend(volume.id, 2)
        assert daemon.wait_volume(volume.id, "available").size == 2
    else:
        cinder.volumes.delete(volume.id)
        wait_until(lambda: not cinder.volumes.list(), "the delete")
    assert daemon.one.calls(method) - before >= 2


def test_an_attach_that_is_cut_is_answered_and_taken_back(start: Start) -> None:
    daemon = start(rpc_response_timeout=3, backend_stats_polling_interval=60)
    daemon.wait_state("one", "ready")
    cinder = daemon.cinder()
    volume = daemon.new_volume()
    daemon.one.script(initialize_connection=CUT)
    with pytest.raises(Exception, match=r"taken back|did not begin") as raised:
        cinder.attachments.create(volume.id, {"host": "client"}, mode="rw")
    assert raised.value.code in (503, 504)
    assert [a.status for a in cinder.attachments.list()] in ([], ["error_attaching"])
    assert cinder.volumes.get(volume.id).status != "attaching"
    daemon.one.script()
    assert daemon.manage("service", "reinit", "node@one").returncode == 0
    for attachment in cinder.attachments.list():
        cinder.attachments.delete(attachment.id)
    wait_until(lambda: cinder.volumes.get(volume.id).status == "available", "the volume to be free again")


def test_a_detach_waits_for_the_backend_and_happens(start: Start) -> None:
    daemon = start(backend_loss_threshold=1, rpc_response_timeout=3)
    daemon.wait_state("one", "ready")
    cinder = daemon.cinder()
    volume = daemon.new_volume()
    made = cinder.attachments.create(volume.id, {"host": "client"}, mode="rw")
    cinder.attachments.complete(made["id"])
    daemon.one.script(**GONE)
    daemon.wait_state("one", "lost")
    cinder.attachments.delete(made["id"])
    assert cinder.volumes.get(volume.id).status == "detaching"
    daemon.one.script()
    daemon.wait_volume(volume.id, "available")
    assert cinder.attachments.list() == []


def test_a_detach_that_waits_too_long_leaves_the_volume_in_use_and_says_why(start: Start) -> None:
    daemon = start(backend_loss_threshold=1, operation_queue_timeout=3)
    daemon.wait_state("one", "ready")
    cinder = daemon.cinder()
    volume = daemon.new_volume()
    made = cinder.attachments.create(volume.id, {"host": "client"}, mode="rw")
    cinder.attachments.complete(made["id"])
    daemon.one.script(**GONE)
    daemon.wait_state("one", "lost")
    cinder.attachments.delete(made["id"])
    daemon.wait_volume(volume.id, "in-use")
    assert any("deadline" in (row["error"] or "") for row in daemon.operations_of(made["id"]))
    daemon.one.script()
    daemon.wait_state("one", "ready")
    cinder.attachments.delete(made["id"])
    daemon.wait_volume(volume.id, "available")


def test_a_detach_that_was_cut_and_waits_too_long_can_be_asked_again(start: Start) -> None:
    daemon = start(operation_queue_timeout=4, rpc_response_timeout=2)
    daemon.wait_state("one", "ready")
    cinder = daemon.cinder()
    volume = daemon.new_volume()
    made = cinder.attachments.create(volume.id, {"host": "client"}, mode="rw")
    cinder.attachments.complete(made["id"])
    daemon.one.script(terminate_connection=CUT)
    cinder.attachments.delete(made["id"])
    wait_until(lambda: daemon.operations_of(made["id"])[0]["state"] == "failed", "the deadline")
    daemon.one.script()
    daemon.wait_state("one", "ready")
    cinder.attachments.delete(made["id"])
    daemon.wait_volume(volume.id, "available")
