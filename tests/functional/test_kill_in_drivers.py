"""kill -9 of the daemon within each method of a driver, before and after the method did its work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.functional.kill_actions import Request
from tests.functional.scripted import ScriptedDaemon
from tests.functional.user import CONNECTOR, User, expected_files
from volsvc.testing.daemon import Daemon, wait_until

METHODS = (
    *("create_volume", "create_volume_from_snapshot", "create_cloned_volume", "extend_volume", "delete_volume"),
    *("create_snapshot", "delete_snapshot", "initialize_connection", "terminate_connection"),
)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_within_every_method_of_a_driver_at_once_it_runs_each_again(
    make_daemon: Callable[..., Daemon], when: str
) -> None:
    """``after``: the method did its work, the daemon dies before it can write that down."""
    scripted = ScriptedDaemon(make_daemon())
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    volumes = [user.create(1, name=f"v{i}") for i in range(7)]
    snapshots = [user.snapshot(volumes[i]) for i in range(2)]
    attached = user.cinder.attachments.create(volumes[5].id, CONNECTOR)["id"]
    before = scripted.calls()
    scripted.write({method: {"hang": True, "when": when} for method in METHODS})
    made = user.cinder.volumes.create(1, name="made")
    copied = user.cinder.volumes.create(1, name="copied", snapshot_id=snapshots[0].id)
    cloned = user.cinder.volumes.create(1, name="cloned", source_volid=volumes[0].id)
    user.cinder.volumes.extend(volumes[6], 2)
    user.cinder.volumes.delete(volumes[2])
    taken = user.cinder.volume_snapshots.create(volumes[3].id)
    user.cinder.volume_snapshots.delete(snapshots[1])
    requests = [
        Request(lambda: user.cinder.attachments.create(volumes[4].id, CONNECTOR)),
        Request(lambda: user.cinder.attachments.delete(attached)),
    ]
    wait_until(lambda: all(scripted.calls().get(m, 0) > before.get(m, 0) for m in METHODS), "every method to be called")
    daemon.kill()
    assert not any(request.ended_well() for request in requests)
    scripted.write({})
    user = User(daemon.start().wait_ready())
    user.wait_idle()
    state = user.state()
    assert {row["status"] for row in state.volumes.values()} == {"available", "attaching"}
    assert {state.volumes[v.id]["status"] for v in (made, copied, cloned, volumes[0], volumes[3], volumes[6])} == {
        "available"
    }
    assert state.volumes[volumes[6].id]["size"] == 2
    assert volumes[2].id not in state.volumes
    assert {key: row["status"] for key, row in state.snapshots.items()} == {
        snapshots[0].id: "available",
        taken.id: "available",
    }
    [attachment] = state.attachments.values()
    assert attachment["volume_id"] == volumes[4].id
    assert attachment["connection_info"]["driver_volume_type"] == "fake"
    stored = scripted.stored()
    assert set(stored["files"]) == expected_files(state) - {".volsvc-backend.json"}
    assert set(stored["exports"]) == {volumes[4].id}
    attempts = {o["action"]: o["attempts"] for o in user.get("/operations?all_tenants=1&limit=9")["operations"]}
    assert set(attempts.values()) == {2}, attempts


def test_work_that_kills_the_daemon_each_time_is_given_up_with_that_reason(make_daemon: Callable[..., Daemon]) -> None:
    scripted = ScriptedDaemon(make_daemon(), operation_max_attempts=2)
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    scripted.write({"create_volume": {"hang": True}})
    volume = user.cinder.volumes.create(1)
    for attempt in (1, 2):
        wait_until(lambda n=attempt: scripted.calls().get("create_volume", 0) >= n, "the driver to be called")
        daemon.kill()
        user = User(daemon.start().wait_ready())
    assert user.wait_volume(volume.id, "error").status == "error"
    assert "2 times" in user.last_error(volume.id)
    scripted.write({})
    user.create(1)


def test_the_volume_daemon_killed_within_an_attach_answers_it_after_its_restart(
    make_daemon: Callable[..., Daemon],
) -> None:
    """The API is a process of its own and goes on waiting for the operation's end."""
    volume_daemon = make_daemon(program="volsvc-volume", options={})
    scripted = ScriptedDaemon(volume_daemon)
    volume_daemon.start()
    api = make_daemon(volume_daemon.root, program="volsvc-api").start().wait_ready()
    user = User(api)
    volume = user.create(1)
    scripted.write({"initialize_connection": {"hang": True}})
    request = Request(lambda: user.cinder.attachments.create(volume.id, CONNECTOR))
    wait_until(lambda: scripted.calls().get("initialize_connection"), "the driver to be called")
    volume_daemon.kill()
    scripted.write({})
    volume_daemon.start()
    assert request.ended_well(), request.error
    assert request.answer["connection_info"]["driver_volume_type"] == "fake"
