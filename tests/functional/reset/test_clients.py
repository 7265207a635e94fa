"""Resets with the clients that admins have, on a real service with real NBD clients attached.

They stand in for the integration tests of a cloud: what a client sends is what the field's own
programs send.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from typing import Any

import bcrypt
import pytest

from tests.functional.user import User
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.ports import Correction, Intent
from volsvc.testing.daemon import Daemon, wait_until
from volsvc.testing.stores import builders as b

BIN = pathlib.Path(sys.executable).parent


def run(user: User, home: pathlib.Path, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "CINDER"))}
    endpoint = f"{user.daemon.url}/v3/{user.project}"
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        env={**clean, "HOME": str(home), "CINDER_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
        timeout=90,
        input=stdin,
        check=False,
    )


def cinder(user: User, home: pathlib.Path, *args: str) -> subprocess.CompletedProcess[str]:
    endpoint = f"{user.daemon.url}/v3/{user.project}"
    return run(
        *(user, home, "cinder", "--os-auth-type", "noauth", "--os-user-id", user.project),
        *("--os-project-id", user.project, "--os-endpoint", endpoint, "--os-volume-api-version", "3.71", *args),
    )


def openstack(user: User, home: pathlib.Path, *lines: str) -> subprocess.CompletedProcess[str]:
    endpoint = f"{user.daemon.url}/v3/{user.project}"
    return run(
        *(user, home, "openstack", "--os-auth-type", "none", "--os-endpoint", endpoint),
        *("--os-volume-api-version", "3.70"),
        stdin="\n".join([*lines, "quit"]) + "\n",
    )


def volsvc(user: User, home: pathlib.Path, *args: str) -> subprocess.CompletedProcess[str]:
    return run(user, home, "volsvc", "--token", f"{user.project}:{user.project}", *args)


def inspected(user: User, home: pathlib.Path, volume: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(volsvc(user, home, "volume", "inspect", volume.id, "-f", "json").stdout)
    return found


def severed(nbd: Any) -> bool:
    try:
        nbd.write(0, b"late" * 128)
        nbd.flush()
    except OSError:
        return True
    return False


def test_cinder_reset_state_severs_an_attached_volume_which_can_then_be_deleted(
    user: User, tmp_path: pathlib.Path
) -> None:
    volume = user.create(1, name="stuck")
    nbd = user.connect(volume).open()
    nbd.write(0, b"before" * 100)
    done = cinder(user, tmp_path, "reset-state", "--state", "available", "stuck")
    assert done.returncode == 0, done.stderr
    assert severed(nbd)
    found = user.cinder.volumes.get(volume.id)
    assert (found.status, found.attachments, user.cinder.attachments.list()) == ("available", [], [])
    user.cinder.volumes.delete(volume.id)
    user.wait_gone(volume)


def test_cinder_sends_state_and_attach_status_together(user: User, tmp_path: pathlib.Path) -> None:
    volume = user.create(1)
    nbd = user.connect(volume).open()
    done = cinder(user, tmp_path, "reset-state", "--state", "error", "--attach-status", "detached", volume.id)
    assert done.returncode == 0, done.stderr
    assert severed(nbd)
    found = user.cinder.volumes.get(volume.id)
    assert (found.status, found.attachments) == ("error", [])
    done = cinder(user, tmp_path, "reset-state", "--state", "in-use", "--attach-status", "detached", volume.id)
    assert done.returncode != 0
    assert "contradict" in done.stdout + done.stderr


def test_cinder_clears_a_migration_status_and_must_name_something(user: User, tmp_path: pathlib.Path) -> None:
    volume = user.create(1)
    done = cinder(user, tmp_path, "reset-state", volume.id)
    assert done.returncode != 0
    assert "at least one of" in done.stdout + done.stderr
    user.cinder.volumes.reset_state(volume, None, migration_status="error")
    assert user.cinder.volumes.get(volume.id).migration_status == "error"
    assert cinder(user, tmp_path, "reset-state", "--reset-migration-status", volume.id).returncode == 0
    assert user.cinder.volumes.get(volume.id).migration_status is None
    user.cinder.volumes.delete(volume.id)


def test_a_status_may_be_in_capitals_and_an_empty_one_is_none_as_in_cinder(user: User) -> None:
    volume = user.create(1)
    user.cinder.volumes.reset_state(volume, "ERROR", attach_status="")
    assert user.cinder.volumes.get(volume.id).status == "error"
    user.cinder.volumes.reset_state(volume, "", attach_status="Detached")
    assert user.cinder.volumes.get(volume.id).status == "error"
    user.cinder.volumes.reset_state(volume, "Available")
    assert user.cinder.volumes.get(volume.id).status == "available"
    user.cinder.volumes.delete(volume.id)


def test_openstack_sets_state_and_attach_status_in_two_requests(user: User, tmp_path: pathlib.Path) -> None:
    volume = user.create(1, name="both")
    nbd = user.connect(volume).open()
    done = openstack(
        user, tmp_path, "volume set --state error --detached both", "volume snapshot list", "volume show both -f json"
    )
    assert '"status": "error"' in done.stdout, done.stdout + done.stderr
    assert severed(nbd)
    found = user.cinder.volumes.get(volume.id)
    assert (found.status, found.attachments) == ("error", [])
    openstack(user, tmp_path, "volume set --state available both")
    assert user.cinder.volumes.get(volume.id).status == "available"
    user.cinder.volumes.delete(volume.id)


def test_snapshots_are_reset_by_both_clients(user: User, tmp_path: pathlib.Path) -> None:
    volume = user.create(1)
    snapshot = user.snapshot(volume, name="shot")
    assert cinder(user, tmp_path, "snapshot-reset-state", "--state", "error", snapshot.id).returncode == 0
    assert user.cinder.volume_snapshots.get(snapshot.id).status == "error"
    openstack(user, tmp_path, "volume snapshot set --state available shot")
    assert user.cinder.volume_snapshots.get(snapshot.id).status == "available"
    os.unlink(user.file_of(snapshot, "snapshot"))
    user.cinder.volume_snapshots.reset_state(snapshot, "error")
    done = cinder(user, tmp_path, "snapshot-reset-state", snapshot.id)
    assert done.returncode != 0
    assert "the storage has no snapshot" in done.stdout + done.stderr
    user.cinder.volume_snapshots.delete(snapshot.id)
    user.wait_gone(snapshot)
    user.cinder.volumes.delete(volume.id)


def test_in_use_connects_a_client_again(user: User, tmp_path: pathlib.Path) -> None:
    volume = user.create(1)
    connection = user.connect(volume)
    user.cinder.volumes.reset_state(volume, "error")
    assert user.cinder.volumes.get(volume.id).status == "error"
    done = volsvc(user, tmp_path, "volume", "reset", volume.id, "--state", "in-use")
    assert done.returncode == 0, done.stderr
    assert user.cinder.volumes.get(volume.id).status == "in-use"
    connection.write(0, b"served")
    user.disconnect(connection)
    done = volsvc(user, tmp_path, "volume", "reset", volume.id, "--state", "in-use")
    assert done.returncode == 1
    assert "attach it" in done.stderr
    user.cinder.volumes.delete(volume.id)


def test_inspect_tells_who_is_connected_and_its_exit_code_whether_all_agree(user: User, tmp_path: pathlib.Path) -> None:
    volume = user.create(1, name="looked-at")
    connection = user.connect(volume)
    nbd = connection.open()
    done = volsvc(user, tmp_path, "volume", "inspect", "looked-at")
    assert done.returncode == 0, done.stdout + done.stderr
    assert connection.id in done.stdout
    assert f"unix:pid {os.getpid()}" in done.stdout
    assert inspected(user, tmp_path, volume)["storage"]["is_exported"]
    done = volsvc(user, tmp_path, "volume", "reset", "looked-at", "--force", "skip")
    assert done.returncode == 0, done.stderr
    assert not severed(nbd), "nobody was asked to sever it"
    done = volsvc(user, tmp_path, "volume", "inspect", "looked-at")
    assert done.returncode == 1
    assert "no record knows" in done.stdout
    assert volsvc(user, tmp_path, "volume", "reset", "looked-at").returncode == 0
    assert severed(nbd)
    assert volsvc(user, tmp_path, "volume", "inspect", "looked-at").returncode == 0
    user.cinder.volumes.delete(volume.id)


def test_dry_run_says_each_step_and_does_none(user: User, tmp_path: pathlib.Path) -> None:
    volume = user.create(1)
    connection = user.connect(volume)
    nbd = connection.open()
    before = user.state()
    done = volsvc(user, tmp_path, "volume", "reset", volume.id, "--state", "available", "--dry-run")
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert [step.split()[1] for step in steps] == ["call", "call", "call", "write"]
    assert connection.id in steps[1]
    after = user.state()
    assert (after.volumes, after.attachments, after.exporters) == (before.volumes, before.attachments, before.exporters)
    nbd.write(0, b"goes on")
    nbd.close()
    user.disconnect(connection)
    user.cinder.volumes.delete(volume.id)


@pytest.mark.parametrize("path", ["/v2/{project}/volumes/{id}/action", "/v2/volumes/{id}/action"])
def test_old_paths_are_answered_the_same_for_this_action_only(user: User, path: str) -> None:
    volume = user.create(1)
    nbd = user.connect(volume).open()

    def ask(body: Any) -> tuple[int, bytes]:
        address = urllib.parse.urlsplit(user.daemon.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        headers = {"X-Auth-Token": f"{user.project}:{user.project}", "Content-Type": "application/json"}
        connection.request("POST", path.format(project=user.project, id=volume.id), json.dumps(body), headers)
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    assert ask({"os-reset_status": {"status": "available"}}) == (202, b"")
    assert severed(nbd)
    assert ask({"os-reset_status": {}})[0] == 400
    assert ask({"os-extend": {"new_size": 2}})[0] == 400
    user.cinder.volumes.delete(volume.id)


@pytest.mark.slow
def test_what_is_stuck_is_shown_with_its_mend_and_mended(user: User, tmp_path: pathlib.Path) -> None:
    volume, attached = user.create(1), user.create(1)
    connection = user.connect(attached)
    store = SqlStore(create_engine(f"sqlite:///{user.daemon.state}/volsvc.sqlite"))
    for stuck, status in ((volume, "extending"), (attached, "detaching")):
        store.correct(Intent("volume_reset", b.CONTEXT, stuck.id), Correction(status=status), {})
    manage = ("volsvc-manage", "--config-file", str(user.daemon.config), "volume", "stuck")
    done = run(user, tmp_path, *manage, "-f", "json")
    assert done.returncode == 1
    assert {row["id"]: row["mend"] for row in json.loads(done.stdout)} == {
        volume.id: "reset to available",
        attached.id: "reset to in-use",
    }
    done = run(user, tmp_path, *manage, "--apply")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {user.cinder.volumes.get(v.id).status for v in (volume, attached)} == {"available", "in-use"}
    assert run(user, tmp_path, *manage).returncode == 0
    connection.write(0, b"served")
    user.disconnect(connection)
    for made in (volume, attached):
        user.cinder.volumes.delete(made.id)


def test_every_way_of_saying_it_wrong_has_its_answer(user: User) -> None:
    volume = user.create(1)
    path = f"/volumes/{volume.id}/action"
    for body, words in (
        ({}, "at least one of"),
        ({"status": "nope"}, "known are"),
        ({"status": 3}, "not of type"),
        ({"status": "error", "colour": "red"}, "unknown field"),
        ({"status": "error", "force": "very"}, "force"),
        ({"status": "available", "attach_status": "attached"}, "contradict"),
        ([], "not of type"),
    ):
        status, answer = user.call("POST", path, {"os-reset_status": body})
        assert status == 400, body
        assert words in answer["badRequest"]["message"]
    missing = f"/volumes/{b.new_id()}"
    assert user.call("POST", f"{missing}/action", {"os-reset_status": {"status": "error"}})[0] == 404
    assert user.call("GET", f"{missing}/inspect")[0] == 404
    assert user.operations(volume.id)[0]["action"] == "volume_create"
    user.cinder.volumes.delete(volume.id)


def test_only_admins_may_reset_and_each_force_needs_its_own_rule(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    passwords, policy = daemon.root / "htpasswd", daemon.root / "policy.yaml"
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    passwords.write_text(f"admin:{hashed}\nbob:{hashed}\n")
    policy.write_text('"volsvc:reset:skip_driver": "!"\n')
    daemon.configure({"auth_strategy": "http_basic", "http_basic_auth_user_file": passwords}, {})
    daemon.start()

    def ask(who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        address = urllib.parse.urlsplit(daemon.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        token = base64.b64encode(f"{who}:secret".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, json.loads(text) if text else None

    def is_up() -> bool:
        services = ask("admin", "GET", "/v3/os-services")[1]["services"]
        return any(service["binary"] == "cinder-volume" and service["state"] == "up" for service in services)

    wait_until(is_up, "the backend")
    volume = ask("bob", "POST", "/v3/volumes", {"volume": {"size": 1}})[1]["volume"]["id"]
    wait_until(lambda: ask("bob", "GET", f"/v3/volumes/{volume}")[1]["volume"]["status"] == "available", "the volume")

    def reset(who: str, version: str = "v3", **body: Any) -> int:
        return ask(who, "POST", f"/{version}/volumes/{volume}/action", {"os-reset_status": body})[0]

    for version in ("v3", "v2"):
        assert reset("bob", version, status="error") == 403
        assert reset("bob", version, status="available", dry_run=True) == 403
    assert ask("bob", "GET", f"/v3/volumes/{volume}/inspect")[0] == 403
    assert reset("admin", status="available", force="skip") == 403
    assert reset("admin", status="available", force="ignore") == 202
    assert reset("admin", "v2", status="error") == 202
    assert ask("bob", "GET", f"/v3/volumes/{volume}")[1]["volume"]["status"] == "error"

    def inspect(who: str) -> subprocess.CompletedProcess[str]:
        endpoint = daemon.url.replace("://", f"://{who}@")
        command = [f"{BIN}/volsvc", "--endpoint", f"{endpoint}/v3/bob", "volume", "inspect", volume]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert "| status " in inspect("admin:secret").stdout
    assert "Authentication is required" in inspect("admin:wrong").stderr

    # A dry run shows what an inspection does.
    policy.write_text('"volsvc:volume:inspect": "!"\n')
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: reset("admin", status="available", force="skip") == 202, "the rules to be read again")
    assert reset("admin", status="available", dry_run=True) == 403
    assert reset("admin", status="available") == 202
