"""Resets while daemons die, hang, lose their storage or start anew: real processes, killed at each step."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.functional.kill_actions import Request
from tests.functional.scripted import ScriptedDaemon
from tests.functional.user import CONNECTOR, Connection, User
from volsvc.testing.daemon import Daemon, exporters_under, wait_until

pytestmark = pytest.mark.slow

ACTION = "os-reset_status"


def reset(user: User, volume: Any, status: str = "available", **more: Any) -> tuple[int, Any]:
    return user.call("POST", f"/volumes/{volume.id}/action", {ACTION: {"status": status, **more}})


def inspect(user: User, volume: Any) -> dict[str, Any]:
    found: dict[str, Any] = user.get(f"/volumes/{volume.id}/inspect")["inspection"]
    return found


def words(answer: tuple[int, Any]) -> str:
    return str(next(iter(answer[1].values()))["message"])


def is_severed(nbd: Any) -> bool:
    try:
        nbd.write(0, b"late" * 128)
        nbd.flush()
    except OSError:
        return True
    return False


# -- killed in the middle ----------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["inspect_volume", "detach_volume", "initialize_connection"])
def test_killed_in_each_step_the_next_daemon_finishes_the_reset(
    make_daemon: Callable[..., Daemon], method: str, when: str
) -> None:
    """``after``: the storage has done it, and nothing is written yet."""
    scripted = ScriptedDaemon(make_daemon())
    user = User(scripted.daemon.start().wait_ready())
    volume = user.create(1)
    attachment = user.cinder.attachments.create(volume.id, CONNECTOR)["id"]
    user.cinder.attachments.complete(attachment)
    target = "in-use" if method == "initialize_connection" else "available"
    before = scripted.calls().get(method, 0)
    scripted.write({method: {"hang": True, "when": when}})
    request = Request(lambda: reset(user, volume, target))
    wait_until(lambda: scripted.calls().get(method, 0) > before, f"{method} to be called")
    scripted.daemon.kill()
    request.ended_well()
    scripted.write({})
    user = User(scripted.daemon.start().wait_ready())
    user.wait_idle()
    operation = next(o for o in user.operations(volume.id) if o["action"] == "volume_reset")
    assert (operation["state"], operation["attempts"]) == ("done", 2), operation
    found = user.cinder.volumes.get(volume.id)
    assert found.status == target
    exports = scripted.stored()["exports"].get(volume.id, {}).get("attachments", {})
    assert set(exports) == ({attachment} if target == "in-use" else set())
    assert inspect(user, volume)["disagreements"] == []


def test_killed_daemons_client_is_severed_or_served_as_the_record_says(make_daemon: Callable[..., Daemon]) -> None:
    """On the file driver, killed at moments spread over the few milliseconds that a reset takes."""
    daemon = make_daemon()
    user = User(daemon.start().wait_ready())
    volume = user.create(1)
    outcomes = set()
    for delay_s in (0.002, 0.005, 0.008, 0.011, 0.014, 0.02, 0.03):
        connection = user.connect(volume)
        nbd = connection.open()
        request = Request(functools.partial(reset, user, volume))
        time.sleep(delay_s)
        daemon.kill()
        request.ended_well()
        user = User(daemon.start().wait_ready())
        user.wait_idle()
        found = user.cinder.volumes.get(volume.id)
        assert inspect(user, volume)["disagreements"] == []
        outcomes.add(found.status)
        if found.status == "available":
            assert is_severed(nbd)
        else:
            assert found.status == "in-use"
            connection.write(0, b"served")
            assert reset(user, volume)[0] == 202
    assert outcomes <= {"available", "in-use"}
    assert exporters_under(daemon.root) == []


# -- a daemon that isn't there ---------------------------------------------------------------------


@pytest.fixture
def apart(make_daemon: Callable[..., Daemon]) -> tuple[User, Daemon]:
    """An API and a volume daemon, each a process of its own; who asks doesn't wait as long as the API may."""
    api = make_daemon(program="volsvc-api", options={"rpc_response_timeout": 600}).start()
    volume = make_daemon(api.root, program="volsvc-volume").start()
    api.wait_ready()
    return User(api), volume


def test_reset_of_a_dead_daemons_volume_is_refused_at_once_and_skip_remains(apart: tuple[User, Daemon]) -> None:
    user, daemon = apart
    volume = user.create(1)
    connection = user.connect(volume)
    nbd = connection.open()
    daemon.kill()
    answer = reset(user, volume)
    assert answer[0] == 503
    assert '"force": "skip"' in words(answer)
    assert not is_severed(nbd)
    assert [o["state"] for o in user.operations(volume.id) if o["action"] == "volume_reset"] == ["cancelled"]
    assert reset(user, volume, "in-use", force="ignore")[0] == 503
    assert reset(user, volume, force="skip")[0] == 202
    assert user.cinder.volumes.get(volume.id).status == "available"
    report = inspect(user, volume)
    assert report["storage"] is None
    assert not is_severed(nbd), "nobody is there to sever it"
    daemon.start()
    wait_until(lambda: is_severed(nbd), "the next daemon to end an export that no record knows")
    wait_until(lambda: inspect(user, volume)["storage"], "the storage to be asked")
    assert inspect(user, volume)["disagreements"] == []


def test_reset_of_a_volume_on_a_backend_that_is_down_says_why(make_daemon: Callable[..., Daemon]) -> None:
    scripted = ScriptedDaemon(make_daemon(), backend_stats_polling_interval=1)
    user = User(scripted.daemon.start().wait_ready())
    volume = user.create(1)
    attachment = user.cinder.attachments.create(volume.id, CONNECTOR)["id"]
    away = {"fail": True, "error": "BackendUnavailable", "message": "the array is unplugged"}
    scripted.write({"*": away})
    answer = reset(user, volume)
    assert answer[0] in (500, 503)
    assert "the array is unplugged" in words(answer)
    wait_until(lambda: [s for s in user.cinder.services.list() if s.state == "down"], "the backend to be down")
    answer = reset(user, volume)
    assert answer[0] == 503
    assert "the array is unplugged" in words(answer)
    assert '"force": "skip"' in words(answer)
    assert reset(user, volume, "error")[0] == 202
    scripted.write({})
    scripted.daemon.wait_ready()
    user.wait_idle()
    assert user.cinder.volumes.get(volume.id).status == "error"
    assert set(user.state().attachments) == {attachment}
    assert reset(user, volume)[0] == 202
    assert inspect(user, volume)["disagreements"] == []


def test_reset_during_a_re_initialisation_is_refused_or_done_and_never_left(
    make_daemon: Callable[..., Daemon],
) -> None:
    scripted = ScriptedDaemon(make_daemon(), backend_stats_polling_interval=1, rpc_response_timeout=5)
    user = User(scripted.daemon.start().wait_ready())
    volume = user.create(1)
    user.cinder.attachments.create(volume.id, CONNECTOR)
    scripted.write({"get_volume_stats": {"fail": True}, "do_setup": {"hang": True}})
    before = scripted.calls().get("do_setup", 0)
    wait_until(lambda: scripted.calls().get("do_setup", 0) > before, "an attempt to hang in do_setup", 60)
    answer = reset(user, volume)
    assert answer[0] == 503
    assert "skip" in words(answer)
    assert user.cinder.volumes.get(volume.id).status == "attaching"
    scripted.write({})
    scripted.daemon.wait_ready(60)
    assert reset(user, volume)[0] == 202
    assert inspect(user, volume)["disagreements"] == []


def test_a_reload_does_not_disturb_a_reset_nor_a_reset_a_reload(make_daemon: Callable[..., Daemon]) -> None:
    scripted = ScriptedDaemon(make_daemon())
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    volume = user.create(1)
    user.cinder.attachments.create(volume.id, CONNECTOR)
    scripted.write({"detach_volume": {"delay_s": 1.5}})
    request = Request(lambda: reset(user, volume))
    wait_until(lambda: scripted.calls().get("detach_volume"), "the driver to be called")
    position = len(daemon.words())
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log(r"(?i)reload", position)
    assert request.ended_well()
    assert request.answer[0] == 202
    assert user.cinder.volumes.get(volume.id).status == "available"
    assert inspect(user, volume)["disagreements"] == []


# -- a driver that hangs ------------------------------------------------------------------------------


def test_a_hanging_driver_is_answered_in_time_while_others_are_served(make_daemon: Callable[..., Daemon]) -> None:
    scripted = ScriptedDaemon(make_daemon(), rpc_response_timeout=10, reset_detach_timeout=1, api_threads=8)
    user = User(scripted.daemon.start().wait_ready())
    volumes = [user.create(1) for _ in range(6)]
    attachments = [user.cinder.attachments.create(volume.id, CONNECTOR)["id"] for volume in volumes]
    scripted.write({"detach_volume": {"hang": True}})
    requests = [Request(lambda v=volume: reset(user, v)) for volume in volumes]  # type: ignore[misc]
    wait_until(lambda: scripted.calls().get("detach_volume"), "the driver to be called")
    user.create(1)  # neither the API nor the backend is taken up
    for request in requests:
        assert request.ended_well()
    codes = sorted(request.answer[0] for request in requests)
    assert set(codes) <= {500, 503}, "it hangs, or as many wait as may"
    assert 500 in codes
    assert {user.cinder.volumes.get(v.id).status for v in volumes} == {"attaching"}
    scripted.write({})
    wait_until(
        lambda: all(not inspect(user, volume)["disagreements"] for volume in volumes), "the late ends to be reconciled"
    )
    exports = scripted.stored()["exports"]
    assert sorted(a for export in exports.values() for a in export["attachments"]) == sorted(attachments)
    for volume in volumes:
        wait_until(lambda v=volume: reset(user, v)[0] == 202, "the volume to be let go")  # type: ignore[misc]


def test_attaches_that_hang_leave_threads_for_everybody_else(make_daemon: Callable[..., Daemon]) -> None:
    scripted = ScriptedDaemon(make_daemon(), rpc_response_timeout=20, api_threads=8)
    user = User(scripted.daemon.start().wait_ready())
    volumes = [user.create(1) for _ in range(8)]
    scripted.write({"initialize_connection": {"hang": True}})
    bodies = [{"attachment": {"volume_uuid": volume.id, "connector": CONNECTOR}} for volume in volumes]
    requests = [Request(lambda b=body: user.call("POST", "/attachments", b)) for body in bodies]  # type: ignore[misc]
    wait_until(lambda: sum(request.has_ended for request in requests) == 3, "those without a place to be refused")
    user.create(1)
    scripted.write({})
    assert all(request.ended_well() for request in requests)
    answers = [request.answer for request in requests]
    assert sorted(status for status, _ in answers) == [200] * 5 + [503] * 3
    assert all("5 requests wait for the backend" in words(answer) for answer in answers if answer[0] == 503)
    statuses = sorted(user.cinder.volumes.get(volume.id).status for volume in volumes)
    assert statuses == ["attaching"] * 5 + ["available"] * 3, "nothing is left of those that were refused"


def test_an_exporter_that_hangs_is_killed_to_sever_its_client(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    user = User(daemon.start().wait_ready())
    volume = user.create(1)
    nbd = user.connect(volume).open()
    (exporter,) = exporters_under(daemon.root)
    os.kill(exporter, signal.SIGSTOP)
    answer = reset(user, volume)
    assert answer[0] == 500, answer
    assert "its storage does not answer" in words(answer), "whom it serves can't be asked"
    assert user.cinder.volumes.get(volume.id).status == "in-use"
    assert reset(user, volume, force="ignore")[0] == 202
    assert is_severed(nbd)
    assert exporters_under(daemon.root) == []
    assert inspect(user, volume)["disagreements"] == []


# -- what else is asked of the volume --------------------------------------------------------------------


def test_two_resets_at_once_and_resets_beside_everything_else(user: User) -> None:
    volume = user.create(1)
    for _ in range(5):
        connection = user.connect(volume)
        nbd = connection.open()
        requests = [Request(lambda: reset(user, volume)) for _ in range(3)]
        assert all(request.ended_well() for request in requests)
        assert [request.answer[0] for request in requests] == [202, 202, 202]
        assert is_severed(nbd)
    for ask in (
        lambda: user.cinder.attachments.create(volume.id, CONNECTOR),
        lambda: user.cinder.volumes.extend(volume, 2),
        lambda: user.cinder.volume_snapshots.create(volume.id, force=True, name="beside"),
    ):
        other = Request(ask)
        request = Request(lambda: reset(user, volume))
        assert request.ended_well()
        assert request.answer[0] in (202, 409), request.answer
        wait_until(lambda o=other: o.has_ended, "the other request to be answered")  # type: ignore[misc]
        user.wait_idle()
        wait_until(lambda: reset(user, volume)[0] == 202, "the volume to be free")
        report = inspect(user, volume)
        assert report["disagreements"] == []
        assert report["volume"]["status"] == "available"


@pytest.mark.parametrize("what", ["initialize_connection", "delete_volume", "extend_volume"])
def test_reset_beside_a_driver_that_does_not_stop_fails_in_time_and_what_runs_goes_on(
    make_daemon: Callable[..., Daemon], what: str
) -> None:
    scripted = ScriptedDaemon(make_daemon(), rpc_response_timeout=4)
    user = User(scripted.daemon.start().wait_ready())
    volume = user.create(1)
    ask, status_before, status_after = {
        "initialize_connection": (
            lambda: user.cinder.attachments.create(volume.id, CONNECTOR),
            "attaching",
            "attaching",
        ),
        "delete_volume": (lambda: user.cinder.volumes.delete(volume), "deleting", None),
        "extend_volume": (lambda: user.cinder.volumes.extend(volume, 2), "extending", "available"),
    }[what]
    scripted.write({what: {"hang": True}})
    other = Request(ask)
    wait_until(lambda: scripted.calls().get(what), "the driver to be called")
    answer = reset(user, volume)
    assert answer[0] == 409, answer
    assert "did not stop" in words(answer)
    assert '"force": "skip"' in words(answer)
    assert user.cinder.volumes.get(volume.id).status == status_before
    scripted.write({})
    wait_until(lambda: other.has_ended, "the other request to be answered")
    user.wait_idle()
    assert [v.status for v in user.cinder.volumes.list()] == ([status_after] if status_after else [])
    assert reset(user, volume)[0] == (202 if status_after else 404)


def test_reset_during_a_copy_stops_it_and_it_is_finished_afterwards(user: User) -> None:
    volume = user.create(2)
    connection = user.connect(volume)
    with connection.open() as nbd:
        for at in range(0, 1536, 16):
            nbd.write(at * 1024**2, os.urandom(1024**2))
        nbd.flush()
    user.disconnect(connection)
    snapshot = user.cinder.volume_snapshots.create(volume.id, name="during")
    answer = reset(user, volume)
    assert answer[0] == 202, answer
    user.wait_snapshot(snapshot.id)
    copy = user.create(2, snapshot_id=snapshot.id)
    first, second = user.connect(volume), user.connect(copy)
    for at in range(0, 1536, 160):
        assert first.read(at * 1024**2, 4096) == second.read(at * 1024**2, 4096)
    _end(user, (first, second), snapshot, (volume, copy))


def _end(user: User, connections: tuple[Connection, ...], snapshot: Any, volumes: tuple[Any, ...]) -> None:
    for connection in connections:
        user.disconnect(connection)
    user.cinder.volume_snapshots.delete(snapshot.id)
    user.wait_gone(snapshot)
    for volume in volumes:
        user.cinder.volumes.delete(volume.id)
