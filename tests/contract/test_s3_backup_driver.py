"""The S3 backup driver keeps the contract on a real server, and says rightly what goes wrong."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import itertools
import os
import pathlib
import socket
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import MARKER_NAME, BackupDriverContext
from volsvc.backup.drivers.s3 import S3BackupDriver
from volsvc.backup.engine.create import CreateRequest, create_backup
from volsvc.backup.engine.restore import restore_backup
from volsvc.drivers.base import NoWork
from volsvc.testing.backup_driver_contract import MIB, BackupDriverContract, BackupDriverHarness, names_of, start
from volsvc.testing.memory_blocks import MemorySink, MemorySource
from volsvc.testing.s3_server import Fault, FaultyProxy, create_bucket, faulty_proxy, s3_server
from volsvc.testing.snapshots import options_of

_BUCKETS = itertools.count(1)
SECRET = "not-to-be-seen-anywhere"


class S3Harness(BackupDriverHarness):
    def __init__(self, url: str, bucket: str, **options: Any) -> None:
        self.url = url
        self.bucket = bucket
        self.options = options

    def new_driver(self, **options: Any) -> S3BackupDriver:
        values = {
            "backup_s3_endpoint_url": self.url,
            "backup_s3_store_bucket": self.bucket,
            "backup_s3_store_access_key": "access",
            "backup_s3_store_secret_key": SECRET,
            "backup_s3_retry_max_attempts": 2,
            "backup_s3_timeout": 20,
            **self.options,
            **options,
        }
        return S3BackupDriver(BackupDriverContext("host", options_of(S3BackupDriver, **values), "/nowhere"))

    @contextlib.contextmanager
    def swap_store(self) -> Iterator[None]:
        helper = self.new_driver()
        helper.do_setup()
        marker = helper.get(MARKER_NAME)
        helper.delete(MARKER_NAME)
        yield
        helper.put(MARKER_NAME, marker)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def harness(server: str) -> S3Harness:
    bucket = f"bucket{os.getpid()}-{next(_BUCKETS)}"
    create_bucket(server, bucket)
    return S3Harness(server, bucket)


@pytest.fixture
def proxy(server: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(server) as proxy:
        yield proxy


@pytest.mark.xdist_group("s3")
class TestS3BackupDriver(BackupDriverContract):
    @pytest.fixture
    def harness(self, server: str) -> S3Harness:
        bucket = f"bucket{os.getpid()}-{next(_BUCKETS)}"
        create_bucket(server, bucket)
        return S3Harness(server, bucket)


pytestmark = pytest.mark.xdist_group("s3")


# -- configuration ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"backup_s3_store_access_key": None}, "backup_s3_store_access_key"),
        ({"backup_s3_store_secret_key": ""}, "backup_s3_store_secret_key"),
        ({"backup_s3_store_bucket": ""}, "backup_s3_store_bucket"),
        ({"backup_s3_endpoint_url": "127.0.0.1:80"}, "backup_s3_endpoint_url"),
        ({"backup_s3_endpoint_url": "ftp://host"}, "backup_s3_endpoint_url"),
        ({"backup_s3_ca_cert_file": "/nothing/there.pem"}, "backup_s3_ca_cert_file"),
        ({"backup_s3_ca_cert_file": os.devnull}, "backup_s3_ca_cert_file"),
    ],
)
def test_what_can_be_right_nowhere_is_a_configuration_error(options: dict[str, Any], named: str) -> None:
    values = {"backup_s3_store_access_key": "access", **options}
    harness = S3Harness("http://127.0.0.1:9", "bucket", **values)
    harness.options = {key: value for key, value in harness.options.items() if value is not None}
    driver = harness.new_driver()
    if options.get("backup_s3_store_access_key", "") is None:
        driver.options = driver.options.replace(backup_s3_store_access_key=None)
    with pytest.raises(exc.DriverConfigurationError, match=named):
        driver.do_setup()


def test_without_its_library_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(exc.MissingDriverLibrary, match=r"obstore.*volsvc\[s3\]"):
        S3Harness("http://127.0.0.1:9", "bucket").new_driver().do_setup()


def test_secrets_are_shown_nowhere(harness: S3Harness) -> None:
    driver = harness.new_driver(backup_s3_store_bucket="nothing")
    driver.do_setup()
    with pytest.raises(exc.BackendUnavailable) as caught:
        driver.check()
    assert SECRET not in f"{driver} {driver!r} {caught.value}"


def test_virtual_addressing_puts_the_bucket_before_the_host(harness: S3Harness) -> None:
    driver = harness.new_driver(backup_s3_addressing_style="virtual")
    port = harness.url.rpartition(":")[2]
    assert driver._endpoint() == f"http://{harness.bucket}.127.0.0.1:{port}"


# -- the store is not there -----------------------------------------------------------------


def test_a_missing_bucket_is_unavailable_for_every_call(harness: S3Harness) -> None:
    driver = harness.new_driver(backup_s3_store_bucket="nothing-here")
    driver.do_setup()
    for call in (
        driver.check,
        driver.read_identity,
        lambda: driver.get("a"),
        lambda: driver.get_range("a", 0, 1),
        lambda: driver.put("a", b""),
        lambda: driver.put_if_absent("a", b""),
        lambda: driver.delete("a"),
        lambda: list(driver.list("a/")),
    ):
        with pytest.raises(exc.BackendUnavailable, match="nothing-here"):
            call()


def test_an_unknown_server_is_unavailable(harness: S3Harness) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        driver = harness.new_driver(backup_s3_endpoint_url=url, backup_s3_retry_max_attempts=0)
        driver.do_setup()
        with pytest.raises(exc.BackendUnavailable):
            driver.check()


def test_a_server_that_never_answers_is_given_up(harness: S3Harness) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        driver = harness.new_driver(backup_s3_endpoint_url=url, backup_s3_retry_max_attempts=0, backup_s3_timeout=0.3)
        driver.do_setup()
        for call in (driver.check, lambda: driver.put("a", b"1")):
            with pytest.raises(exc.BackendUnavailable):
                call()


def test_refused_keys_are_unavailable_and_mended_at_the_server(harness: S3Harness, proxy: FaultyProxy) -> None:
    driver = harness.new_driver(backup_s3_endpoint_url=proxy.url)
    driver.do_setup()
    for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"):
        proxy.faults = [Fault(times=1, status=403, code=code)]
        with pytest.raises(exc.BackendUnavailable, match=f"refuses these keys.*{code}"):
            driver.check()
        proxy.faults = [Fault(times=1, status=403, code=code)]
        with pytest.raises(exc.BackendUnavailable, match=f"refuses these keys.*{code}"):
            driver.put("name", b"1")
    driver.check()


@pytest.mark.parametrize(("status", "code"), [(507, "InsufficientStorage"), (403, "QuotaExceeded")])
def test_no_room_is_said_as_such(harness: S3Harness, proxy: FaultyProxy, status: int, code: str) -> None:
    driver = harness.new_driver(backup_s3_endpoint_url=proxy.url, backup_s3_retry_max_attempts=0)
    start_driver(driver)
    proxy.faults = [Fault("PUT", times=1, status=status, code=code)]
    with pytest.raises(exc.StorageFull):
        driver.put("a", b"1")


# -- faults that pass -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(times=2, status=500, code="InternalError"),
        Fault(times=2, status=503, code="SlowDown"),
        Fault("GET", times=2, reset=True),
        Fault("GET", times=2, truncate=True),
    ],
    ids=["500", "503", "reset", "truncated"],
)
def test_a_fault_that_passes_is_not_seen(harness: S3Harness, proxy: FaultyProxy, fault: Fault) -> None:
    driver = harness.new_driver(backup_s3_endpoint_url=proxy.url, backup_s3_retry_max_attempts=4)
    start_driver(driver)
    content = os.urandom(2 * MIB)
    backup_id = str(uuid.uuid4())
    proxy.faults = [Fault(**{**vars(fault), "skip": 1})]
    create_backup(driver, CreateRequest(backup_id, "now", pack_bytes=MIB), MemorySource(content), NoWork())
    proxy.faults = [Fault(**vars(fault))]
    sink = MemorySink(len(content))
    restore_backup(driver, backup_id, sink, NoWork(), is_blank=True)
    assert sink.synced == content
    assert len(proxy.requests) > 6


@pytest.mark.parametrize(
    "fault",
    [
        Fault(times=1000, status=500, code="InternalError"),
        Fault(times=1000, reset=True),
        Fault("GET", times=1000, truncate=True),
    ],
    ids=["500", "reset", "truncated"],
)
def test_a_fault_that_stays_is_unavailable(harness: S3Harness, proxy: FaultyProxy, fault: Fault) -> None:
    driver = harness.new_driver(backup_s3_endpoint_url=proxy.url, backup_s3_retry_max_attempts=1)
    start_driver(driver)
    driver.put("a", os.urandom(MIB))
    proxy.faults = [Fault(**vars(fault))]
    with pytest.raises(exc.BackendUnavailable):
        driver.get("a")
    proxy.faults = []
    assert len(driver.get("a")) == MIB


def test_a_put_whose_answer_was_lost_is_no_error(harness: S3Harness, proxy: FaultyProxy) -> None:
    """The root may be refused as existing by the second try of one request."""
    driver = harness.new_driver(backup_s3_endpoint_url=proxy.url, backup_s3_retry_max_attempts=4)
    start_driver(driver)
    backup_id = str(uuid.uuid4())
    request = CreateRequest(backup_id, "now")
    for skip in range(4):
        proxy.faults = [Fault("PUT", times=1, skip=skip, reset=True, after=True)]
        with contextlib.suppress(exc.BackendUnavailable):
            create_backup(driver, request, MemorySource(b"data" * MIB), NoWork())
    proxy.faults = []
    create_backup(driver, request, MemorySource(b"data" * MIB), NoWork())
    sink = MemorySink(4 * MIB)
    restore_backup(driver, backup_id, sink, NoWork(), is_blank=True)
    assert sink.synced == b"data" * MIB


# -- TLS ----------------------------------------------------------------------------------------


class Authority:
    """An authority of our own, and a server's certificate that it signed: three files."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.authority = directory / "ca.pem"
        self.certificate = directory / "server.pem"
        self.key = directory / "server.key"
        ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.authority.write_bytes(_certify("volsvc test authority", ca_key, ca_key, is_authority=True))
        self.certificate.write_bytes(_certify("127.0.0.1", server_key, ca_key, is_authority=False))
        encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.key.write_bytes(server_key.private_bytes(*encoding))


def _certify(
    name: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> bytes:
    now = dt.datetime.now(dt.UTC)
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "volsvc test authority")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(host, critical=False)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def test_a_private_authority_is_trusted_when_it_is_given(tmp_path: pathlib.Path) -> None:
    files = Authority(tmp_path)
    with s3_server(str(files.certificate), str(files.key)) as url:
        harness = S3Harness(url, "bucket", backup_s3_retry_max_attempts=0)
        driver = harness.new_driver()
        driver.do_setup()
        with pytest.raises(exc.BackendUnavailable, match="certificate"):
            driver.check()
        for options in ({"backup_s3_ca_cert_file": str(files.authority)}, {"backup_s3_verify_ssl": False}):
            driver = harness.new_driver(**options)
            driver.do_setup()
            with pytest.raises(exc.BackendUnavailable, match="does not exist"):
                driver.check()


def start_driver(driver: S3BackupDriver) -> None:
    driver.do_setup()
    driver.check()
    if driver.read_identity() is None:
        driver.write_identity(str(uuid.uuid4()))


def test_two_daemons_share_a_bucket(harness: S3Harness) -> None:
    first, second = start(harness), start(harness)
    first.put("a", b"1")
    assert second.get("a") == b"1"
    assert names_of(first) == names_of(second)
