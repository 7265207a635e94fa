"""What all daemons do the same: arguments, configuration, logging, launcher, exit code."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import volsvc
from volsvc import exceptions as exc

if TYPE_CHECKING:
    from volsvc.foundations import Foundations
    from volsvc.service import Part

PartsFactory = Callable[["Foundations", argparse.Namespace], "Sequence[Part]"]
ReadyCallback = Callable[["Sequence[Part]"], None]

EXIT_BAD_START = 1


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-file", action="append", default=[], metavar="PATH", help="configuration file; may be repeated"
    )
    parser.add_argument(
        "--config-dir", action="append", default=[], metavar="PATH", help="directory of *.conf files; may be repeated"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {volsvc.__version__}")


def build_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Without --config-file and --config-dir, cinder.conf is looked for in ~/.volsvc and /etc/volsvc.",
    )
    add_config_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="log at DEBUG")
    return parser


def run(
    parser: argparse.ArgumentParser,
    build_parts: PartsFactory,
    argv: Sequence[str] | None = None,
    on_ready: ReadyCallback = lambda parts: None,
) -> int:
    """Run a daemon until it is told to stop; returns its exit code.

    What is wrong with the configuration is one line on stderr and exit code 1.
    """
    args = parser.parse_args(argv)
    try:
        return _serve(args, build_parts, on_ready)
    except (exc.VolsvcError, OSError) as error:
        print(f"{parser.prog}: {exc.describe(error)}", file=sys.stderr)
        return EXIT_BAD_START


def _keep_eventlet_out() -> None:
    """oslo's libraries import eventlet wherever it is installed; on threads it only costs time and memory."""
    sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]


def _serve(args: argparse.Namespace, build_parts: PartsFactory, on_ready: ReadyCallback) -> int:
    _keep_eventlet_out()
    from oslo_service import backend

    backend.init_backend(backend.BackendType.THREADING)

    from volsvc import logs, settings
    from volsvc.foundations import Foundations
    from volsvc.service import VolsvcService
    from volsvc.signals import Launcher, SignalFlags

    SignalFlags.block()
    loaded = settings.load(args.config_file, args.config_dir)
    logs.read_options(loaded.files, loaded.dirs)
    oslo_conf = logs.setup(loaded.files, loaded.dirs, is_debug=args.debug)
    logs.report_warnings(loaded.warnings)
    flags = SignalFlags(loaded.service.graceful_shutdown_timeout)
    launcher = Launcher(oslo_conf, flags)
    flags.unblock()
    with _naming_files(loaded.files):
        foundations = Foundations(loaded)
        parts = build_parts(foundations, args)
        service = VolsvcService(
            foundations,
            parts,
            flags,
            load_settings=lambda: settings.load(loaded.files, loaded.dirs),
            on_ready=lambda: on_ready(parts),
            is_debug=args.debug,
        )
        launcher.launch_service(service)
    _leave_hung_threads_behind()
    return 0


@contextlib.contextmanager
def _naming_files(files: Sequence[str]) -> Iterator[None]:
    """An option that turns out to be wrong when it is used is looked for in these files."""
    try:
        yield
    except exc.ConfigurationError as error:
        where = ", ".join(files)
        if not where or where in str(error):
            raise
        raise exc.ConfigurationError(f"{where}: {error}") from error


def _leave_hung_threads_behind() -> None:
    """A driver call that never comes back must not keep the process: Python would wait for its thread."""
    hung = [t.name for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    if hung:
        logging.getLogger(__name__).warning("these threads did not end and are left behind: %s", ", ".join(hung))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
