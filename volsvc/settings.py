"""The configuration as frozen values: read once, checked whole, handed out in parts.

Only this module reads oslo.config.  It parses the files on a ``ConfigOpts`` of its own and
converts every value, so that a bad one is found here, with its file, option and value, and
not later where it is used.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import hashlib
import os
import pathlib
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from oslo_config import cfg
from oslo_utils import netutils

from volsvc import exceptions as exc
from volsvc.conf import api as api_conf
from volsvc.conf import backend as backend_conf
from volsvc.conf import backup as backup_conf
from volsvc.conf import database as database_conf
from volsvc.conf import service as service_conf
from volsvc.options import Options

PROJECT = "volsvc"
CONFIG_NAME = "cinder.conf"

#: Of a driver's option that isn't declared here.
_SECRET_NAME = re.compile("key|secret|password|token")
#: Options whose unset value is worked out here (``_with_computed``) and that others may refer to.
_COMPUTED = ("state_path", "runtime_path", "my_ip")

_OSLO_VALUE_ERROR = re.compile(
    r"Value for option \S+ from LocationInfo\(.*detail='(?P<file>[^']*)'\) is not valid: (?P<reason>.*)"
)


@dataclass(frozen=True)
class BackendSettings:
    """One backend's options, and where its driver's and target's own are read from."""

    name: str
    options: Options
    _conf: cfg.ConfigOpts = field(repr=False, compare=False)

    @property
    def where(self) -> str:
        """The files that were read, for messages."""
        return _where(self._conf)

    def freeze(self, declared: Sequence[cfg.Opt]) -> Options:
        """The values of a driver's declared options from this backend's group.

        Raises ``DriverConfigurationError`` naming group, option and value.
        """
        try:
            return _read_backend(self._conf, self.name, declared)
        except exc.ConfigurationError as error:
            raise exc.DriverConfigurationError(reason=str(error)) from error


@dataclass(frozen=True)
class BackupSettings:
    """The backup service's options, and where its driver's own are read from."""

    options: Options
    _conf: cfg.ConfigOpts = field(repr=False, compare=False)

    @property
    def where(self) -> str:
        """The files that were read, for messages."""
        return _where(self._conf)

    def freeze(self, declared: Sequence[cfg.Opt]) -> Options:
        """The values of a driver's declared options from [DEFAULT].

        Raises ``DriverConfigurationError`` naming option and value.
        """
        conf = _same_files(self._conf, declared)
        conf.register_opts(declared)
        try:
            options = _read_group(conf, "DEFAULT", declared, self.where)
            for opt in declared:
                _check_required(opt, options, self.where)
        except exc.ConfigurationError as error:
            raise exc.DriverConfigurationError(reason=str(error)) from error
        return options


@dataclass(frozen=True)
class Settings:
    """Everything a daemon is built from."""

    service: Options
    api: Options
    database: Options
    backends: tuple[BackendSettings, ...]
    backup: BackupSettings
    files: tuple[str, ...]
    digest: str
    dirs: tuple[str, ...] = ()
    policy_file: str | None = None
    loaded_at: dt.datetime | None = None
    messaging: Options = field(default_factory=lambda: Options({}))  # oslo.messaging's groups, as written
    warnings: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        return str(self.service.host)

    def describe(self, salt: str) -> dict[str, str]:
        """``[group] name`` → value as text of every option; a secret is a digest that ``salt`` makes comparable."""
        described: dict[str, str] = {}
        fixed = (self.service, self.api, self.backup.options, self.database, self.messaging)
        for options in (*fixed, *(b.options for b in self.backends)):
            for name, value in options.items():
                text = "" if value is None else str(value)
                if options.is_secret(name):
                    text = _as_secret(text, salt)
                described[f"[{options.group}] {name}"] = text
        for name, raw in _values_in_files(self.backup._conf, "DEFAULT").items():
            if name.startswith("backup_"):
                text = _as_secret(raw[-1], salt) if _SECRET_NAME.search(name) else raw[-1]
                described.setdefault(f"[DEFAULT] {name}", text)
        for backend in self.backends:
            for name, raw in _values_in_files(backend._conf, backend.name).items():
                described.setdefault(f"[{backend.name}] {name}", raw[-1])
        return described

    def backend(self, name: str) -> BackendSettings:
        for backend in self.backends:
            if backend.name == name:
                return backend
        raise exc.ConfigurationError(
            reason=f"there is no backend {name!r}; enabled_backends has: {', '.join(b.name for b in self.backends)}"
        )


def _as_secret(text: str, salt: str) -> str:
    return f"(secret {hashlib.sha256(f'{salt}{text}'.encode()).hexdigest()[:8]})" if text else text


def find_config_files() -> list[str]:
    """The first ``cinder.conf`` of ``~/.volsvc`` and ``/etc/volsvc``, or nothing."""
    for directory in (pathlib.Path.home() / f".{PROJECT}", pathlib.Path("/etc") / PROJECT):
        path = directory / CONFIG_NAME
        if path.is_file():
            return [str(path)]
    return []


def load(config_files: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> Settings:
    """Read and check the configuration.

    Without files and directories the default search applies.  Raises ``ConfigurationError``
    with one line that names file, option and value.
    """
    files = list(config_files)
    if not files and not config_dirs:
        files = find_config_files()
    digest = _digest(files, config_dirs)
    conf = _parse(files, config_dirs)
    if _digest(files, config_dirs) != digest:
        raise exc.ConfigurationError(reason=f"{_where(conf)} changed while it was read; try again when it is whole")
    service = _read_group(conf, "DEFAULT", service_conf.OPTS)
    service = _with_computed(service)
    database = _read_group(conf, database_conf.GROUP, database_conf.OPTS)
    if database.connection is None:
        database = database.replace(connection=f"sqlite:///{service.state_path}/volsvc.sqlite")
    if service.service_down_time <= service.report_interval:
        raise exc.ConfigurationError(
            reason=f"{_where(conf)}: service_down_time is {service.service_down_time}, it must be more than "
            f"report_interval ({service.report_interval}); otherwise a healthy service counts as down between two "
            "heartbeats"
        )
    return Settings(
        service=service,
        api=_read_group(conf, "DEFAULT", api_conf.OPTS),
        database=database,
        backends=tuple(_read_backends(conf, service.enabled_backends)),
        backup=BackupSettings(_read_group(conf, "DEFAULT", backup_conf.OPTS), conf),
        files=tuple(files),
        digest=digest,
        dirs=tuple(config_dirs),
        loaded_at=dt.datetime.now(dt.UTC).replace(tzinfo=None),
        messaging=_read_messaging(conf),
        policy_file=_find_policy_file(conf, files, config_dirs),
        warnings=tuple(_near_misses(conf, service.enabled_backends)),
    )


# -- parsing ------------------------------------------------------------------------


def _parse(files: Sequence[str], dirs: Sequence[str]) -> cfg.ConfigOpts:
    for path in files:
        if not os.path.isfile(path):
            raise exc.ConfigurationError(reason=f"the configuration file {path} does not exist or is not a file")
        if not os.access(path, os.R_OK):
            raise exc.ConfigurationError(reason=f"the configuration file {path} can't be read: check its permissions")
    conf = cfg.ConfigOpts()
    conf.register_opts(service_conf.OPTS)
    conf.register_opts(api_conf.OPTS)
    conf.register_opts(backup_conf.OPTS)
    conf.register_opts(database_conf.OPTS, group=database_conf.GROUP)
    conf.register_opts(api_conf.POLICY_OPTS, group=api_conf.POLICY_GROUP)
    args = [f"--config-file={path}" for path in files] + [f"--config-dir={path}" for path in dirs]
    try:
        conf(args=args, project=PROJECT, default_config_files=[], default_config_dirs=[])
    except cfg.ConfigFileParseError as error:
        raise exc.ConfigurationError(reason=f"{error.config_file}: {_one_line(error.msg)}") from error
    except cfg.ConfigFileValueError as error:
        raise exc.ConfigurationError(reason=_one_line(error)) from error
    except (cfg.Error, UnicodeDecodeError, OSError) as error:
        where = ", ".join([*files, *dirs])
        raise exc.ConfigurationError(reason=f"{where}: {_one_line(error)}") from error
    return conf


def _read_group(conf: cfg.ConfigOpts, group: str, declared: Sequence[cfg.Opt], where: str | None = None) -> Options:
    values = {opt.dest: _value(conf, group, opt, where or _where(conf)) for opt in declared}
    return Options(values, group=group, secrets=frozenset(opt.dest for opt in declared if opt.secret))


def _value(conf: cfg.ConfigOpts, group: str, opt: cfg.Opt, where: str) -> Any:
    try:
        return getattr(conf if group == "DEFAULT" else conf[group], opt.dest)
    except (cfg.Error, ValueError) as error:
        raw = _values_in_files(conf, group).get(opt.dest)
        given = f" = {raw[-1]}" if raw else ""
        file, reason = _take_apart(error)
        raise exc.ConfigurationError(
            reason=f"{file or where}: [{group}] {opt.name}{given}: {reason}{_allowed(opt)}"
        ) from error


def _take_apart(error: Exception) -> tuple[str | None, str]:
    """The file that has the bad value, if oslo.config's error tells, and what is wrong with it."""
    text = _one_line(error)
    found = _OSLO_VALUE_ERROR.fullmatch(text)
    return (found["file"], found["reason"]) if found else (None, text)


def _read_backends(conf: cfg.ConfigOpts, names: Sequence[str]) -> list[BackendSettings]:
    if not names:
        raise exc.ConfigurationError(reason=f"{_where(conf)}: enabled_backends is empty; name at least one backend")
    if len(set(names)) != len(names):
        raise exc.ConfigurationError(reason=f"{_where(conf)}: enabled_backends names a backend twice: {list(names)}")
    known = set(conf.list_all_sections())
    backends = []
    for name in names:
        if name not in known and name != "file":
            raise exc.ConfigurationError(
                reason=f"{_where(conf)}: enabled_backends names {name!r}, but there is no group [{name}]"
            )
        backends.append(BackendSettings(name, _read_own_options(conf, name), conf))
    return backends


def _read_own_options(conf: cfg.ConfigOpts, name: str) -> Options:
    """What says which driver a backend has; a wrong value is told by its ``freeze``, so that others serve."""
    try:
        return _read_backend(conf, name, backend_conf.OPTS)
    except exc.ConfigurationError:
        return Options({opt.dest: opt.default for opt in backend_conf.OPTS}, group=name)


def _read_backend(conf: cfg.ConfigOpts, name: str, declared: Sequence[cfg.Opt]) -> Options:
    """A backend's values: its own group, else [backend_defaults], else the option's default."""
    values = {}
    where = _where(conf)
    conf = _same_files(conf)
    conf.register_opts(declared, group=name)
    conf.register_opts(declared, group=backend_conf.DEFAULTS_GROUP)
    for opt in declared:
        is_inherited = opt.dest not in _values_in_files(conf, name) and opt.dest in _values_in_files(
            conf, backend_conf.DEFAULTS_GROUP
        )
        group = backend_conf.DEFAULTS_GROUP if is_inherited else name
        values[opt.dest] = _value(conf, group, opt, where)
    options = Options(values, group=name, secrets=frozenset(opt.dest for opt in declared if opt.secret))
    for opt in declared:
        _check_required(opt, options, where)
    return options


def _check_required(opt: cfg.Opt, options: Options, where: str) -> None:
    if opt.required and options[opt.dest] is None:
        meaning = f" ({opt.help})" if opt.help else ""
        raise exc.ConfigurationError(reason=f"{where}: [{options.group}] {opt.name} is required and not set{meaning}")


def _same_files(conf: cfg.ConfigOpts, declared: Sequence[cfg.Opt] = ()) -> cfg.ConfigOpts:
    """A ``ConfigOpts`` on the files as they were parsed, without the other's options.

    Two drivers may declare one name differently, and options can't be unregistered.  The service's own are
    there, but for those that are ``declared`` anew, so that a value may say ``$state_path`` or ``$my_ip``.
    """
    fresh = cfg.ConfigOpts()
    fresh(args=[], project=PROJECT, default_config_files=[], default_config_dirs=[])
    fresh._namespace = conf._namespace
    names = {opt.dest for opt in declared}
    known = [opt for opt in service_conf.OPTS if opt.dest not in names]
    fresh.register_opts(known)
    if not names.intersection(_COMPUTED):
        computed = _with_computed(_read_group(fresh, "DEFAULT", known))
        for name in _COMPUTED:
            fresh.set_override(name, computed[name])
    return fresh


def _read_messaging(conf: cfg.ConfigOpts) -> Options:
    """What the files say to oslo.messaging; it converts the values itself when it is built."""
    values = {}
    for group in conf.list_all_sections():
        if group.startswith("oslo_messaging"):
            for name, raw in _values_in_files(conf, group).items():
                values[f"{group}.{name}"] = "\n".join(raw)
    return Options(values, group="oslo_messaging", secrets=frozenset(values))


def _with_computed(service: Options) -> Options:
    """With the defaults that depend on the machine and the user."""
    state_path = service.state_path
    if state_path is None:
        state_path = "/var/lib/volsvc" if os.geteuid() == 0 else str(pathlib.Path.home() / f".{PROJECT}" / "state")
    state_path = os.path.abspath(os.path.expanduser(state_path))
    runtime_path = os.path.abspath(os.path.expanduser(service.runtime_path or os.path.join(state_path, "run")))
    transport_url = service.transport_url or f"unix://{runtime_path}/rpc"
    return service.replace(
        state_path=state_path,
        runtime_path=runtime_path,
        transport_url=transport_url,
        my_ip=service.my_ip or netutils.get_my_ipv4(),
    )


def _find_policy_file(conf: cfg.ConfigOpts, files: Sequence[str], dirs: Sequence[str]) -> str | None:
    """Where the policy file is or would be; None when there is no configuration to be beside of."""
    name: str = _read_group(conf, api_conf.POLICY_GROUP, api_conf.POLICY_OPTS).policy_file
    places = [os.path.dirname(os.path.abspath(path)) for path in files] + [os.path.abspath(path) for path in dirs]
    if os.path.isabs(name):
        return name
    return os.path.join(places[0], name) if places else None


def _near_misses(conf: cfg.ConfigOpts, backends: Sequence[str]) -> list[str]:
    """Warnings for names in [DEFAULT] and backends' groups that are one slip away from an option of ours.

    Cinder has a thousand options that mean nothing here, so an unknown name alone is no news.
    """
    known = {opt.dest for opt in (*service_conf.OPTS, *api_conf.OPTS, *backup_conf.OPTS)}
    unknown = set(_values_in_files(conf, "DEFAULT")) - known
    if any(name.startswith("backup_") for name in unknown):
        # A slip here would keep the backups in another place than the one that was meant.
        from volsvc.backup.drivers import posix, s3_options

        known |= {opt.dest for opt in (*posix.OPTS, *s3_options.OPTS)}
    found = _misses_in(conf, "DEFAULT", unknown, known)
    for group in (backend_conf.DEFAULTS_GROUP, *backends):
        found += _misses_of_backend(conf, group)
    return sorted(found)


def _misses_of_backend(conf: cfg.ConfigOpts, group: str) -> list[str]:
    """The same for the group of a backend with a driver of ours; what others declare isn't known yet."""
    values = _values_in_files(conf, group)
    known = {opt.dest for opt in backend_conf.OPTS}
    if not values.keys() - known or values.get("volume_driver", ["file"])[-1] != "file":
        return []
    from volsvc.drivers.file import FileDriver
    from volsvc.targets import nbd_options

    known |= {opt.dest for opt in (*FileDriver.declared_options(), *nbd_options.OPTS)}
    return _misses_in(conf, group, values.keys() - known, known)


def _misses_in(conf: cfg.ConfigOpts, group: str, unknown: Set[str], known: Set[str]) -> list[str]:
    found = []
    for name in unknown - known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if close:
            found.append(f"{_where(conf)}: [{group}] {name} is not an option; did you mean {close[0]}?")
    return found


def _values_in_files(conf: cfg.ConfigOpts, group: str) -> dict[str, list[str]]:
    """What the files say in a group, as text: oslo.config itself only answers for registered options."""
    values: dict[str, list[str]] = {}
    for sections in reversed(getattr(conf._namespace, "_parsed", ())):
        for name, raw in sections.get(group, {}).items():
            values[name.replace("-", "_")] = list(raw)
    return values


def _digest(files: Sequence[str], dirs: Sequence[str]) -> str:
    """A short fingerprint of the files' contents, to see which hosts of a fleet run which file.

    A file that can't be read counts as empty here; parsing it says what is wrong.
    """
    digest = hashlib.sha256()
    paths = list(files)
    for directory in dirs:
        paths.extend(str(p) for p in sorted(pathlib.Path(directory).glob("*.conf")))
    for path in paths:
        with contextlib.suppress(OSError):
            digest.update(pathlib.Path(path).read_bytes())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def _where(conf: cfg.ConfigOpts) -> str:
    return ", ".join([*(conf.config_file or ()), *(conf.config_dir or ())]) or "the defaults"


def _allowed(opt: cfg.Opt) -> str:
    choices = getattr(opt.type, "choices", None)
    return f" (one of: {', '.join(map(str, choices))})" if choices else f" ({opt.type!r})"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
