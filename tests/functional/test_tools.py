"""The commands that an admin and a user type, on real daemons: what they print and their exit codes."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import volsvc
from tests.functional.scripted import ScriptedDaemon
from tests.functional.user import User
from volsvc.testing.daemon import Daemon, wait_until

BIN = pathlib.Path(sys.executable).parent
PROGRAMS = ("volsvc-all", "volsvc-volume", "volsvc-backup", "volsvc-api", "volsvc-manage", "volsvc")


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


@pytest.mark.parametrize("program", ["volsvc-manage", "volsvc"])
def test_a_reader_that_has_left_is_no_error(make_daemon: Callable[..., Daemon], program: str) -> None:
    """As in ``volsvc-manage operation list | head``."""
    daemon = make_daemon().start().wait_ready()
    read, write = os.pipe()
    os.close(read)
    where = (
        ["--config-file", str(daemon.config)] if program == "volsvc-manage" else ["--endpoint", f"{daemon.url}/v3/p"]
    )
    command = [str(BIN / program), *where, "operation", "list"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


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


@pytest.mark.slow
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
