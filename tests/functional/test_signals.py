"""Signals to real daemons: SIGTERM and SIGINT drain, a second one ends at once, SIGHUP is survived."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.functional.scripted import ScriptedDaemon
from tests.functional.user import CONNECTOR, MIB, User, fill
from tests.functional.writer import StampWriter
from volsvc.testing.daemon import Daemon, exporters_under, wait_until

PROGRAMS = ("volsvc-all", "volsvc-volume", "volsvc-backup", "volsvc-api")


def statuses(daemon: Daemon) -> dict[str, str]:
    """Volumes and their statuses, without a service to ask."""
    with closing(sqlite3.connect(daemon.state / "volsvc.sqlite")) as database:
        return dict(database.execute("SELECT id, status FROM volumes").fetchall())


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_exits_with_0(make_daemon: Callable[..., Daemon], program: str, number: int) -> None:
    daemon = make_daemon(program=program).start()
    daemon.signal(number)
    assert daemon.process is not None
    assert daemon.process.wait(20) == 0
    assert "Traceback" not in daemon.words()
    assert daemon.words().rstrip().endswith("stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_finished_before_the_exit(make_daemon: Callable[..., Daemon], number: int) -> None:
    scripted = ScriptedDaemon(make_daemon())
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    scripted.write({"create_volume": {"hang": True}})
    volume = user.cinder.volumes.create(1)
    wait_until(lambda: scripted.calls().get("create_volume"), "the driver to be called")
    daemon.signal(number)
    daemon.wait_for_log("stopping; what runs has")
    scripted.write({})
    assert daemon.process is not None
    assert daemon.process.wait(20) == 0
    assert statuses(daemon) == {volume.id: "available"}


def test_a_copy_that_takes_too_long_goes_on_at_the_next_start(make_daemon: Callable[..., Daemon]) -> None:
    """The handler stops at its next step; nothing is lost and the exit code is 0."""
    scripted = ScriptedDaemon(make_daemon(), graceful_shutdown_timeout=2)
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    source = user.create(1)
    scripted.write({"create_cloned_volume": {"delay_s": 60}})
    clone = user.cinder.volumes.create(1, source_volid=source.id)
    wait_until(lambda: scripted.calls().get("create_cloned_volume"), "the driver to be called")
    assert daemon.stop() == 0
    assert statuses(daemon)[clone.id] == "creating"
    scripted.write({})
    user = User(daemon.start().wait_ready())
    user.wait_volume(clone.id)
    [operation] = user.operations(clone.id)
    assert (operation["state"], operation["attempts"]) == ("done", 1), "being interrupted doesn't count against it"


def test_a_driver_that_hangs_does_not_keep_the_daemon(make_daemon: Callable[..., Daemon]) -> None:
    scripted = ScriptedDaemon(make_daemon(), graceful_shutdown_timeout=2)
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    scripted.write({"create_volume": {"hang": True}})
    volume = user.cinder.volumes.create(1)
    wait_until(lambda: scripted.calls().get("create_volume"), "the driver to be called")
    assert daemon.stop(timeout_s=20) == 0
    scripted.write({})
    user = User(daemon.start().wait_ready())
    user.wait_volume(volume.id)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_second_signal_ends_it_at_once(make_daemon: Callable[..., Daemon], number: int) -> None:
    scripted = ScriptedDaemon(make_daemon(), graceful_shutdown_timeout=600)
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    scripted.write({"create_volume": {"hang": True}})
    volume = user.cinder.volumes.create(1)
    wait_until(lambda: scripted.calls().get("create_volume"), "the driver to be called")
    daemon.signal(number)
    daemon.wait_for_log("stopping; what runs has")
    assert daemon.process is not None
    assert daemon.process.poll() is None
    daemon.signal(number)
    assert daemon.process.wait(20) == 1
    scripted.write({})
    User(daemon.start().wait_ready()).wait_volume(volume.id)


def test_a_request_that_waits_is_answered_while_the_daemon_drains(make_daemon: Callable[..., Daemon]) -> None:
    scripted = ScriptedDaemon(make_daemon())
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    volume = user.create(1)
    scripted.write({"initialize_connection": {"hang": True}})
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(user.cinder.attachments.create(volume.id, CONNECTOR)))
    thread.start()
    wait_until(lambda: scripted.calls().get("initialize_connection"), "the driver to be called")
    daemon.signal(signal.SIGTERM)
    daemon.wait_for_log("stopping; what runs has")
    scripted.write({})
    thread.join(30)
    assert answers, daemon.words()[-2000:]
    assert answers[0]["connection_info"]["driver_volume_type"] == "fake"
    assert daemon.process is not None
    assert daemon.process.wait(20) == 0


def test_exporters_outlive_a_stop(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon().start().wait_ready()
    user = User(daemon)
    connection = user.connect(user.create(1))
    assert daemon.stop() == 0
    assert len(exporters_under(daemon.root)) == 1
    connection.write(0, b"still served")


# -- SIGHUP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS)
def test_sighup_lets_go_of_a_rotated_log_file(make_daemon: Callable[..., Daemon], program: str) -> None:
    daemon = make_daemon(program=program)
    log = daemon.root / "service.log"
    daemon.configure({"log_file": log, "use_stderr": True}, {})
    daemon.start()
    rotated = daemon.root / "service.log.1"
    log.rename(rotated)
    daemon.signal(signal.SIGHUP)
    wait_until(log.exists, "the new log file")
    wait_until(log.read_text, "something to be logged there")
    daemon.wait_for_log("reload 1 applied")
    old_size = rotated.stat().st_size
    assert daemon.stop() == 0
    assert rotated.stat().st_size == old_size
    assert "stopped" in log.read_text()


@pytest.mark.slow
def test_a_storm_of_sighups_disturbs_no_request_and_no_client(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon().start().wait_ready()
    user = User(daemon)
    volume = user.create(1)
    connection = user.connect(volume)
    fill(connection, {at * MIB: os.urandom(MIB) for at in range(100, 130)})
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            daemon.signal(signal.SIGHUP)
            time.sleep(0.01)

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        with StampWriter(connection) as writer:
            for _ in range(3):
                made = user.create(1, source_volid=volume.id)
                other = user.connect(made)
                user.snapshot(made)
                user.disconnect(other)
                assert {service.state for service in user.cinder.services.list()} == {"up"}
            writer.wait_more(10)
    finally:
        stop.set()
        thread.join()
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.words()


def test_sighup_and_sigterm_together_end_it_well(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon().start()
    for _ in range(5):
        daemon.signal(signal.SIGHUP)
    daemon.signal(signal.SIGTERM)
    for _ in range(5):
        daemon.signal(signal.SIGHUP)
    assert daemon.process is not None
    assert daemon.process.wait(20) == 0
    assert "Traceback" not in daemon.words()


# -- while it starts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_at_any_moment_of_the_start_is_obeyed(make_daemon: Callable[..., Daemon], number: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    daemon = make_daemon()
    for _ in range(2):
        position = len(daemon.words().encode())
        daemon.start(wait=False)
        process = daemon.process
        assert process is not None
        # Python itself has no handlers yet in its first moments, so the signal's default ends it.
        wait_until(
            lambda pid=process.pid: blocks_or_handles(pid, number), "the daemon to look after signals", pause_s=0
        )
        time.sleep(rng.uniform(0, 1.0))
        daemon.signal(number)
        if number == signal.SIGHUP:
            daemon.wait_for_log(r"volsvc \S+ serves:", position)
            daemon.signal(signal.SIGTERM)
        assert process.wait(30) == 0, daemon.words(position)
        assert "Traceback" not in daemon.words(position)


def blocks_or_handles(pid: int, number: int) -> bool:
    """Whether a process has the signal blocked or handles it (proc(5): SigBlk and SigCgt are masks)."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    mask = int(fields["SigBlk"], 16) | (int(fields["SigCgt"], 16) if number != signal.SIGINT else 0)
    return bool(mask >> (number - 1) & 1)
