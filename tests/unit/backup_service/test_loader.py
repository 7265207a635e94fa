"""From cinder.conf to a backup driver: names, options, what is wrong with them, and what a reload compares."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import settings
from volsvc.backup.drivers.fake import FakeBackupDriver
from volsvc.backup.drivers.posix import PosixBackupDriver
from volsvc.backup.drivers.s3 import S3BackupDriver
from volsvc.backup.loader import BackupBlueprint, load_backup_driver
from volsvc.backup_part import UNLIMITED_WORKERS, manager_settings


class OldDriver(FakeBackupDriver):
    supported = False


class NoDriver:
    """A class that has nothing to do with it."""


HERE = __name__


def load(path: pathlib.Path, **options: Any) -> settings.Settings:
    file = path / "cinder.conf"
    lines = [f"{name} = {value}" for name, value in {"state_path": path / "state", "host": "node", **options}.items()]
    file.write_text("\n".join(["[DEFAULT]", *lines]) + "\n")
    return settings.load([str(file)])


def blueprint(path: pathlib.Path, **options: Any) -> BackupBlueprint:
    loaded = load(path, **options)
    return load_backup_driver(loaded.backup, host=loaded.host, state_path=loaded.service.state_path)


def test_without_any_option_backups_are_kept_below_the_state_path(tmp_path: pathlib.Path) -> None:
    driver = blueprint(tmp_path).build()
    assert isinstance(driver, PosixBackupDriver)
    assert (driver.path, driver.context.name, driver.context.host) == (f"{tmp_path}/state/backup", "posix", "node")


@pytest.mark.parametrize(
    ("name", "driver_class", "called"),
    [
        ("posix", PosixBackupDriver, "posix"),
        ("s3", S3BackupDriver, "s3"),
        ("cinder.backup.drivers.posix.PosixBackupDriver", PosixBackupDriver, "posix"),
        ("cinder.backup.drivers.s3.S3BackupDriver", S3BackupDriver, "s3"),
        ("volsvc.backup.drivers.fake.FakeBackupDriver", FakeBackupDriver, None),
    ],
)
def test_a_driver_is_found_by_its_name_its_class_or_cinders(
    tmp_path: pathlib.Path, name: str, driver_class: type, called: str | None
) -> None:
    found = blueprint(tmp_path, backup_driver=name)
    assert (found.driver_class, found.name) == (driver_class, called or name)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"backup_driver": "tape"}, exc.DriverConfigurationError, "must be one of fake, posix, s3"),
        ({"backup_driver": "cinder.backup.drivers.swift.SwiftBackupDriver"}, exc.DriverConfigurationError, "cinder"),
        ({"backup_driver": f"{HERE}.NoDriver"}, exc.DriverConfigurationError, "not a child of"),
        ({"backup_driver": f"{HERE}.Nothing"}, exc.DriverConfigurationError, "no class Nothing"),
        ({"backup_driver": f"{HERE}.OldDriver"}, exc.DriverNotSupported, "enable_unsupported_driver"),
        ({"backup_driver": "s3", "backup_s3_timeout": "soon"}, exc.DriverConfigurationError, "backup_s3_timeout"),
    ],
)
def test_what_is_wrong_is_named_and_no_retry_mends_it(
    tmp_path: pathlib.Path, options: dict[str, str], error: type[exc.VolsvcError], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        blueprint(tmp_path, **options)
    assert not raised.value.is_recoverable


def test_an_unsupported_driver_is_used_when_told_so(tmp_path: pathlib.Path) -> None:
    found = blueprint(tmp_path, backup_driver=f"{HERE}.OldDriver", enable_unsupported_driver=True)
    assert found.driver_class is OldDriver


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({}, {"periodic_interval": 7}, []),
        ({"backup_posix_path": "/one"}, {"backup_posix_path": "/two"}, ["backup_posix_path"]),
        ({"backup_driver": "posix"}, {"backup_driver": "cinder.backup.drivers.posix.PosixBackupDriver"}, []),
        (
            {"backup_driver": "fake"},
            {"backup_driver": "volsvc.backup.drivers.fake.FakeBackupDriver"},
            ["backup_driver"],
        ),
        ({"backup_driver": "s3"}, {"backup_driver": "s3", "backup_s3_store_bucket": "b"}, ["backup_s3_store_bucket"]),
    ],
)
def test_a_reload_sees_what_the_driver_is_built_from(
    tmp_path: pathlib.Path, before: dict[str, str], after: dict[str, str], changed: list[str]
) -> None:
    first, second = blueprint(tmp_path, **before), blueprint(tmp_path, **after)
    assert second.changed_options(first) == changed
    assert (first == second) == (not changed)


def test_the_managers_settings_are_the_options(tmp_path: pathlib.Path) -> None:
    default = manager_settings(load(tmp_path))
    assert (default.retries_start, default.publish_interval_s, default.driver_init_timeout_s) == (False, 60, 60)
    given = manager_settings(
        load(
            tmp_path,
            backup_periodic_initialization=True,
            periodic_interval=7,
            backup_initialization_timeout=8,
            reinit_driver_count=9,
            backup_max_operations=0,
        )
    )
    assert (given.retries_start, given.publish_interval_s, given.driver_init_timeout_s) == (True, 7, 8)
    assert (given.reinit_driver_count, given.runner.workers) == (9, UNLIMITED_WORKERS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"periodic_interval": 0}, "periodic_interval"),
        ({"backup_initialization_timeout": "x"}, "backup_initialization_timeout"),
        ({"backup_periodic_initialization": "perhaps"}, "backup_periodic_initialization"),
        ({"backup_max_operations": -1}, "backup_max_operations"),
    ],
)
def test_a_bad_value_of_the_service_refuses_the_file(
    tmp_path: pathlib.Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(exc.ConfigurationError, match=words):
        load(tmp_path, **options)


def test_a_slip_in_a_drivers_option_is_pointed_out_and_cinders_own_options_are_not(tmp_path: pathlib.Path) -> None:
    loaded = load(
        tmp_path,
        backup_posix_pth="/mnt",
        backup_name_template="b-%s",
        backup_file_size=1,
        backup_compression_algorithm="zstd",
        backup_s3_max_pool_connections=10,
        backup_driver_init_check_interval=60,
        backup_workers=4,
        backup_use_same_host=True,
    )
    (warning,) = loaded.warnings
    assert "backup_posix_pth is not an option; did you mean backup_posix_path?" in warning


def test_a_description_shows_the_options_and_hides_the_keys(tmp_path: pathlib.Path) -> None:
    described = load(
        tmp_path, backup_driver="s3", backup_s3_store_bucket="b", backup_s3_store_secret_key="hush"
    ).describe("salt")
    assert described["[DEFAULT] backup_driver"] == "s3"
    assert described["[DEFAULT] backup_s3_store_bucket"] == "b"
    assert "secret" in described["[DEFAULT] backup_s3_store_secret_key"]
    assert "hush" not in str(described)
