"""The commands cinder and openstack on a real service, as its user types them."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.functional.test_api_clients import run_openstack
from tests.functional.user import User
from volsvc.testing.daemon import Daemon, wait_until

BIN = pathlib.Path(sys.executable).parent


def cinder(daemon: Daemon, home: pathlib.Path, *arguments: str) -> str:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OS_")},
        "HOME": str(home),
        "OS_AUTH_TYPE": "noauth",
        "CINDER_ENDPOINT": f"{daemon.url}/v3/shell",
        "OS_USER_ID": "ann",
        "OS_PROJECT_ID": "shell",
        "OS_VOLUME_API_VERSION": "3.71",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [str(BIN / "cinder"), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def field(table: str, name: str) -> str:
    found = re.search(rf"^\| {name} +\| (\S+)", table, re.MULTILINE)
    assert found, table
    return found[1]


@pytest.mark.slow
def test_the_cinder_command_takes_a_volume_through_its_life(shared_daemon: Daemon, tmp_path: pathlib.Path) -> None:
    user = User(shared_daemon, "shell")
    volume_id = field(cinder(shared_daemon, tmp_path, "create", "1", "--name", "data", "--poll"), "id")
    assert field(cinder(shared_daemon, tmp_path, "show", "data"), "status") == "available"
    connected = cinder(shared_daemon, tmp_path, "attachment-create", "data", "--connect", "True", "--host", "here")
    assert "nbd+unix" in connected
    attachment_id = re.search(
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", cinder(shared_daemon, tmp_path, "attachment-list")
    )
    assert attachment_id
    cinder(shared_daemon, tmp_path, "attachment-complete", attachment_id[0])
    cinder(shared_daemon, tmp_path, "extend", "data", "2")
    user.wait_volume(volume_id, "in-use")
    cinder(shared_daemon, tmp_path, "snapshot-create", "data", "--name", "snap")
    user.wait_snapshot(user.cinder.volume_snapshots.list()[0].id)
    assert "snap" in cinder(shared_daemon, tmp_path, "snapshot-list")
    cinder(shared_daemon, tmp_path, "attachment-delete", attachment_id[0])
    cinder(shared_daemon, tmp_path, "delete", "data", "--cascade")
    wait_until(lambda: not user.cinder.volumes.list(), "the volume to be gone")
    assert "data" not in cinder(shared_daemon, tmp_path, "list")


@pytest.mark.slow
def test_the_openstack_command_takes_a_volume_through_its_life(shared_daemon: Daemon, tmp_path: pathlib.Path) -> None:
    user = User(shared_daemon, "admin")
    made, listed = run_openstack(
        Address(shared_daemon), tmp_path, "volume create --size 1 os -f json", "volume list -f json"
    )
    assert [row["Name"] for row in listed] == ["os"]
    user.wait_volume(made["id"])
    run_openstack(
        Address(shared_daemon), tmp_path, "volume set --size 2 os", "volume snapshot create --volume os --force s1"
    )
    wait_until(lambda: user.cinder.volumes.get(made["id"]).size == 2, "the volume to have grown")
    wait_until(lambda: all(s.status == "available" for s in user.cinder.volume_snapshots.list()), "the snapshot")
    attached, shown = run_openstack(
        Address(shared_daemon),
        tmp_path,
        "volume attachment create --server aaaaaaaa-1111-2222-3333-444444444444 --connect --host here os -f json",
        "volume show os -f json",
    )
    assert attached["Properties"]["driver_volume_type"] == "nbd"
    assert (shown["status"], shown["size"]) == ("attaching", 2)
    run_openstack(
        Address(shared_daemon),
        tmp_path,
        f"volume attachment complete {attached['ID']}",
        f"volume attachment delete {attached['ID']}",
        "volume snapshot delete s1",
    )
    wait_until(lambda: not user.cinder.volume_snapshots.list(), "the snapshot to be gone")
    run_openstack(Address(shared_daemon), tmp_path, "volume delete os")
    wait_until(lambda: not user.cinder.volumes.list(), "the volume to be gone")


class Address:
    """A daemon where ``run_openstack`` wants a server."""

    def __init__(self, daemon: Daemon) -> None:
        self.address = daemon.url
