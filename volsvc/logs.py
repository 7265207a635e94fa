"""Setting up oslo.log from the same files, and reopening log files for logrotate."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log as oslo_log

from volsvc import exceptions as exc
from volsvc.settings import Settings

PROJECT = "volsvc"

#: Libraries that say more at INFO than an operator wants.
QUIET = (
    "oslo_messaging=WARNING",
    "oslo_service=WARNING",
    "oslo_service.backend._threading.service=ERROR",  # one process is what is wanted here, no reason for a warning
    "cotyledon=WARNING",
    "sqlalchemy=WARNING",
    "cheroot=WARNING",
    "alembic=WARNING",
)


def setup(config_files: Sequence[str], config_dirs: Sequence[str], *, is_debug: bool = False) -> cfg.ConfigOpts:
    """Configure logging and return the ``ConfigOpts`` that oslo's own libraries read.

    Our own options are not on it: they are in ``settings``.
    """
    conf = cfg.CONF
    conf.reset()
    oslo_log.register_options(conf)
    oslo_log.set_defaults(default_log_levels=[*oslo_log.get_default_log_levels(), *QUIET])
    args = [f"--config-file={path}" for path in config_files] + [f"--config-dir={path}" for path in config_dirs]
    if is_debug:
        args.append("--debug")
    conf(args=args, project=PROJECT, default_config_files=[], default_config_dirs=[])
    oslo_log.setup(conf, PROJECT)
    return conf


def read_options(config_files: Sequence[str], config_dirs: Sequence[str]) -> dict[str, Any]:
    """Every option of oslo.log with its converted value; raises ``ConfigurationError`` for a bad one.

    A log file that could not be written is refused here, before anything logs to it.
    """
    conf = cfg.ConfigOpts()
    oslo_log.register_options(conf)
    args = [f"--config-file={path}" for path in config_files] + [f"--config-dir={path}" for path in config_dirs]
    said = io.StringIO()
    try:
        # For an option that is also an argument oslo.config prints what is wrong, and exits.
        with contextlib.redirect_stderr(said):
            conf(args=args, project=PROJECT, default_config_files=[], default_config_dirs=[])
        values = {name: conf[name] for name in conf}
    except SystemExit as error:
        reason = said.getvalue().strip().splitlines()[-1:] or ["an option of the logs can't be read"]
        raise exc.ConfigurationError(reason=f"{', '.join(config_files)}: {reason[0]}") from error
    except (cfg.Error, ValueError, OSError) as error:
        raise exc.ConfigurationError(reason=f"{', '.join(config_files)}: {exc.describe(error)}") from error
    if values.get("log_file"):
        path = os.path.join(values.get("log_dir") or "", values["log_file"])
        directory = os.path.dirname(os.path.abspath(path))
        if not os.access(path if os.path.exists(path) else directory, os.W_OK):
            raise exc.ConfigurationError(reason=f"log_file {path} can't be written; name another")
    return values


class LogReload:
    """Logging's side of a reload."""

    part = "logging"
    is_slow = False

    def __init__(self, settings: Settings, *, is_debug: bool) -> None:
        self.options: Sequence[str] = ()
        self._is_debug = is_debug
        self._values = read_options(settings.files, settings.dirs)
        self._next: tuple[dict[str, Any], Settings] | None = None

    def prepare(self, new: Settings, tick: object) -> list[LogReload]:
        values = read_options(new.files, new.dirs)
        self._next = (values, new)
        self.options = sorted(f"[DEFAULT] {name}" for name in values if values[name] != self._values.get(name))
        return [self] if self.options else []

    def apply(self) -> None:
        if self._next is None:
            return
        values, new = self._next
        old = _file_handlers()
        setup(new.files, new.dirs, is_debug=self._is_debug)
        for handler in old:
            handler.close()
        self._values = values

    def discard(self) -> None:
        self._next = None

    def drain(self, timeout_s: float) -> None:
        return None


def reopen() -> None:
    """Close and reopen every log file, so that a rotated one is let go."""
    for handler in _file_handlers():
        handler.acquire()
        try:
            if handler.stream is not None:
                handler.stream.close()
            handler.stream = handler._open()
        finally:
            handler.release()


def _file_handlers() -> list[logging.FileHandler]:
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    found: dict[int, logging.FileHandler] = {}
    for logger in loggers:
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                found[id(handler)] = handler
    return list(found.values())


def report_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        logging.getLogger(__name__).warning("%s", warning)
