"""Setting up oslo.log from the same files, and reopening log files for logrotate."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from oslo_config import cfg
from oslo_log import log as oslo_log

PROJECT = "volsvc"

#: Libraries that say more at INFO than an operator wants.
QUIET = (
    "oslo_messaging=WARNING",
    "oslo_service=WARNING",
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
    oslo_log.register_options(conf)
    oslo_log.set_defaults(default_log_levels=[*oslo_log.get_default_log_levels(), *QUIET])
    args = [f"--config-file={path}" for path in config_files] + [f"--config-dir={path}" for path in config_dirs]
    if is_debug:
        args.append("--debug")
    conf(args=args, project=PROJECT, default_config_files=[], default_config_dirs=[])
    oslo_log.setup(conf, PROJECT)
    return conf


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
