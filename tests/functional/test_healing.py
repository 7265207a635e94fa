"""Backends that fail, hang, come back, go away again: on real daemons."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.testing.daemon import Daemon, wait_until

BIN = pathlib.Path(sys.executable).parent


def manage(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "volsvc-manage"), "--config-file", str(daemon.config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def services(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """The rows that 'volsvc-manage service list' shows, without a process for each look."""
    store = SqlStore(create_engine(f"sqlite:///{daemon.state}/volsvc.sqlite"))
    return {row.host.partition("@")[2]: dataclasses.asdict(row) for row in store.list_services()}


class FakeBackend:
    """A backend of the real daemon whose driver does what a file says."""

    def __init__(self, root: pathlib.Path, name: str) -> None:
        self.name = name
        self.path = root / f"{name}.json"
        self.group = {
            "volume_driver": "fake",
            "target_helper": "fake",
            "fake_script_path": self.path,
            "fake_state_path": root / f"{name}.state",
        }

    def script(self, **rules: dict[str, Any]) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(rules))
        new.replace(self.path)

    def calls(self, method: str) -> int:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(json.loads(pathlib.Path(f"{self.path}.counts").read_text()).get(method, 0))
        return 0


Start = Callable[..., Daemon]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a daemon with fake backends 'one' (and 'two'); rules are for 'one'."""
    daemons: list[Daemon] = []

    def begin(rules: dict[str, Any] | None = None, names: str = "one", **options: Any) -> Daemon:
        daemon = Daemon(options={"enabled_backends": names, "backend_stats_polling_interval": 1, **options})
        daemons.append(daemon)
        backends = {name: FakeBackend(daemon.root, name) for name in names.split(",")}
        daemon.configure(
            {"enabled_backends": names, "backend_stats_polling_interval": 1, **options},
            {name: backend.group for name, backend in backends.items()},
        )
        daemon.backends = backends  # type: ignore[attr-defined]
        if rules:
            backends["one"].script(**rules)
        return daemon.start()

    yield begin
    for daemon in daemons:
        daemon.end()


def one(daemon: Daemon) -> FakeBackend:
    found: FakeBackend = daemon.backends["one"]  # type: ignore[attr-defined]
    return found


def wait_for_state(daemon: Daemon, name: str, *states: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        row = services(daemon).get(name)
        return row if row and row["state"] in states else None

    try:
        return wait_until(look, f"{name} to be {' or '.join(states)}")
    except TimeoutError as error:
        raise AssertionError(f"{error}; it is {services(daemon).get(name)}") from error


def wait_for_volume(daemon: Daemon, volume_id: str, status: str) -> Any:
    cinder = daemon.cinder()

    def look() -> Any:
        volume = cinder.volumes.get(volume_id)
        return volume if volume.status == status else None

    return wait_until(look, f"volume {volume_id} to be {status}")


# -- the count --------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "count"), [(1, 2), (2, 2), (3, 2), (6, 0)])
def test_a_driver_that_fails_k_times_is_tried_as_often_as_the_option_says(
    start: Start, failures: int, count: int
) -> None:
    daemon = start({"do_setup": {"fail": failures, "message": "no answer"}}, reinit_driver_count=count)
    if count == 0 or failures <= count:
        wait_for_state(daemon, "one", "ready")
        assert one(daemon).calls("do_setup") == failures + 1
    else:
        row = wait_for_state(daemon, "one", "exhausted")
        assert (row["attempts"], row["step"]) == (count + 1, "do_setup")
        assert "no answer" in row["reason"]
        calls = one(daemon).calls("do_setup")
        assert calls == count + 1
        daemon.wait_for_log("exhausted .*fix it, then reload or reinit")


@pytest.mark.parametrize("method", ["do_setup", "check_for_setup_error", "read_identity", "get_volume_stats"])
def test_a_failure_in_any_step_is_named_and_heals(start: Start, method: str) -> None:
    step = {"read_identity": "identity", "get_volume_stats": "publish"}.get(method, method)
    daemon = start(
        {method: {"fail": True, "error": "BackendUnavailable", "message": "wire cut"}}, reinit_driver_count=0
    )
    row = wait_for_state(daemon, "one", "retrying")
    assert (row["step"], row["reason"]) == (step, "wire cut")
    (api,) = daemon.cinder().services.list()
    assert (api.state, getattr(api, "volsvc:init_step")) == ("down", step)
    one(daemon).script()
    wait_for_state(daemon, "one", "ready")


@pytest.mark.parametrize(
    "error", ["UnrecoverableDriverError", "DriverConfigurationError", "DriverNotSupported", "MissingDriverLibrary"]
)
def test_an_unrecoverable_error_is_not_tried_again_until_sighup(start: Start, error: str) -> None:
    daemon = start({"do_setup": {"fail": True, "error": error, "message": "for good"}}, report_interval=3)
    wait_for_state(daemon, "one", "unrecoverable")
    beat = services(daemon)["one"]["heartbeat_at"]
    wait_until(lambda: services(daemon)["one"]["heartbeat_at"] > beat, "a heartbeat, later than two publish intervals")
    assert one(daemon).calls("do_setup") == 1
    one(daemon).script()
    daemon.signal(signal.SIGHUP)
    wait_for_state(daemon, "one", "ready")


@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt", "MemoryError"])
def test_an_error_that_would_end_a_thread_ends_one_attempt_only(start: Start, error: str) -> None:
    daemon = start({"check_for_setup_error": {"fail": 1, "error": error}})
    wait_for_state(daemon, "one", "ready")
    assert one(daemon).calls("check_for_setup_error") == 2


def test_losing_a_ready_backend_heals_without_a_limit_and_is_counted(start: Start) -> None:
    daemon = start(reinit_driver_count=1, backend_loss_threshold=2)
    wait_for_state(daemon, "one", "ready")
    for losses in (1, 2):
        one(daemon).script(**{"*": {"fail": True, "error": "BackendUnavailable", "message": "gone"}})
        wait_for_state(daemon, "one", "lost")
        before = one(daemon).calls("do_setup")
        wait_until(lambda before=before: one(daemon).calls("do_setup") >= before + 3, "more attempts than the count")
        assert services(daemon)["one"]["state"] == "lost"
        one(daemon).script()
        assert wait_for_state(daemon, "one", "ready")["losses"] == losses


# -- hanging ---------------------------------------------------------------------------------


def test_a_hanging_attempt_is_shown_alone_and_its_late_result_is_used(start: Start) -> None:
    daemon = start({"do_setup": {"hang": True}}, names="one,two", driver_init_timeout=1)
    wait_for_state(daemon, "two", "ready")
    row = wait_until(lambda: (r := services(daemon)["one"])["hanging_since"] and r, "the hang to be shown")
    assert row["attempts"] == 1
    assert "restart" in row["reason"]
    assert "--backend" in row["reason"]
    volume = daemon.cinder().volumes.create(1)
    wait_for_volume(daemon, volume.id, "available")
    assert one(daemon).calls("do_setup") == 1, "nothing runs beside it"
    one(daemon).script()
    wait_for_state(daemon, "one", "ready")
    assert one(daemon).calls("do_setup") == 1, "the late result was used"


def test_sigterm_during_a_hanging_attempt_exits_in_time(start: Start) -> None:
    daemon = start({"do_setup": {"hang": True}}, graceful_shutdown_timeout=10)
    wait_until(lambda: one(daemon).calls("do_setup"), "the attempt to begin")
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 10


def test_kill_during_an_attempt_leaves_a_clean_start(start: Start) -> None:
    daemon = start({"check_for_setup_error": {"hang": True}})
    wait_until(lambda: one(daemon).calls("check_for_setup_error"), "the attempt to begin")
    daemon.kill()
    one(daemon).script()
    daemon.start()
    assert wait_for_state(daemon, "one", "ready")["attempts"] == 0


# -- what arrives while a backend is not ready ----------------------------------------------------


def test_a_create_with_no_backend_ready_is_refused_before_anything_is_recorded(start: Start) -> None:
    daemon = start({"do_setup": {"fail": True, "message": "no answer"}}, reinit_driver_count=0)
    wait_for_state(daemon, "one", "retrying")
    cinder = daemon.cinder()
    with pytest.raises(Exception, match="no answer") as raised:
        cinder.volumes.create(1)
    assert raised.value.code == 503
    assert cinder.volumes.list() == []


def test_work_cut_by_an_outage_is_finished_after_it(start: Start) -> None:
    daemon = start()
    wait_for_state(daemon, "one", "ready")
    cinder = daemon.cinder()
    doomed = cinder.volumes.create(1)
    wait_for_volume(daemon, doomed.id, "available")
    one(daemon).script(**{"*": {"fail": True, "error": "BackendUnavailable", "message": "gone"}})
    created = cinder.volumes.create(1)
    wait_for_state(daemon, "one", "lost")
    cinder.volumes.delete(doomed)
    assert cinder.volumes.get(created.id).status == "creating"
    assert cinder.volumes.get(doomed.id).status == "deleting"
    one(daemon).script()
    wait_for_volume(daemon, created.id, "available")
    wait_until(lambda: doomed.id not in [v.id for v in cinder.volumes.list()], "the delete to happen")


def test_work_that_waits_too_long_ends_with_the_reason(start: Start) -> None:
    daemon = start(operation_queue_timeout=3)
    wait_for_state(daemon, "one", "ready")
    cinder = daemon.cinder()
    kept = cinder.volumes.create(1)
    wait_for_volume(daemon, kept.id, "available")
    one(daemon).script(**{"*": {"fail": True, "error": "BackendUnavailable", "message": "gone"}})
    created = cinder.volumes.create(1)
    wait_for_state(daemon, "one", "lost")
    cinder.volumes.delete(kept)
    wait_for_volume(daemon, created.id, "error")
    wait_for_volume(daemon, kept.id, "available")
    done = manage(daemon, "operation", "list", "--all", "-f", "json")
    failed = {row["resource_id"]: row for row in json.loads(done.stdout) if row["state"] == "failed"}
    assert set(failed) == {created.id, kept.id}
    assert all("deadline" in row["error"] for row in failed.values())


# -- reinit ----------------------------------------------------------------------------------------


def test_reinit_tries_now_and_says_how_it_ended(start: Start) -> None:
    rule = {"fail": True, "error": "MissingDriverLibrary", "message": "no answer"}
    daemon = start({"do_setup": rule})
    wait_for_state(daemon, "one", "unrecoverable")
    listed = manage(daemon, "service", "list")
    assert "unrecoverable (do_setup: no answer)" in listed.stdout
    done = manage(daemon, "service", "reinit", "node@one")
    assert done.returncode == 1
    assert "no answer" in done.stderr
    one(daemon).script()
    done = manage(daemon, "service", "reinit", "node@one")
    assert (done.returncode, done.stdout) == (0, "node@one: ready\n")
    done = manage(daemon, "service", "reinit", "node@one")
    assert (done.returncode, done.stdout) == (0, "node@one: ready already\n")
    done = manage(daemon, "service", "reinit", "node@nosuch")
    assert done.returncode == 1
    assert "node@one" in done.stderr


def test_reinit_without_a_daemon_is_taken_back(start: Start) -> None:
    daemon = start({"do_setup": {"fail": True}}, reinit_driver_count=1)
    wait_for_state(daemon, "one", "exhausted")
    daemon.kill()
    done = manage(daemon, "service", "reinit", "node@one", "--timeout", "1")
    assert done.returncode == 1
    assert "is it running" in done.stderr
    listed = json.loads(manage(daemon, "operation", "list", "-f", "json").stdout)
    assert listed == []


# -- the file driver ------------------------------------------------------------------------------------


@pytest.fixture
def start_file() -> Iterator[Callable[..., Daemon]]:
    daemons: list[Daemon] = []

    def begin(environment: dict[str, str] | None = None, **options: Any) -> Daemon:
        daemon = Daemon(options={})
        daemons.append(daemon)
        daemon.configure(
            {"enabled_backends": "disk", "backend_stats_polling_interval": 1, "reinit_driver_count": 0, **options},
            {"disk": {"file_store_path": daemon.root / "disk"}},
        )
        daemon.environment = environment or {}
        return daemon

    yield begin
    for daemon in daemons:
        daemon.end()


def test_a_directory_that_appears_later_is_served(start_file: Callable[..., Daemon]) -> None:
    daemon = start_file()
    daemon.start()
    row = wait_for_state(daemon, "disk", "retrying")
    assert str(daemon.root / "disk") in row["reason"]
    (daemon.root / "disk").mkdir()
    wait_for_state(daemon, "disk", "ready")
    volume = daemon.cinder().volumes.create(1)
    wait_for_volume(daemon, volume.id, "available")


def test_nothing_under_an_unmounted_directory_is_touched(start_file: Callable[..., Daemon]) -> None:
    daemon = start_file()
    disk, away = daemon.root / "disk", daemon.root / "away"
    disk.mkdir()
    daemon.start()
    wait_for_state(daemon, "disk", "ready")
    cinder = daemon.cinder()
    kept = cinder.volumes.create(1)
    wait_for_volume(daemon, kept.id, "available")
    # As after an unmount: the directory is there, but it is another one.
    disk.rename(away)
    disk.mkdir()
    with contextlib.suppress(Exception):
        cinder.volumes.create(1)
    with contextlib.suppress(Exception):
        cinder.volumes.delete(kept)
    wait_for_state(daemon, "disk", "lost")
    assert os.listdir(disk) == []
    assert (away / f"volume-{kept.id}").exists()
    disk.rmdir()
    away.rename(disk)
    wait_for_state(daemon, "disk", "ready")


def test_another_storage_in_its_place_is_refused_by_its_marker(start_file: Callable[..., Daemon]) -> None:
    daemon = start_file()
    disk = daemon.root / "disk"
    disk.mkdir()
    daemon.start()
    wait_for_state(daemon, "disk", "ready")
    volume = daemon.cinder().volumes.create(1)
    wait_for_volume(daemon, volume.id, "available")
    assert manage(daemon, "service", "forget-storage", "node@disk").returncode == 1, "it has volumes"
    assert daemon.stop() == 0
    (marker,) = [path for path in disk.iterdir() if path.name.startswith(".volsvc")]
    text = marker.read_text()
    marker.write_text(text.replace(json.loads(text)["uuid"], "11111111-1111-4111-8111-111111111111"))
    daemon.start()
    row = wait_for_state(daemon, "disk", "retrying")
    assert row["step"] == "identity"
    assert "another storage" in row["reason"]
    marker.write_text(text)
    wait_for_state(daemon, "disk", "ready")


def test_a_backend_without_volumes_takes_another_storage_when_told_so(start_file: Callable[..., Daemon]) -> None:
    daemon = start_file()
    disk = daemon.root / "disk"
    disk.mkdir()
    daemon.start()
    wait_for_state(daemon, "disk", "ready")
    assert daemon.stop() == 0
    for path in disk.iterdir():
        path.unlink()
    daemon.start()
    assert "forget-storage node@disk" in wait_for_state(daemon, "disk", "retrying")["reason"]
    done = manage(daemon, "service", "forget-storage", "node@disk")
    assert done.returncode == 0, done.stderr
    wait_for_state(daemon, "disk", "ready")


def test_a_missing_exporter_names_its_package(start_file: Callable[..., Daemon]) -> None:
    empty = pathlib.Path(os.devnull).parent / "nosuch"
    daemon = start_file({"PATH": str(empty)})
    (daemon.root / "disk").mkdir()
    daemon.start()
    row = wait_for_state(daemon, "disk", "unrecoverable")
    assert "qemu-system-common" in row["reason"]
    daemon.wait_for_log("unrecoverable .*qemu-system-common")


# -- the database --------------------------------------------------------------------------------------


def test_a_database_that_is_away_during_an_attempt_shows_the_truth_afterwards(start: Start) -> None:
    daemon = start({"do_setup": {"hang": True}}, report_interval=1)
    wait_until(lambda: one(daemon).calls("do_setup"), "the attempt to begin")
    daemon.stop()
    daemon.config.write_text(daemon.config.read_text() + "[database]\nsqlite_busy_timeout = 1\n")
    daemon.start()
    wait_until(lambda: one(daemon).calls("do_setup") == 2, "the attempt to begin")
    lock = sqlite3.connect(daemon.state / "volsvc.sqlite", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        position = daemon.log.stat().st_size
        one(daemon).script()
        daemon.wait_for_log("is not written yet|heartbeat not written|can't be reached", position, timeout_s=60)
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    wait_for_state(daemon, "one", "ready")
