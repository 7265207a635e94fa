"""How the backup manager comes up, goes down and comes back, with its own threads on the fake store."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.admin import AdminRequests
from volsvc.backup.drivers.base import MARKER_NAME, BackupDriver, BackupDriverContext
from volsvc.backup.drivers.fake import FakeBackupDriver, FakeObjects
from volsvc.backup.manager import BackupManager, BackupManagerSettings
from volsvc.db.store import SqlStore
from volsvc.drivers.fake_script import Script
from volsvc.manager_reload import BackendChange, prepare_backend
from volsvc.operations import RunnerSettings
from volsvc.ports import Guards
from volsvc.rpc.local_doorbell import LocalDoorbell
from volsvc.testing.daemon import wait_until
from volsvc.testing.notifier import RecordingNotifier
from volsvc.testing.snapshots import options_of
from volsvc.testing.stores import builders as b

DEADLINE_S = 10.0
FAILS = {"error": "BackendUnavailable", "message": "no answer"}
ERROR, END = "backup.driver.init.error", "backup.driver.init.end"


class CountingManager(BackupManager):
    """Counts the turns of its own loop."""

    turns = 0

    def publish_service_capabilities(self) -> None:
        super().publish_service_capabilities()
        self.turns += 1


class ExclusiveDriver(FakeBackupDriver):
    exclusive = True


class Store:
    """What a blueprint describes: a fake store, and the class of driver that serves it."""

    def __init__(self, path: pathlib.Path, script: Script) -> None:
        self.objects = FakeObjects()
        self.driver_class: type[FakeBackupDriver] = FakeBackupDriver
        self.drivers: list[FakeBackupDriver] = []
        self._path = path
        self._script = script

    def build(self) -> BackupDriver:
        context = BackupDriverContext(
            host=b.BACKUP_HOST, options=options_of(FakeBackupDriver), state_path=str(self._path), name="fake"
        )
        self.drivers.append(self.driver_class(context, self.objects, self._script))
        return self.drivers[-1]


class Service:
    """A backup service's managers, one after the other, on one record and one store."""

    def __init__(self, path: pathlib.Path, records: SqlStore) -> None:
        self.records = records
        self.script = Script()
        self.notifier = RecordingNotifier()
        self.path = path
        self.store = Store(path, self.script)
        self.load: Callable[[], Any] = lambda: self.store
        self.managers: list[CountingManager] = []

    def start(self, host: str = b.BACKUP_HOST, **settings: Any) -> CountingManager:
        given = {"publish_interval_s": 0.02, "runner": RunnerSettings(sweep_interval_s=0.05)}
        manager = CountingManager(
            host=host,
            instance=f"instance-{len(self.managers)}",
            store=self.records,
            notifier=self.notifier,
            load_blueprint=lambda: self.load(),
            settings=BackupManagerSettings(**{**given, **settings}),
            doorbell=LocalDoorbell(),
            directory=str(self.path),
        )
        self.managers.append(manager)
        manager.start()
        return manager

    def row(self, host: str = b.BACKUP_HOST) -> models.Service:
        return next(s for s in self.records.list_services() if (s.host, s.binary) == (host, "cinder-backup"))

    def wait_state(self, state: str, host: str = b.BACKUP_HOST) -> models.Service:
        try:
            wait_until(lambda: self.row(host).state == state, state, DEADLINE_S)
        except TimeoutError as error:
            raise AssertionError(f"{error}; it is {self.row(host)}") from error
        return self.row(host)

    @property
    def attempts(self) -> int:
        return self.script.calls("do_setup")

    def close(self) -> None:
        self.script.clear()
        for manager in self.managers:
            manager.stop(5.0)


@pytest.fixture
def service(tmp_path: pathlib.Path, sql_store: SqlStore) -> Iterator[Service]:
    made = Service(tmp_path, sql_store)
    yield made
    made.close()


def turn_a_few_times(manager: CountingManager) -> None:
    turns = manager.turns
    wait_until(lambda: manager.turns > turns + 4, "the periodic task to run a few times", DEADLINE_S)


def kept_backup(service: Service) -> models.Backup:
    """A backup whose record says that it is in the store."""
    volume = b.volume_record()
    b.do(service.records, b.create_intent(volume))
    return b.add_backup(service.records, service.records.get_volume(volume.id))


# -- attempts ------------------------------------------------------------------------------------


def test_a_store_that_can_be_used_is_published_with_its_room(service: Service) -> None:
    service.store.objects.capacity_bytes = 10_000
    service.start(version="9", availability_zone="here")
    row = service.wait_state("ready")
    assert (row.binary, row.is_up, row.version, row.availability_zone) == ("cinder-backup", True, "9", "here")
    assert row.capabilities["driver"] == "fake"
    assert 0 < row.capabilities["free_bytes"] < 10_000
    assert row.backend_uuid == service.store.drivers[0].identity
    (sent,) = service.notifier.wait_for(END)
    assert (sent.payload["host"], sent.payload["binary"]) == (b.BACKUP_HOST, "cinder-backup")


def test_without_periodic_initialization_one_failure_at_the_start_is_the_last(service: Service) -> None:
    service.script.set("do_setup", fail=1, **FAILS)
    manager = service.start(reinit_driver_count=3)
    row = service.wait_state("exhausted")
    assert (row.is_up, row.step, row.reason) == (False, "do_setup", "no answer")
    turn_a_few_times(manager)
    assert (service.attempts, service.row().state) == (1, "exhausted")
    assert len(service.notifier.sent(ERROR)) == 1
    manager.reinit()
    service.wait_state("ready")


def test_what_is_asked_for_by_hand_is_one_attempt_without_periodic_initialization(service: Service) -> None:
    service.script.set("do_setup", fail=True, **FAILS)
    manager = service.start()
    service.wait_state("exhausted")
    manager.reinit()
    service.notifier.wait_for(ERROR, count=2)
    service.wait_state("exhausted")
    turn_a_few_times(manager)
    assert service.attempts == 2


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_with_it_a_store_that_fails_up_to_the_count_comes_up(service: Service, failures: int) -> None:
    service.script.set("do_setup", fail=failures, **FAILS)
    service.start(retries_start=True, reinit_driver_count=3)
    service.wait_state("ready")
    assert service.attempts == failures + 1
    assert [sent.payload["attempt"] for sent in service.notifier.sent(ERROR)] == list(range(1, failures + 1))


def test_with_it_a_store_that_fails_longer_is_given_up_until_asked_for(service: Service) -> None:
    service.script.set("do_setup", fail=4, **FAILS)
    manager = service.start(retries_start=True, reinit_driver_count=3)
    row = service.wait_state("exhausted")
    assert (row.attempts, row.max_attempts) == (4, 4)
    turn_a_few_times(manager)
    assert service.attempts == 4
    manager.reinit()
    service.wait_state("ready")


def test_with_it_and_a_count_of_0_there_is_no_end(service: Service) -> None:
    service.script.set("do_setup", fail=12, **FAILS)
    service.start(retries_start=True, reinit_driver_count=0)
    service.wait_state("ready")
    assert service.attempts == 13


@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("do_setup", "do_setup"),
        ("check", "check"),
        ("list", "list"),
        ("get", "identity"),
        ("put_if_absent", "identity"),
        ("free_bytes", "publish"),
    ],
)
def test_the_step_that_fails_is_named(service: Service, method: str, step: str) -> None:
    service.script.set(method, fail=True, **FAILS)
    service.start()
    row = service.wait_state("exhausted")
    assert (row.step, row.reason, row.is_up) == (step, "no answer", False)
    assert service.store.drivers[0].is_closed


@pytest.mark.parametrize("is_retrying", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        exc.MissingDriverLibrary(library="obstore", remedy="install volsvc[s3]"),
        exc.DriverConfigurationError(reason="no keys"),
        ModuleNotFoundError("No module named 'obstore'", name="obstore"),
    ],
)
def test_what_only_a_change_mends_is_not_tried_again(service: Service, error: Exception, is_retrying: bool) -> None:
    service.script.set("do_setup", fail=True, error=error)
    manager = service.start(retries_start=is_retrying, reinit_driver_count=0)
    row = service.wait_state("unrecoverable")
    assert row.reason
    turn_a_few_times(manager)
    assert service.attempts == 1
    service.script.clear()
    manager.reinit()
    service.wait_state("ready")


def test_an_attempt_that_hangs_is_shown_and_its_late_success_is_used(service: Service) -> None:
    service.script.set("check", hang=True)
    manager = service.start(driver_init_timeout_s=0.05)
    row = service.wait_state("exhausted")
    assert (row.step, row.hanging_since is not None, row.is_up) == ("check", True, False)
    assert "has not come back" in (row.reason or "")
    turn_a_few_times(manager)
    assert service.attempts == 1, "nothing runs beside an attempt that hangs"
    service.script.clear()
    row = service.wait_state("ready")
    assert (row.hanging_since, row.reason, service.attempts) == (None, None, 1)


# -- losing and healing ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["check", "free_bytes", "get"])
def test_a_store_that_was_ready_is_tried_without_an_end_whatever_the_options(service: Service, method: str) -> None:
    service.start(reinit_driver_count=1, backend_loss_threshold=3)
    service.wait_state("ready")
    service.script.set(method, fail=True, **FAILS)
    row = service.wait_state("lost")
    assert (row.is_up, row.losses) == (False, 1)
    service.notifier.wait_for(ERROR, count=5)
    assert service.row().state == "lost"
    service.script.clear()
    row = service.wait_state("ready")
    assert (row.losses, row.reason) == (1, None)


def test_a_blip_shorter_than_the_threshold_is_shown_and_takes_nothing_down(service: Service) -> None:
    manager = service.start(backend_loss_threshold=3)
    service.wait_state("ready")
    service.script.set("check", fail=2, **FAILS)
    wait_until(lambda: service.script.calls("check") >= 2, "two checks that fail", DEADLINE_S)
    turn_a_few_times(manager)
    row = service.row()
    assert (row.state, row.losses, row.reason) == ("ready", 0, None)


def test_a_check_that_hangs_takes_the_service_down_and_its_end_brings_it_back(service: Service) -> None:
    service.start(driver_init_timeout_s=0.05)
    service.wait_state("ready")
    service.script.set("check", hang=True)
    row = service.wait_state("lost")
    assert not row.is_up
    service.script.clear()
    service.wait_state("ready")


def test_an_operation_that_finds_the_store_gone_takes_it_down_at_once_and_is_done_later(service: Service) -> None:
    service.start(backend_loss_threshold=1000)
    service.wait_state("ready")
    backup = kept_backup(service)
    service.script.set("*", fail=True, **FAILS)
    operation = b.submit(service.records, b.intent("backup_delete", backup.id, host=b.BACKUP_HOST))
    assert not service.wait_state("lost").is_up
    assert service.records.get_backup(backup.id).status == "deleting", "nothing was lost of it"
    service.script.clear()
    wait_until(lambda: not service.records.get_operation(operation.id).is_open, "the operation to end", DEADLINE_S)
    assert service.records.get_operation(operation.id).state == "done"
    assert service.row().losses == 1


# -- whose store it is ------------------------------------------------------------------------------------


def test_services_may_share_a_store(service: Service) -> None:
    service.start()
    service.start("another")
    rows = [service.wait_state("ready"), service.wait_state("ready", "another")]
    assert len({row.backend_uuid for row in rows}) == 1


@pytest.mark.parametrize("is_empty", [False, True])
def test_another_store_in_its_place_is_refused_until_it_is_forgotten(service: Service, is_empty: bool) -> None:
    manager = service.start()
    first = service.wait_state("ready").backend_uuid
    manager.stop(5.0)
    service.store = Store(service.path, service.script)
    if not is_empty:
        service.store.build().write_identity("11111111-1111-4111-8111-111111111111")
    manager = service.start(retries_start=True, reinit_driver_count=0)
    row = service.wait_state("retrying")
    assert (row.step, row.backend_uuid) == ("identity", first)
    assert f"forget-storage {b.BACKUP_HOST}" in (row.reason or "")
    assert ("no marker" in (row.reason or "")) == is_empty
    assert (MARKER_NAME in service.store.objects.objects) != is_empty, "nothing is written to a wrong store"
    AdminRequests(service.records).forget_storage(b.BACKUP_HOST)
    manager.reinit()
    assert service.wait_state("ready").backend_uuid != first


def test_a_store_with_backups_in_it_is_not_forgotten(service: Service) -> None:
    service.start()
    service.wait_state("ready")
    with pytest.raises(exc.Conflict, match="is up and has its storage"):
        AdminRequests(service.records).forget_storage(b.BACKUP_HOST)
    kept_backup(service)
    service.script.set("check", fail=True, **FAILS)
    service.wait_state("lost")
    with pytest.raises(exc.Conflict, match="has backups"):
        AdminRequests(service.records).forget_storage(b.BACKUP_HOST)
    assert service.row().backend_uuid is not None


def test_a_store_that_is_lost_for_good_is_given_up_with_its_backups(service: Service) -> None:
    manager = service.start()
    first = service.wait_state("ready").backend_uuid
    backup_id = kept_backup(service).id
    admin = AdminRequests(service.records)
    with pytest.raises(exc.Conflict, match="is up"):
        admin.forget_storage(b.BACKUP_HOST, is_lost=True)
    service.store.objects.objects.clear()
    service.script.set("do_setup", fail=True, **FAILS)
    service.wait_state("lost")
    assert admin.forget_storage(b.BACKUP_HOST, is_lost=True) == 1
    assert admin.forget_storage(b.BACKUP_HOST, is_lost=True) == 0
    service.script.clear()
    manager.reinit()
    assert service.wait_state("ready").backend_uuid not in (None, first)
    backup = service.records.get_backup(backup_id)
    assert (backup.status, backup.is_stored) == ("error", False)
    assert "was lost" in (backup.fail_reason or "")
    b.submit(service.records, b.intent("backup_forget", backup_id, guards=Guards(never_stored=backup_id)))
    with pytest.raises(exc.BackupNotFound):
        service.records.get_backup(backup_id)


def test_a_store_that_is_replaced_while_it_serves_takes_it_down(service: Service) -> None:
    service.start()
    service.wait_state("ready")
    kept = dict(service.store.objects.objects)
    service.store.objects.objects.clear()
    row = service.wait_state("lost")
    assert "marker" in (row.reason or "")
    assert service.store.objects.objects == {}
    service.store.objects.objects.update(kept)
    service.wait_state("ready")


# -- reload -----------------------------------------------------------------------------------------------


def prepare(service: Service, store: Store, **settings: Any) -> BackendChange[Any, Any, Any]:
    return prepare_backend(
        service.managers[-1],
        lambda: store,
        BackupManagerSettings(publish_interval_s=0.02, **settings),
        [],
        lambda event, timeout_s: event.wait(timeout_s),
    )


@pytest.mark.parametrize("driver_class", [FakeBackupDriver, ExclusiveDriver])
def test_a_reload_moves_to_another_store_while_there_are_no_backups(
    service: Service, driver_class: type[FakeBackupDriver]
) -> None:
    service.store.driver_class = driver_class
    service.start()
    first = service.wait_state("ready").backend_uuid
    other = Store(service.path, service.script)
    change = prepare(service, other)
    assert service.row().state == "ready"
    change.apply()
    change.drain(5.0)
    wait_until(lambda: service.row().backend_uuid == other.drivers[0].identity, "the new store's marker", DEADLINE_S)
    assert first != other.drivers[0].identity
    assert service.store.drivers[0].is_closed
    assert service.row().state == "ready"


@pytest.mark.parametrize("driver_class", [FakeBackupDriver, ExclusiveDriver])
def test_a_reload_to_another_store_is_refused_while_there_are_backups(
    service: Service, driver_class: type[FakeBackupDriver]
) -> None:
    service.store.driver_class = driver_class
    service.start()
    first = service.wait_state("ready").backend_uuid
    kept_backup(service)
    other = Store(service.path, service.script)
    with pytest.raises(exc.ConfigurationError, match="no marker"):
        prepare(service, other)
    turn_a_few_times(service.managers[-1])
    assert (service.row().state, service.row().backend_uuid, service.row().losses) == ("ready", first, 0)
    assert other.objects.objects == {}
    assert all(driver.is_closed for driver in other.drivers)


def test_a_reload_that_would_not_be_ready_is_refused_and_one_of_numbers_builds_nothing(service: Service) -> None:
    service.start()
    service.wait_state("ready")
    other = Store(service.path, service.script)
    service.script.set("do_setup", fail=True, **FAILS)
    with pytest.raises(exc.ConfigurationError, match="no answer"):
        prepare(service, other)
    change = prepare(service, service.store, reinit_driver_count=9)
    change.apply()
    assert len(service.store.drivers) == 1
    assert service.managers[-1].initializer.status.max_attempts == 1


def test_a_reload_tries_again_what_was_given_up(service: Service) -> None:
    service.script.set("do_setup", fail=True, **FAILS)
    service.start()
    service.wait_state("exhausted")
    service.script.clear()
    prepare(service, service.store).apply()
    service.wait_state("ready")


def test_a_stop_shows_as_stopped_and_closes_the_driver(service: Service) -> None:
    manager = service.start()
    service.wait_state("ready")
    assert manager.stop(DEADLINE_S)
    assert service.store.drivers[0].is_closed
    assert (service.row().state, service.row().is_up) == ("stopped", False)
