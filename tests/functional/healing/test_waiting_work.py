"""What is asked of a backend while it is not ready."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.functional.healing.backends import GONE, HealingDaemon
from volsvc.testing.daemon import Daemon, wait_until

pytestmark = pytest.mark.slow

Start = Callable[..., HealingDaemon]


def test_a_create_with_no_backend_ready_is_refused_before_anything_is_recorded(start: Start) -> None:
    daemon = start({"do_setup": {"fail": True, "message": "no answer"}}, reinit_driver_count=0)
    daemon.wait_state("one", "retrying")
    cinder = daemon.cinder()
    with pytest.raises(Exception, match="no answer") as raised:
        cinder.volumes.create(1)
    assert raised.value.code == 503
    assert cinder.volumes.list() == []


def test_work_cut_by_an_outage_is_finished_after_it(start: Start) -> None:
    daemon = start()
    daemon.wait_state("one", "ready")
    cinder = daemon.cinder()
    doomed = cinder.volumes.create(1)
    daemon.wait_volume(doomed.id, "available")
    daemon.one.script(**GONE)
    created = cinder.volumes.create(1)
    daemon.wait_state("one", "lost")
    cinder.volumes.delete(doomed)
    assert cinder.volumes.get(created.id).status == "creating"
    assert cinder.volumes.get(doomed.id).status == "deleting"
    daemon.one.script()
    daemon.wait_volume(created.id, "available")
    wait_until(lambda: doomed.id not in [v.id for v in cinder.volumes.list()], "the delete to happen")


def test_work_that_waits_too_long_ends_with_the_reason(start: Start) -> None:
    daemon = start(operation_queue_timeout=3)
    daemon.wait_state("one", "ready")
    cinder = daemon.cinder()
    kept = cinder.volumes.create(1)
    daemon.wait_volume(kept.id, "available")
    daemon.one.script(**GONE)
    created = cinder.volumes.create(1)
    daemon.wait_state("one", "lost")
    cinder.volumes.delete(kept)
    daemon.wait_volume(created.id, "error")
    daemon.wait_volume(kept.id, "available")
    done = daemon.manage("operation", "list", "--all", "-f", "json")
    failed = {row["resource_id"]: row for row in json.loads(done.stdout) if row["state"] == "failed"}
    assert set(failed) == {created.id, kept.id}
    assert all("deadline" in row["error"] for row in failed.values())


def test_work_of_a_daemon_that_never_comes_back_ends_with_the_reason(make: Start) -> None:
    options = {"operation_queue_timeout": 3, "report_interval": 1, "service_down_time": 2}
    api = make("one", options)
    api.program = "volsvc-api"
    volume_daemon = Daemon(api.root, program="volsvc-volume")
    try:
        api.start()
        volume_daemon.start()
        api.wait_state("one", "ready")
        kept = api.new_volume()
        volume_daemon.kill()
        api.cinder().volumes.delete(kept)
        assert api.cinder().volumes.get(kept.id).status == "deleting"
        api.wait_volume(kept.id, "available")
        assert "deadline" in api.operations_of(kept.id)[0]["error"]
        listed = api.manage("service", "list").stdout
        assert "silent (no heartbeat since" in listed
        volume_daemon.start()
        api.wait_state("one", "ready")
        api.new_volume()
    finally:
        volume_daemon.kill()
