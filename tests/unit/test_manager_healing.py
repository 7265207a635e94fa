"""The volume manager's health: each step that can fail, publishing, losing, and what the row says meanwhile."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.db import migrate
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.drivers.base import DriverContext
from volsvc.drivers.fake import FakeDriver
from volsvc.drivers.fake_script import Script
from volsvc.manager import ManagerSettings, VolumeManager
from volsvc.operations import RunnerSettings
from volsvc.targets.base import TargetContext
from volsvc.targets.fake import FakeTarget
from volsvc.testing.notifier import RecordingNotifier
from volsvc.testing.snapshots import options_of
from volsvc.testing.stores import builders as b

GONE = exc.BackendUnavailable(reason="gone")
LONG_S = 3600.0


class AwayStore:
    """A real store that is away when told so."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.is_away = False
        self.error: Callable[[], BaseException] = lambda: exc.StoreUnavailable(reason="away")

    def __getattr__(self, name: str) -> Any:
        if self.is_away:
            raise self.error()
        return getattr(self._store, name)


class Backend:
    """A manager on real storage of records, with a fake driver that a script steers."""

    def __init__(self, store: SqlStore, path: pathlib.Path) -> None:
        self.real_store = store
        self.store = AwayStore(store)
        self.script = Script()
        self.notifier = RecordingNotifier()
        self.load_error: BaseException | None = None
        self.drivers: list[FakeDriver] = []
        self.ahead_s = 0.0
        self._path = str(path)
        self._started: list[VolumeManager] = []
        self.manager = self.new_manager()

    def new_manager(self, **settings: Any) -> VolumeManager:
        given = {"publish_interval_s": LONG_S, "driver_init_timeout_s": 10.0}
        self.manager = VolumeManager(
            host=b.HOST,
            instance=f"instance-{len(self.drivers)}",
            store=self.store,  # type: ignore[arg-type]
            notifier=self.notifier,
            load_blueprint=self._load,
            settings=ManagerSettings(runner=RunnerSettings(sweep_interval_s=0.1), **(given | settings)),
            clock=lambda: time.monotonic() + self.ahead_s,
        )
        return self.manager

    def _load(self) -> Backend:
        if self.load_error is not None:
            raise self.load_error
        return self

    def build(self) -> FakeDriver:
        target = FakeTarget(TargetContext("backend", b.HOST, options_of(FakeTarget), self._path))
        target.script = self.script
        context = DriverContext(
            "backend", b.HOST, options_of(FakeDriver), self._path, self._path, target, {"script": self.script}
        )
        self.drivers.append(FakeDriver(context))
        return self.drivers[-1]

    def register(self, **settings: Any) -> VolumeManager:
        """A manager whose periodic task is called by the test."""
        self.new_manager(**settings).register()
        return self.manager

    def start(self, **settings: Any) -> VolumeManager:
        """A manager with its own threads."""
        self.new_manager(**settings).start()
        self._started.append(self.manager)
        return self.manager

    @property
    def row(self) -> models.Service:
        (row,) = self.real_store.list_services()
        return row

    def wait_state(self, state: str) -> models.Service:
        wait_until(lambda: self.row.state == state, f"{state}, it is {self.row}")
        return self.row

    def close(self) -> None:
        self.script.clear()
        self.store.is_away = False
        for manager in self._started:
            manager.stop(5)


def wait_until(condition: Callable[[], Any], what: str = "the condition", timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("schema") / "empty.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    migrate.sync(engine)
    engine.dispose()
    return path


@pytest.fixture
def backend(empty_database: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Backend]:
    path = shutil.copy(empty_database, tmp_path / "volsvc.sqlite")
    engine = create_engine(f"sqlite:///{path}", is_synchronous=False)
    backend = Backend(SqlStore(engine), tmp_path)
    yield backend
    backend.close()
    engine.dispose()


# -- the steps ---------------------------------------------------------------------------


def test_a_driver_that_works_is_ready_published_and_remembered(backend: Backend) -> None:
    manager = backend.register()
    manager.publish_service_capabilities()
    row = backend.row
    assert (row.state, row.step, row.reason, row.attempts, row.is_up) == ("ready", None, None, 0, True)
    assert row.capabilities["total_capacity_gb"] == 1000.0
    assert row.backend_uuid
    (end,) = backend.notifier.sent()
    assert (end.event_type, end.payload["attempt"]) == ("volume.driver.init.end", 1)


STEPS = [
    ("do_setup", "do_setup"),
    ("check_for_setup_error", "check_for_setup_error"),
    ("target.check_for_setup_error", "check_for_setup_error"),
    ("read_identity", "identity"),
    ("write_identity", "identity"),
    ("remove_stale_exports", "exports"),
    ("remove_leftovers", "resume"),
    ("get_volume_stats", "publish"),
]


@pytest.mark.parametrize(("method", "step"), STEPS)
@pytest.mark.parametrize("error", [GONE, RuntimeError("gone"), SystemExit("gone")])
def test_a_failure_in_each_step_is_named_closes_the_driver_and_heals(
    backend: Backend, method: str, step: str, error: BaseException
) -> None:
    backend.script.set(method, fail=True, error=error)
    manager = backend.register()
    manager.publish_service_capabilities()
    row = backend.row
    assert (row.state, row.step, row.attempts, row.is_up) == ("retrying", step, 1, False)
    assert "gone" in (row.reason or "")
    assert row.last_attempt["error_class"] == type(error).__name__
    assert [driver.is_closed for driver in backend.drivers] == [True]
    (told,) = backend.notifier.sent()
    assert told.event_type == "volume.driver.init.error"
    assert {key: told.payload[key] for key in ("backend", "step", "attempt")} == {
        "backend": "backend",
        "step": step,
        "attempt": 1,
    }
    backend.script.clear()
    manager.publish_service_capabilities()
    assert (backend.row.state, backend.row.reason) == ("ready", None)
    assert [driver.is_closed for driver in backend.drivers] == [True, False]


@pytest.mark.parametrize("method", [method for method, _ in STEPS])
def test_an_unrecoverable_error_in_any_step_is_final_until_asked(backend: Backend, method: str) -> None:
    backend.script.set(method, fail=True, error=exc.DriverConfigurationError(reason="wrong"))
    manager = backend.register()
    for _ in range(3):
        manager.publish_service_capabilities()
    assert backend.row.state == "unrecoverable"
    assert len(backend.drivers) == 1
    backend.script.clear()
    manager.reinit()
    manager.publish_service_capabilities()
    assert backend.row.state == "ready"


def test_a_driver_that_can_not_be_loaded_is_the_first_step(backend: Backend) -> None:
    backend.load_error = exc.DriverNotSupported(driver="old", reason="nobody mends it")
    manager = backend.register()
    manager.publish_service_capabilities()
    assert (backend.row.state, backend.row.step) == ("unrecoverable", "load")
    assert "nobody mends it" in (backend.row.reason or "")


def test_a_library_that_is_imported_late_is_a_missing_library(backend: Backend) -> None:
    backend.script.set("do_setup", fail=True, error=ModuleNotFoundError("No module named 'rados'", name="rados"))
    manager = backend.register()
    manager.publish_service_capabilities()
    assert (backend.row.state, backend.row.step) == ("unrecoverable", "do_setup")
    assert backend.row.reason == (
        'the Python library "rados" (FakeDriver) is missing: install python3-rados, then reload'
    )


def test_an_export_that_can_not_be_restored_is_that_volumes_trouble_alone(backend: Backend) -> None:
    attachment = b.add_attachment(backend.real_store, b.add_volume(backend.real_store))
    backend.script.set("ensure_export", fail=True, error=RuntimeError("broken"))
    manager = backend.register()
    manager.publish_service_capabilities()
    assert backend.row.state == "ready"
    assert backend.real_store.get_attachment(attachment.id).status == "attached"


def test_a_storage_that_goes_away_while_exports_are_restored_fails_the_attempt(backend: Backend) -> None:
    b.add_attachment(backend.real_store, b.add_volume(backend.real_store))
    backend.script.set("ensure_export", fail=True, error=GONE)
    manager = backend.register()
    manager.publish_service_capabilities()
    assert (backend.row.state, backend.row.step) == ("retrying", "exports")


# -- the count ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "made"), [(1, 2), (3, 4), (0, 8)])
def test_attempts_are_made_at_each_publish_until_the_count_is_used_up(backend: Backend, count: int, made: int) -> None:
    backend.script.set("do_setup", fail=True, error=GONE)
    manager = backend.register(reinit_driver_count=count)
    for _ in range(8):
        manager.publish_service_capabilities()
    assert len(backend.drivers) == made
    assert backend.row.state == ("exhausted" if count else "retrying")
    attempts = [one.payload["attempt"] for one in backend.notifier.sent("volume.driver.init.error")]
    assert attempts == list(range(1, made + 1)), "one notification for each attempt"


def test_a_database_that_is_away_neither_uses_up_the_count_nor_hides_the_truth(backend: Backend) -> None:
    manager = backend.register(reinit_driver_count=1)
    real_check = backend.script.applied

    @contextlib.contextmanager
    def away_from_then_on(method: str, *arguments: Any) -> Iterator[None]:
        with real_check(method, *arguments):
            yield
        if method == "read_identity":
            backend.store.is_away = True

    backend.script.applied = away_from_then_on  # type: ignore[method-assign]
    manager.publish_service_capabilities()
    assert backend.row.state == "starting", "nothing could be written"
    for _ in range(4):
        backend.store.is_away = False
        manager.publish_service_capabilities()
    assert manager.initializer.status.state == "retrying"
    assert manager.initializer.status.attempts == 0
    backend.store.is_away = False
    manager.row.write_late()
    assert backend.row.state == "retrying"
    assert "away" in (backend.row.reason or "")
    backend.script.applied = real_check  # type: ignore[method-assign]
    manager.publish_service_capabilities()
    assert backend.row.state == "ready"


# -- publishing and losing -------------------------------------------------------------------------


def test_stats_that_fail_are_shown_at_once_and_lose_the_backend_at_the_threshold(backend: Backend) -> None:
    manager = backend.register(backend_loss_threshold=3)
    manager.publish_service_capabilities()
    backend.script.set("get_volume_stats", fail=True, error=GONE)
    for _ in range(2):
        manager.publish_service_capabilities()
        assert (backend.row.state, backend.row.step, backend.row.is_up) == ("ready", "publish", True)
        assert backend.row.reason == str(GONE)
    manager.publish_service_capabilities()
    row = backend.row
    assert (row.state, row.step, row.losses, row.is_up) == ("lost", "get_volume_stats", 1, False)
    wait_until(lambda: backend.drivers[0].is_closed, "the lost driver to be closed")
    backend.script.clear()
    manager.publish_service_capabilities()
    assert (backend.row.state, backend.row.losses) == ("ready", 1)


def test_only_failures_in_a_row_count(backend: Backend) -> None:
    manager = backend.register(backend_loss_threshold=3)
    manager.publish_service_capabilities()
    for _ in range(4):
        backend.script.set("get_volume_stats", fail=True, error=RuntimeError("flaky"))
        manager.publish_service_capabilities()
        manager.publish_service_capabilities()
        backend.script.clear()
        manager.publish_service_capabilities()
        assert (backend.row.state, backend.row.reason) == ("ready", None)
    assert backend.row.losses == 0


def test_a_lost_backend_is_tried_beyond_the_count(backend: Backend) -> None:
    manager = backend.register(reinit_driver_count=1, backend_loss_threshold=1)
    manager.publish_service_capabilities()
    backend.script.set("*", fail=True, error=GONE)
    for _ in range(6):
        manager.publish_service_capabilities()
    assert (backend.row.state, backend.row.attempts) == ("lost", 5)


def test_capabilities_that_can_not_be_written_are_published_later_and_lose_nothing(backend: Backend) -> None:
    manager = backend.register(backend_loss_threshold=1)
    manager.publish_service_capabilities()
    write = manager._write_capabilities

    def fail(stats: models.BackendStats) -> None:
        raise exc.StoreUnavailable(reason="away")

    manager._write_capabilities = fail  # type: ignore[method-assign]
    for _ in range(3):
        manager.publish_service_capabilities()
    assert manager.initializer.is_ready
    manager._write_capabilities = write  # type: ignore[method-assign]
    manager.publish_service_capabilities()
    assert backend.row.state == "ready"


def test_the_log_has_one_line_for_a_loss_and_one_for_each_attempt(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    manager = backend.register(backend_loss_threshold=1)
    manager.publish_service_capabilities()
    backend.script.set("get_volume_stats", fail=True, error=GONE)
    with caplog.at_level(logging.ERROR, "volsvc"):
        manager.publish_service_capabilities()
        manager.publish_service_capabilities()
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" (")[0] for line in lines] == [f"{b.HOST}: lost", f"{b.HOST}: lost"]
    assert "attempt 1" in lines[1]


@pytest.mark.parametrize("error", [RuntimeError("bug"), SystemExit(1), exc.StoreUnavailable(reason="away")])
def test_no_error_ends_the_periodic_task(backend: Backend, error: BaseException) -> None:
    backend.store.error = lambda: error
    manager = backend.new_manager(publish_interval_s=0.02)
    calls = []
    real = manager.publish_service_capabilities

    def publish() -> None:
        calls.append(None)
        if len(calls) < 4:
            raise error
        real()

    manager.publish_service_capabilities = publish  # type: ignore[method-assign]
    manager.start()
    backend._started.append(manager)
    backend.wait_state("ready")
    assert len(calls) >= 4


def test_pauses_between_attempts_differ_so_that_a_fleet_does_not_ask_in_step(backend: Backend) -> None:
    manager = backend.new_manager(publish_interval_s=60.0)
    pauses = [manager._pause_s() for _ in range(1000)]
    assert min(pauses) >= 54
    assert max(pauses) <= 60, "at most one interval after the storage is back"
    assert max(pauses) - min(pauses) > 5
    assert len(set(pauses)) > 990


# -- operations ------------------------------------------------------------------------------------------


def submit_create(backend: Backend, **fields: Any) -> models.Operation:
    return b.submit(backend.real_store, b.create_intent(b.volume_record(), **fields))


def test_an_operation_that_meets_an_outage_takes_the_backend_down_and_ends_well_after_it(backend: Backend) -> None:
    manager = backend.start(publish_interval_s=0.05)
    backend.wait_state("ready")
    backend.script.set("create_volume", fail=1, error=GONE)
    operation = submit_create(backend)
    manager.runner.ring()
    wait_until(lambda: not backend.real_store.get_operation(operation.id).is_open, "the create to end")
    ended = backend.real_store.get_operation(operation.id)
    assert (ended.state, ended.attempts) == ("done", 1), "an outage is no attempt of the operation's"
    assert backend.real_store.get_volume(operation.resource_id).status == "available"
    assert backend.row.losses == 1
    assert len(backend.drivers) == 2


def test_an_operation_that_raises_what_ends_threads_ends_failed_and_the_worker_goes_on(backend: Backend) -> None:
    manager = backend.start()
    backend.wait_state("ready")
    for error in (SystemExit(1), KeyboardInterrupt(), RuntimeError("x")):
        backend.script.set("create_volume", fail=1, error=error)
        operation = submit_create(backend)
        manager.runner.ring()
        wait_until(lambda o=operation: not backend.real_store.get_operation(o.id).is_open)
        assert backend.real_store.get_operation(operation.id).error_class == type(error).__name__
    operation = submit_create(backend)
    manager.runner.ring()
    wait_until(lambda: backend.real_store.get_operation(operation.id).state == "done")
    assert backend.row.losses == 0


def test_work_waits_for_a_backend_that_is_not_ready_and_ends_at_its_deadline(backend: Backend) -> None:
    backend.script.set("do_setup", fail=True, error=GONE)
    past = b.utcnow() - dt.timedelta(seconds=1)
    late, patient = submit_create(backend, deadline_at=past), submit_create(backend)
    manager = backend.register()
    manager.publish_service_capabilities()
    assert backend.real_store.get_operation(late.id).is_open, "the first attempt might still have saved it"
    manager.publish_service_capabilities()
    ended = backend.real_store.get_operation(late.id)
    assert (ended.state, ended.error_class) == ("failed", "OperationTimeout")
    assert "deadline" in (ended.error or "")
    assert backend.real_store.get_volume(late.resource_id).status == "error"
    assert backend.real_store.get_operation(patient.id).is_open


def test_work_of_a_ready_backend_is_done_whatever_its_deadline(backend: Backend) -> None:
    late = submit_create(backend, deadline_at=b.utcnow() - dt.timedelta(seconds=1))
    backend.start()
    wait_until(lambda: backend.real_store.get_operation(late.id).state == "done")


def test_a_backend_that_flaps_waits_its_turn_and_one_that_served_is_tried_at_once(backend: Backend) -> None:
    manager = backend.start(publish_interval_s=LONG_S)
    backend.wait_state("ready")
    backend.script.set("create_volume", fail=1, error=GONE)
    submit_create(backend)
    manager.runner.ring()
    backend.wait_state("lost")
    assert len(backend.drivers) == 1, "it was ready for a moment only"
    manager.reinit()
    backend.wait_state("ready")
    backend.ahead_s = 2 * LONG_S
    backend.script.set("create_volume", fail=1, error=GONE)
    submit_create(backend)
    manager.runner.ring()
    wait_until(lambda: backend.row.losses == 2 and backend.row.state == "ready", "an attempt without a wait")


def test_a_late_error_of_a_driver_that_was_replaced_does_not_take_the_new_one_down(backend: Backend) -> None:
    manager = backend.start(publish_interval_s=0.05, driver_init_timeout_s=10)
    backend.wait_state("ready")
    began, go_on = threading.Event(), threading.Event()
    first = backend.drivers[0]
    create = first.create_volume

    def slow_create(volume: models.Volume) -> None:
        if go_on.is_set():
            return create(volume)
        began.set()
        assert go_on.wait(10)
        raise GONE

    first.create_volume = slow_create  # type: ignore[method-assign]
    slow = submit_create(backend)
    manager.runner.ring()
    assert began.wait(10)
    backend.script.set("create_snapshot", fail=1, error=GONE)
    volume = b.add_volume(backend.real_store)
    b.submit(backend.real_store, b.snapshot_intent(volume))
    manager.runner.ring()
    wait_until(lambda: len(backend.drivers) == 2 and backend.row.state == "ready", "the loss and the recovery")
    go_on.set()
    wait_until(lambda: backend.real_store.get_operation(slow.id).state == "done", "the slow create to run again")
    assert backend.row.losses == 1


# -- the end ---------------------------------------------------------------------------------------------------


def test_stopping_during_an_attempt_closes_its_driver_and_says_stopped(backend: Backend) -> None:
    backend.script.set("do_setup", hang=True)
    manager = backend.start()
    wait_until(lambda: backend.script.calls("do_setup") == 1, "the attempt to begin")
    started = time.monotonic()
    manager.stop(2)
    assert time.monotonic() - started < 5
    assert backend.row.state == "stopped"
    backend.script.clear()
    wait_until(lambda: backend.drivers[0].is_closed, "the late driver to be closed")
    assert backend.row.state == "stopped"


def test_stopping_closes_the_driver_that_serves(backend: Backend) -> None:
    manager = backend.start()
    backend.wait_state("ready")
    backend.script.set("close", delay_s=0.3)
    assert manager.stop(2)
    assert backend.drivers[0].is_closed
