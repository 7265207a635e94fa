"""The commands that an admin and a user type, on real daemons: what they print and their exit codes."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import volsvc
from tests.functional.scripted import ScriptedDaemon
from tests.functional.test_api_clients import run_openstack
from tests.functional.user import User
from volsvc.testing.daemon import Daemon, wait_until

BIN = pathlib.Path(sys.executable).parent
ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ("volsvc-all", "volsvc-volume", "volsvc-api", "volsvc-manage", "volsvc")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rows_of(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- every program ----------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS)
def test_version_and_help(program: str) -> None:
    assert run(program, "--version").stdout == f"{program} {volsvc.__version__}\n"
    shown = run(program, "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"usage: {program}")
    if program != "volsvc":
        assert "--config-file" in shown.stdout
        assert "--config-dir" in shown.stdout


def test_only_the_volume_daemon_serves_one_backend_alone() -> None:
    assert "--backend NAME" in run("volsvc-volume", "--help").stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_unknown_argument_is_a_usage_error(program: str) -> None:
    done = run(program, "--colour")
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_the_configuration_is_found_in_the_home_directory(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / ".volsvc"
    directory.mkdir()
    (directory / "cinder.conf").write_text(f"[DEFAULT]\nhost = found\nstate_path = {tmp_path}/state\n")
    done = run("volsvc-manage", "config", "check", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"{directory}/cinder.conf" in done.stdout
    assert "host found" in done.stdout


def test_later_files_and_directories_win_over_earlier_files(tmp_path: pathlib.Path) -> None:
    first, second, directory = tmp_path / "first.conf", tmp_path / "second.conf", tmp_path / "conf.d"
    first.write_text(f"[DEFAULT]\nhost = one\nstate_path = {tmp_path}/state\nenabled_backends = a\n[a]\n")
    second.write_text("[DEFAULT]\nhost = two\n")
    directory.mkdir()
    (directory / "x.conf").write_text("[DEFAULT]\nenabled_backends = a,b\n[b]\n")
    done = run("volsvc-manage", "--config-file", str(first), "--config-file", str(second), "config", "check")
    assert "host two, backends a\n" in done.stdout
    files = ("--config-file", str(first), "--config-file", str(second), "--config-dir", str(directory))
    done = run("volsvc-manage", *files, "config", "check")
    assert "host two, backends a, b\n" in done.stdout


# -- volsvc-manage ----------------------------------------------------------------------------------


def test_the_admins_tool_works_while_the_api_is_down(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(program="volsvc-volume").start()
    api = make_daemon(daemon.root, program="volsvc-api").start().wait_ready()
    volume = User(api).create(1)
    api.kill()

    [service] = rows_of(daemon.run("volsvc-manage", "service", "list", "-f", "json"))
    assert (service["host"], service["status"], service["state"]) == ("node@file", "up", "ready")
    assert service["allocated_gb"] == 1
    assert rows_of(daemon.run("volsvc-manage", "operation", "list", "-f", "json")) == []
    [operation] = rows_of(daemon.run("volsvc-manage", "operation", "list", "--all", "-f", "json"))
    assert (operation["action"], operation["resource_id"], operation["state"]) == ("volume_create", volume.id, "done")
    shown = rows_of(daemon.run("volsvc-manage", "operation", "show", operation["id"], "-f", "json"))
    assert shown["id"] == operation["id"]

    table = daemon.run("volsvc-manage", "service", "list").stdout
    assert re.search(r"\| node@file +\| up +\| .*\| ready +\|", table), table
    table = daemon.run("volsvc-manage", "operation", "list", "--all").stdout
    assert re.search(rf"volume_create +\| {volume.id} +\| done", table), table
    assert re.search(
        rf"\| resource_id +\| {volume.id}", daemon.run("volsvc-manage", "operation", "show", operation["id"]).stdout
    )

    missing = daemon.run("volsvc-manage", "operation", "show", "nothing")
    assert missing.returncode == 1
    assert "could not be found" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_work_that_waits_is_seen_by_the_admin_and_a_stopped_daemon_is_down(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(program="volsvc-volume").start()
    api = make_daemon(daemon.root, program="volsvc-api").start().wait_ready()
    user = User(api)
    daemon.kill()
    volume = user.cinder.volumes.create(1)
    [waiting] = rows_of(daemon.run("volsvc-manage", "operation", "list", "-f", "json"))
    assert (waiting["resource_id"], waiting["state"]) == (volume.id, "queued")
    daemon.start()
    user.wait_volume(volume.id)
    assert daemon.stop() == 0
    [service] = rows_of(daemon.run("volsvc-manage", "service", "list", "-f", "json"))
    assert (service["status"], service["state"]) == ("down", "stopped")
    status, body = user.call("POST", "/volumes", {"volume": {"size": 1}})
    assert (status, "stopped" in str(body)) == (503, True), body


def test_the_schema_is_synced_as_often_as_one_likes(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    first, second = (daemon.run("volsvc-manage", "db", "sync") for _ in range(2))
    assert "was empty" in first.stdout
    assert (first.returncode, second.returncode) == (0, 0)
    assert re.fullmatch(r"schema \d+\n", second.stdout)


# -- volsvc -------------------------------------------------------------------------------------------


def test_operations_are_listed_and_shown_to_people_and_programs(user: User) -> None:
    volume = user.create(1)
    endpoint = ("--endpoint", f"{user.daemon.url}/v3/{user.project}")
    [row] = rows_of(run("volsvc", *endpoint, "operation", "list", "-f", "json"))
    assert (row["resource_id"], row["action"]) == (volume.id, "volume_create")
    shown = rows_of(run("volsvc", *endpoint, "operation", "show", row["id"], "-f", "json"))
    assert shown["state"] == "done"
    table = run("volsvc", *endpoint, "operation", "list").stdout
    assert re.search(rf"volume_create +\| {volume.id} +\| done +\| 100%", table), table
    assert re.search(r"\| state +\| done", run("volsvc", *endpoint, "operation", "show", row["id"]).stdout)
    assert rows_of(run("volsvc", *endpoint, "operation", "list", "--state", "failed", "-f", "json")) == []
    everything = rows_of(run("volsvc", *endpoint, "operation", "list", "--all-projects", "--limit", "1", "-f", "json"))
    assert len(everything) == 1
    by_environment = run("volsvc", "operation", "list", "-f", "json", CINDER_ENDPOINT=endpoint[1])
    assert rows_of(by_environment)[0]["id"] == row["id"]


def test_what_the_api_refuses_and_an_api_that_is_away_are_one_line(user: User) -> None:
    done = user.daemon.run("volsvc", "operation", "show", "nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("volsvc: ")
    assert "could not be found" in done.stderr
    done = run("volsvc", "--endpoint", "http://127.0.0.1:9/v3/demo", "operation", "list")
    assert done.returncode == 1
    assert "http://127.0.0.1:9/v3/demo does not answer" in done.stderr
    assert "is volsvc-api running?" in done.stderr


def test_watch_follows_the_progress_to_the_end(make_daemon: Callable[..., Daemon]) -> None:
    scripted = ScriptedDaemon(make_daemon())
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    source = user.create(1)
    scripted.write({"create_cloned_volume": {"delay_s": 2}})
    clone = user.cinder.volumes.create(1, source_volid=source.id)
    done = daemon.run("volsvc", "operation", "watch", user.operations(clone.id)[0]["id"])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.search(r"volume_clone running \[#+\.+\] \d+% of 1\.0 GiB", done.stdout), lines
    assert lines[-1].startswith(f"volume_clone done [{'#' * 30}] 100%")

    scripted.write({"create_volume": {"fail": True, "message": "the disk is on holiday"}})
    failing = user.cinder.volumes.create(1)
    done = daemon.run("volsvc", "operation", "watch", user.operations(failing.id)[0]["id"])
    assert done.returncode == 1
    assert "the disk is on holiday" in done.stderr


def test_cancel_stops_a_copy_at_its_next_step(make_daemon: Callable[..., Daemon]) -> None:
    scripted = ScriptedDaemon(make_daemon())
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    source = user.create(1)
    scripted.write({"create_cloned_volume": {"delay_s": 60}})
    clone = user.cinder.volumes.create(1, source_volid=source.id)
    wait_until(lambda: scripted.calls().get("create_cloned_volume"), "the driver to be called")
    operation_id = user.operations(clone.id)[0]["id"]
    done = daemon.run("volsvc", "operation", "cancel", operation_id)
    assert done.returncode == 0, done.stderr
    user.wait_volume(clone.id, "error")
    assert user.operations(clone.id)[0]["state"] == "cancelled"
    user.cinder.volumes.delete(clone)
    user.wait_gone(clone)
    assert set(scripted.stored()["files"]) == {f"volume-{source.id}"}


# -- the field's own clients -------------------------------------------------------------------------


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


# -- what the Makefile starts -------------------------------------------------------------------------


@pytest.fixture
def short_path() -> Iterator[pathlib.Path]:
    """A directory whose path leaves room for sockets' names; pytest's own are too long for that."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="vs-"))
    yield path
    shutil.rmtree(path)


def test_make_run_says_where_it_listens_and_ends_with_ctrl_c(short_path: pathlib.Path) -> None:
    """tools/run.sh, which is all that 'make run' does once everything is installed."""
    configuration = short_path / "cinder.conf"
    configuration.write_text(f"[DEFAULT]\nstate_path = {short_path}/state\nosapi_volume_listen_port = 0\n")
    process = subprocess.Popen(
        ["sh", str(ROOT / "tools" / "run.sh"), str(short_path), str(BIN)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        wait_until(lambda: any("Ctrl-C stops it" in line for line in lines), "the hints")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
    reader.join(10)
    text = "".join(lines)
    assert re.search(r"volsvc is ready at http://127\.0\.0\.1:\d+", text)
    assert f"configuration: {configuration}" in text
    assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_holds_every_checksum_and_leaves_nothing(short_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "demo.py")],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(short_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything held" in done.stdout
    assert list(short_path.iterdir()) == []


@pytest.mark.slow
def test_the_benchmark_of_the_control_path_runs_to_its_end() -> None:
    command = [sys.executable, str(ROOT / "bench" / "control.py"), "--quick", "--count", "3", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    wanted = {"create, answered", "create, done", "attach", "detach", "delete, done", "show", "list 100 with details"}
    assert wanted <= {row["what"] for row in found["rows"]}
    assert {row["threads"] for row in found["rows"]} == {1, 8}
    assert [row["when"] for row in found["processes"]] == ["idle", "after 1 thread", "after 8 threads"]
