"""A backup store in an S3 bucket: Amazon's, Ceph's, MinIO's or any other that refuses to overwrite on request.

Option names are Cinder's.  Refused keys, a missing bucket and an unknown host are recoverable
errors: each is as often mended at the store (a key enabled, a policy changed, the bucket made)
as in our file, and after a change of the file a reload tries again anyway.  Only what can be
right nowhere is a configuration error: no keys, an endpoint that is no URL, a CA file that isn't
there.
"""

from __future__ import annotations

import base64
import datetime as dt
import importlib
import itertools
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import BackupDriver, BackupDriverContext, Data, ObjectInfo, check_name, check_prefix
from volsvc.backup.drivers.s3_options import OPTS
from volsvc.driver_libraries import missing_library

_PAGE = 1000
#: What S3 servers say when there is no room or the quota is used up.
_FULL_WORDS = ("QuotaExceeded", "InsufficientStorage", "StorageFull", "507 ")
#: Refused lists come as an error like any other from the library.
_REFUSED_WORDS = ("403 Forbidden", "401 Unauthorized")
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")
_CAUSE = re.compile(r'(?:message|error): "([^"]{1,200})"')
_RETRY_BACKOFF = {"init_backoff": dt.timedelta(milliseconds=200), "max_backoff": dt.timedelta(seconds=5), "base": 2}


class S3BackupDriver(BackupDriver):
    # One connection rarely fills a network.
    parallel_puts = 3

    @classmethod
    def declared_options(cls) -> Sequence[Any]:
        return OPTS

    def __init__(self, context: BackupDriverContext) -> None:
        super().__init__(context)
        self._bucket: str = self.options.backup_s3_store_bucket
        self._obstore: Any = None
        self._store: Any = None

    def __str__(self) -> str:
        where = self.options.backup_s3_endpoint_url or f"AWS {self.options.backup_s3_region}"
        return f"the bucket {self._bucket} at {where}"

    # -- initialisation -------------------------------------------------------------------

    def do_setup(self) -> None:
        config, client = self._configuration()
        try:
            self._obstore = importlib.import_module("obstore")
            store_class = importlib.import_module("obstore.store").S3Store
        except ImportError as error:
            raise missing_library(error, "backup_driver = s3") from error
        timeout_s = float(self.options.backup_s3_timeout)
        tries = int(self.options.backup_s3_retry_max_attempts)
        try:
            self._store = store_class(
                self._bucket,
                config=config,
                client_options=client,
                retry_config={
                    "max_retries": tries,
                    "retry_timeout": dt.timedelta(seconds=timeout_s * (tries + 1)),
                    "backoff": _RETRY_BACKOFF,
                },
            )
        except Exception as error:
            raise exc.DriverConfigurationError(reason=f"{self}: {_one_line(error)}") from error

    def check(self) -> None:
        # An answer to the list says: there is such a bucket, and these keys may look into it.
        try:
            for _ in self._obstore.list(self._store, prefix="roots", chunk_size=1):
                break
        except Exception as error:
            raise self._translate(error, "list it") from error

    # -- objects -----------------------------------------------------------------------------

    def put(self, name: str, data: Data) -> None:
        check_name(name)
        try:
            self._obstore.put(self._store, name, data, mode="overwrite", use_multipart=False)
        except Exception as error:
            raise self._translate(error, f"store {name}") from error

    def put_if_absent(self, name: str, data: Data) -> None:
        check_name(name)
        kinds = self._obstore.exceptions
        try:
            self._obstore.put(self._store, name, data, mode="create", use_multipart=False)
        except (kinds.AlreadyExistsError, kinds.PreconditionError) as error:
            raise exc.BackupObjectExists(store=str(self), id=name) from error
        except Exception as error:
            raise self._translate(error, f"store {name}") from error

    def get(self, name: str) -> bytes:
        check_name(name)
        return self._read(name, lambda: self._obstore.get(self._store, name).bytes())

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        check_name(name)
        if not length:
            return b""
        return self._read(name, lambda: self._obstore.get_range(self._store, name, start=offset, length=length))

    def list(self, prefix: str) -> Iterator[Sequence[ObjectInfo]]:
        check_prefix(prefix)
        last: str | None = None
        attempt = 0
        while True:
            try:
                # Names come in order, so a list that was cut goes on behind the last one.
                pages = self._obstore.list(self._store, prefix.rstrip("/") or None, offset=last, chunk_size=_PAGE)
                for page in filter(None, pages):
                    last, attempt = page[-1]["path"], 0
                    yield [ObjectInfo(item["path"], item["size"]) for item in page]
                return
            except Exception as error:
                if not self._may_retry(error, attempt):
                    raise self._translate(error, f"list {prefix}") from error
                attempt += 1

    def _read(self, name: str, fetch: Callable[[], Any]) -> bytes:
        for attempt in itertools.count():
            try:
                return bytes(fetch())
            except Exception as error:
                text = str(error)
                if "InvalidRange" in text or "start offset" in text.lower():
                    return b""
                if not self._may_retry(error, attempt):
                    raise self._translate(error, f"read {name}", name) from error
        raise AssertionError("unreachable")

    def _may_retry(self, error: Exception, attempt: int) -> bool:
        """The library itself tries again for an answer that failed, not for one that was cut."""
        return "response body error" in str(error) and attempt < self.options.backup_s3_retry_max_attempts

    def delete(self, name: str) -> None:
        self.delete_many([name])

    def delete_many(self, names: Sequence[str]) -> None:
        for name in names:
            check_name(name)
        for start in range(0, len(names), _PAGE):
            try:
                self._obstore.delete(self._store, list(names[start : start + _PAGE]))
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise self._translate(error, "delete objects") from error
            except Exception as error:
                raise self._translate(error, "delete objects") from error

    def close(self) -> None:
        self._store = None

    # -- configuration ------------------------------------------------------------------------

    def _configuration(self) -> tuple[dict[str, Any], dict[str, Any]]:
        options = self.options
        if not (options.backup_s3_store_access_key and options.backup_s3_store_secret_key):
            raise exc.DriverConfigurationError(
                reason="backup_s3_store_access_key and backup_s3_store_secret_key must both be set"
            )
        if not self._bucket:
            raise exc.DriverConfigurationError(reason="backup_s3_store_bucket is empty")
        config: dict[str, Any] = {
            "access_key_id": options.backup_s3_store_access_key,
            "secret_access_key": options.backup_s3_store_secret_key,
            "region": options.backup_s3_region,
            "virtual_hosted_style_request": options.backup_s3_addressing_style == "virtual",
        }
        client: dict[str, Any] = {
            "timeout": dt.timedelta(seconds=float(options.backup_s3_timeout)),
            "connect_timeout": dt.timedelta(seconds=min(10.0, float(options.backup_s3_timeout))),
        }
        is_http = False
        if options.backup_s3_endpoint_url:
            config["endpoint"] = self._endpoint()
            is_http = config["endpoint"].startswith("http:")
        client["allow_http"] = is_http
        if options.backup_s3_sse_customer_key:
            config["server_side_encryption"] = "sse-c"
            config["sse_customer_key_base64"] = base64.b64encode(options.backup_s3_sse_customer_key.encode()).decode()
        proxy = options.backup_s3_http_proxy if is_http else options.backup_s3_https_proxy
        if proxy:
            client["proxy_url"] = proxy
        if not options.backup_s3_verify_ssl:
            client["allow_invalid_certificates"] = True
        elif options.backup_s3_ca_cert_file:
            client["root_certificate"] = _read_certificates(options.backup_s3_ca_cert_file)
        return config, client

    def _endpoint(self) -> str:
        url = str(self.options.backup_s3_endpoint_url).rstrip("/")
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise exc.DriverConfigurationError(
                reason=f"backup_s3_endpoint_url is {url!r}; it must be like https://host:port"
            )
        if self.options.backup_s3_addressing_style == "virtual":
            return urllib.parse.urlunsplit(parts._replace(netloc=f"{self._bucket}.{parts.netloc}"))
        return url

    # -- errors ----------------------------------------------------------------------------------

    def _translate(self, error: Exception, doing: str, name: str | None = None) -> exc.VolsvcError:
        """The service's error for one of the library's; ``name``: the object whose absence is an answer."""
        if isinstance(error, exc.VolsvcError):
            return error
        if self._store is None or self._obstore is None:
            return exc.BackendUnavailable(reason=f"{self} is closed or was not set up; it can't be used to {doing}")
        kinds = self._obstore.exceptions
        text = _one_line(error)
        if any(word in text for word in _FULL_WORDS):
            return exc.StorageFull(reason=f"no room in {self} to {doing} ({text})")
        if "NoSuchBucket" in text:
            return exc.BackendUnavailable(reason=f"{self} does not exist; create it, or correct backup_s3_store_bucket")
        if isinstance(error, FileNotFoundError) and name is not None:
            return exc.BackupObjectMissing(store=str(self), id=name)
        is_refused = isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError)
        if is_refused or any(word in text for word in _REFUSED_WORDS):
            return exc.BackendUnavailable(
                reason=f"{self} refuses these keys to {doing}; correct them here or what they may do there ({text})"
            )
        if isinstance(error, kinds.BaseError | FileNotFoundError):
            return exc.BackendUnavailable(reason=f"{self} can't be used to {doing}: {text}")
        return exc.DriverError(reason=f"can't {doing} in {self}: {exc.describe(error)}")


def _read_certificates(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise exc.DriverConfigurationError(reason=f"backup_s3_ca_cert_file {path}: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in text:
        raise exc.DriverConfigurationError(reason=f"backup_s3_ca_cert_file {path} has no certificate in PEM form")
    return text


def _one_line(error: Exception) -> str:
    """The library's first sentence, and from the debug text below it why a connection failed."""
    text, _, debug = str(error).partition("Debug source:")
    causes = [f"the server's certificate is not trusted: {found}" for found in _CERTIFICATE.findall(debug)]
    causes += _CAUSE.findall(debug)
    if "TimedOut" in debug:
        causes.append("no answer within backup_s3_timeout")
    return "; ".join([" ".join(text.split())[:500], *causes[:1]])
