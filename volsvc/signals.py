"""Signals for one process: handlers only set flags, the main loop does the work.

SIGTERM and SIGINT ask to stop, a second one ends the process at once.  SIGHUP asks for a
reload; any number of them while one runs make exactly one more.  The launcher is
oslo.service's, unforked, with these handlers instead of its own: its own raise out of the
main loop on SIGHUP.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from types import FrameType

from oslo_config import cfg
from oslo_service import service as oslo_service

LOG = logging.getLogger(__name__)

HANDLED = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
EXIT_NOW = 1


class SignalFlags:
    """What signals have asked for, and a file descriptor that wakes the main loop.

    Call ``block`` before anything else of the process, ``unblock`` when the handlers are in
    place and before the first thread or child exists: masks are inherited.
    """

    def __init__(self, shutdown_timeout_s: float) -> None:
        self.stop_requested = False
        self.reload_requested = False
        self._shutdown_timeout_s = shutdown_timeout_s
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._deadline_thread: threading.Thread | None = None

    @staticmethod
    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)

    @staticmethod
    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def start_deadline_thread(self) -> None:
        """A thread that ends the process when stopping takes too long, even with the main thread stuck in C."""
        self._deadline_thread = threading.Thread(target=self._enforce_deadline, name="shutdown-deadline", daemon=True)
        self._deadline_thread.start()

    def wait(self, timeout_s: float) -> None:
        """Sleep until a signal comes or the time is over."""
        ready, _, _ = select.select([self._wake_read], [], [], timeout_s)
        if ready:
            try:
                os.read(self._wake_read, 4096)
            except BlockingIOError:
                pass

    def set_shutdown_timeout(self, seconds: float) -> None:
        """A reload has changed ``graceful_shutdown_timeout``."""
        self._shutdown_timeout_s = seconds

    def request_reload(self) -> None:
        """As if SIGHUP had come, from another thread of the process."""
        self.reload_requested = True
        os.write(self._wake_write, b"x")

    def request_stop(self) -> None:
        """As if SIGTERM had come, from the process itself."""
        self._on_stop(signal.SIGTERM, None)

    def _on_stop(self, signo: int, frame: FrameType | None) -> None:
        if self.stop_requested:
            os._exit(EXIT_NOW)
        self.stop_requested = True
        os.write(self._stop_write, b"x")
        os.write(self._wake_write, b"x")

    def _on_reload(self, signo: int, frame: FrameType | None) -> None:
        self.reload_requested = True

    def _enforce_deadline(self) -> None:
        os.read(self._stop_read, 1)
        time.sleep(self._shutdown_timeout_s)
        LOG.warning(
            "stopping took more than graceful_shutdown_timeout (%d s); what still ran goes on at the next start",
            self._shutdown_timeout_s,
        )
        os._exit(0)


class Launcher(oslo_service.ProcessLauncher):  # type: ignore[misc]
    """oslo.service's launcher in one process with ``SignalFlags`` for its signals."""

    def __init__(self, conf: cfg.ConfigOpts, flags: SignalFlags) -> None:
        self._flags = flags
        super().__init__(conf, no_fork=True)

    def add_signal_handlers(self) -> None:
        self._flags.install()
