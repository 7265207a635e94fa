"""A service whose store is a real S3 server that errs, refuses, hangs up and answers too little."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.functional.backup.backing import QUICK, BackupUser, refused, require_objects
from volsvc.backup.drivers.base import BackupDriverContext
from volsvc.backup.drivers.s3 import S3BackupDriver
from volsvc.testing.daemon import Daemon, wait_until
from volsvc.testing.s3_server import Fault, FaultyProxy, create_bucket, faulty_proxy, s3_server
from volsvc.testing.snapshots import options_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("backup-s3")]

BUCKET, SECRET = "backups", "not-to-be-seen-anywhere"
ALWAYS = 10**9
_BUCKETS = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        create_bucket(url, BUCKET)
        yield url


@pytest.fixture(scope="module")
def s3_proxy(server: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(server) as proxy:
        yield proxy


def s3_options(url: str, bucket: str = BUCKET, **options: Any) -> dict[str, Any]:
    return {
        **QUICK,
        "backup_driver": "s3",
        "backup_s3_endpoint_url": url,
        "backup_s3_store_bucket": bucket,
        "backup_s3_store_access_key": "access",
        "backup_s3_store_secret_key": SECRET,
        "backup_s3_retry_max_attempts": 1,
        "backup_s3_timeout": 20,
        "backend_loss_threshold": 2,
        **options,
    }


def open_bucket(url: str) -> S3BackupDriver:
    values = {name: value for name, value in s3_options(url).items() if name.startswith("backup_s3")}
    driver = S3BackupDriver(BackupDriverContext("test", options_of(S3BackupDriver, **values), "/nowhere"))
    driver.do_setup()
    assert driver.read_identity() is not None
    return driver


@dataclasses.dataclass
class Served:
    user: BackupUser
    proxy: FaultyProxy
    server: str
    volume: Any
    kept: Any
    digest: str

    def break_(self, *faults: Fault) -> None:
        with self.proxy.guard:
            # They count down.
            self.proxy.faults[:] = [dataclasses.replace(fault) for fault in faults]

    def wait_fault(self, what: str) -> None:
        [fault] = self.proxy.faults
        wait_until(lambda: fault.times < ALWAYS, what)

    def require_well(self) -> None:
        """The kept backup restores, and the bucket has what the records say and no more."""
        self.break_()
        self.user.wait_service("up")
        self.user.wait_idle()
        assert self.user.digest(self.user.restore(self.kept, self.volume)) == self.digest
        self.user.require_nothing_lent()
        whole = {row["id"] for row in self.user.backups() if row["status"] == "available"}
        require_objects(open_bucket(self.server), whole)


@pytest.fixture(scope="module")
def s3_served(server: str, s3_proxy: FaultyProxy) -> Iterator[Served]:
    with Daemon(options=s3_options(s3_proxy.url)) as daemon:
        user = BackupUser(daemon.start().wait_ready())
        volume = user.filled(seed=1, mib=24)
        yield Served(user, s3_proxy, server, volume, user.back_up(volume), user.digest(volume))
        assert daemon.stop() == 0
        assert SECRET not in daemon.words()


@pytest.fixture
def served(s3_served: Served) -> Iterator[Served]:
    yield s3_served
    s3_served.break_()


OUTAGES = {
    "wrong keys": (Fault(times=ALWAYS, status=403, code="InvalidAccessKeyId"), "refuses these keys"),
    "wrong bucket": (Fault(times=ALWAYS, status=404, code="NoSuchBucket"), "does not exist; create it"),
    "server errors": (Fault(times=ALWAYS, status=500, code="InternalError"), "500"),
    "slow down": (Fault(times=ALWAYS, status=503, code="SlowDown"), "503"),
    "resets": (Fault(times=ALWAYS, reset=True), "can't be used to"),
    "no writing": (Fault("PUT", times=ALWAYS, status=403, code="AccessDenied"), "refuses these keys to store"),
}


@pytest.mark.parametrize("outage", ["wrong keys", "wrong bucket", "server errors", "resets"])
def test_a_server_that_refuses_or_errs_is_shown_refused_with_its_reason_and_used_again(
    served: Served, outage: str
) -> None:
    fault, reason = OUTAGES[outage]
    user, records = served.user, served.user.backups()
    served.break_(fault)
    user.wait_service("down", reason)
    for method, path, body in (
        ("POST", "/backups", {"backup": {"volume_id": served.volume.id}}),
        ("POST", f"/backups/{served.kept.id}/restore", {"restore": {}}),
        ("DELETE", f"/backups/{served.kept.id}", None),
    ):
        words = refused(user, 503, path, body, method)
        assert reason in words
        assert SECRET not in words
    assert user.backups() == records
    served.require_well()


@pytest.mark.parametrize("outage", ["wrong keys", "slow down", "resets", "no writing"])
def test_a_backup_in_whose_middle_the_server_fails_goes_on_when_it_is_over(served: Served, outage: str) -> None:
    fault, reason = OUTAGES[outage]
    user = served.user
    # The first two writes are the note of its start and a pack.
    served.break_(dataclasses.replace(fault, method="PUT", skip=2))
    backup = user.cinder.backups.create(served.volume.id)
    served.wait_fault("a write to fail")
    served.break_(fault)
    user.wait_service("down", reason)
    assert user.cinder.backups.get(backup.id).status == "creating"
    served.break_()
    user.wait_backup(backup.id)
    assert user.digest(user.restore(backup)) == served.digest
    user.cinder.backups.delete(backup.id)
    user.wait_backups_gone(backup)
    served.require_well()


def flaws(method: str) -> list[Fault]:
    """One of each kind, some requests apart."""
    kinds: list[Callable[[int], Fault]] = [
        lambda skip: Fault(method, skip=skip, status=500, code="InternalError"),
        lambda skip: Fault(method, skip=skip, status=503, code="SlowDown"),
        lambda skip: Fault(method, skip=skip, reset=True),
        lambda skip: Fault(method, skip=skip, reset=True, after=True),
        *([lambda skip: Fault(method, skip=skip, truncate=True)] if method == "GET" else []),
    ]
    return [kind(number % 3) for number, kind in enumerate(kinds)]


def test_a_flaw_now_and_then_is_no_outage_and_no_byte_is_wrong(served: Served) -> None:
    user = served.user
    served.break_(*flaws("PUT"), *flaws("GET"), *flaws("DELETE"), *flaws("POST"))
    backup = user.back_up(served.volume)
    served.break_(*flaws("GET"), *flaws("HEAD"))
    assert user.digest(user.restore(backup)) == served.digest
    served.break_(*flaws("POST"), *flaws("DELETE"), *flaws("GET"))
    user.cinder.backups.delete(backup.id)
    user.wait_backups_gone(backup)
    served.require_well()


def test_answers_that_are_cut_all_the_time_fail_the_restore_or_wait_and_lose_no_record(served: Served) -> None:
    user = served.user
    target = user.create(1)
    served.break_(Fault("GET", times=ALWAYS, truncate=True))
    user.cinder.restores.restore(served.kept.id, target.id)
    user.wait_service("down")
    assert user.cinder.backups.get(served.kept.id).status == "restoring"
    served.break_()
    user.wait_volume(target.id)
    assert user.digest(target) == served.digest
    served.require_well()


def test_a_lie_that_the_backup_is_not_there_neither_deletes_nor_loses_it(served: Served) -> None:
    user = served.user
    target = user.create(1)
    # The marker is found, so the store is the right one, and then "there is no such root".
    served.break_(Fault("GET", times=ALWAYS, status=404, code="NoSuchKey"))
    user.cinder.restores.restore(served.kept.id, target.id)
    served.wait_fault("the lie to be told")
    wait_until(
        lambda: user.service()["state"] == "down" or user.cinder.volumes.get(target.id).status == "error_restoring",
        "the lie to be noticed",
    )
    assert [row["id"] for row in user.backups()] == [served.kept.id]
    served.break_()
    user.wait_idle()
    served.require_well()


def test_a_bucket_that_comes_later_is_found_without_anybody_asking(server: str) -> None:
    bucket = f"late-{next(_BUCKETS)}"
    options = s3_options(server, bucket, backup_periodic_initialization=True, reinit_driver_count=0)
    with Daemon(options=options) as daemon:
        user = BackupUser(daemon.start())
        user.wait_service("down", "does not exist; create it, or correct backup_s3_store_bucket")
        wait_until(lambda: user.service("cinder-volume")["state"] == "up", "the volumes to be served")
        volume = user.filled(seed=1)
        assert "does not exist" in refused(user, 503, "/backups", {"backup": {"volume_id": volume.id}})
        create_bucket(server, bucket)
        user.wait_service("up")
        assert user.digest(user.restore(user.back_up(volume))) == user.digest(volume)
        assert SECRET not in daemon.words()
