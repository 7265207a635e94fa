"""One qemu-storage-daemon process: where its files are, starting it, finding it again, ending it.

The process is the only record of itself.  It daemonizes, so it is ready or has said why not
when the start returns, and it is nobody's child: the service may stop, crash or be killed
and the next one finds it by its pid file and its monitor.  A pid is believed only when that
process's arguments name this very pid file, so a pid used again is never taken for ours, and
signals go through a pidfd.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from volsvc import exceptions as exc
from volsvc.targets.file_locks import locked
from volsvc.targets.qmp import Qmp, QmpUnreachable

LOG = logging.getLogger(__name__)

BINARY = "qemu-storage-daemon"
PACKAGE = "qemu-system-common"

MONITOR_TIMEOUT_S = 10.0  # an answer takes a millisecond; storage that hangs holds it up
START_TIMEOUT_S = 30.0
QUIT_TIMEOUT_S = 10.0
TERM_TIMEOUT_S = 5.0
_LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class ExporterPaths:
    """The files of one exporter; ``control`` is private to the service."""

    control: str
    socket: str

    @property
    def monitor(self) -> str:
        return os.path.join(self.control, "q")

    @property
    def pidfile(self) -> str:
        return os.path.join(self.control, "pid")

    @property
    def lock(self) -> str:
        return os.path.join(self.control, "lock")

    @property
    def copy_lock(self) -> str:
        return os.path.join(self.control, "copy")

    @property
    def starting(self) -> str:
        """There while a start goes on; one that is found later was cut."""
        return os.path.join(self.control, "starting")

    @property
    def pending_exports(self) -> str:
        return os.path.join(self.control, "exports")

    @property
    def keys(self) -> str:
        """Keys of its TLS connections; QEMU wants this very name."""
        return os.path.join(self.control, "keys.psk")

    @property
    def note(self) -> str:
        """What it was started for, where that can't be asked of it."""
        return os.path.join(self.control, "note")


class QsdProcess:
    """A qemu-storage-daemon, running or not; ``what`` it serves is for messages ("volume ...")."""

    def __init__(self, what: str, paths: ExporterPaths) -> None:
        self.what = what
        self.paths = paths

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes this process or talks to its monitor during the block."""
        with contextlib.ExitStack() as stack:
            while True:
                os.makedirs(self.paths.control, mode=0o700, exist_ok=True)
                what = f"the exporter of {self.what}"
                try:
                    stack.enter_context(locked(self.paths.lock, _LOCK_TIMEOUT_S, what))
                    break
                except FileNotFoundError:
                    # The holder before has just ended the exporter and removed the directory.
                    continue
            yield

    def connect(self) -> Qmp:
        """A connection to the monitor; hold the lock.  Raises ``QmpUnreachable``."""
        return Qmp(self.paths.monitor, MONITOR_TIMEOUT_S)

    def pid(self) -> int | None:
        """The living process, None when there is none."""
        try:
            with open(self.paths.pidfile) as file:
                pid = int(file.read())
        except (OSError, ValueError):
            return None
        return pid if _runs_with(pid, self.paths.pidfile) else None

    @property
    def is_alive(self) -> bool:
        return self.pid() is not None

    @property
    def is_usable(self) -> bool:
        """Alive, and its start was finished; otherwise it has no client."""
        return self.is_alive and not os.path.exists(self.paths.starting)

    def start_with(self, arguments: Sequence[str], pass_fds: Sequence[int] = ()) -> None:
        """Start it with these arguments, a monitor and open descriptors of ours.

        Hold the lock; ``finish_start`` when it can be used.
        Raises ``DriverError`` with what it printed, ``MissingDriverLibrary`` without the program.
        """
        self._end_cut_start()
        os.close(os.open(self.paths.starting, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for stale in (self.paths.monitor, self.paths.socket, self.paths.pending_exports):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(stale)
        monitor = self.paths.monitor.replace(",", ",,")
        command = [
            BINARY,
            "--daemonize",
            f"--pidfile={self.paths.pidfile}",
            f"--chardev=socket,id=monitor,path={monitor},server=on,wait=off",
            "--monitor=chardev=monitor",
            *arguments,
        ]
        result = run_tool(command, START_TIMEOUT_S, pass_fds)
        if result.returncode or not self.is_alive:
            raise exc.DriverError(
                reason=f"{BINARY} did not start for {self.what} (status {result.returncode}): "
                f"{one_line(result.stderr) or 'it said nothing'}"
            )
        LOG.info("%s: exporter started, pid %s", self.what, self.pid())

    def finish_start(self) -> None:
        """Its sockets are as they should be: from now on it may have clients.  Hold the lock."""
        os.unlink(self.paths.starting)

    def _end_cut_start(self) -> None:
        """Kill what a cut start left: it may have no pid file yet, and would take the next one's sockets."""
        if not os.path.exists(self.paths.starting):
            return
        deadline = time.monotonic() + TERM_TIMEOUT_S
        while pids := _pids_with(self.paths.pidfile):
            if time.monotonic() > deadline:
                raise exc.DriverError(reason=f"an earlier exporter of {self.what} ({pids}) does not end")
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    handle = os.pidfd_open(pid)
                    try:
                        if _runs_with(pid, self.paths.pidfile):
                            signal.pidfd_send_signal(handle, signal.SIGKILL)
                            _has_ended(handle, max(0.0, deadline - time.monotonic()))
                    finally:
                        os.close(handle)

    def stop(self, *, is_hanging: bool = False) -> None:
        """End the process and leave its files.  Hold the lock; repeatable.

        One that ``is_hanging`` isn't asked to end, it is killed.
        """
        self._end_cut_start()
        pid = self.pid()
        if pid is not None:
            self._end_process(pid, is_hanging)
            LOG.info("%s: exporter ended, pid %s", self.what, pid)

    def end(self, *, is_hanging: bool = False) -> None:
        """``stop``, and remove its files, whatever state they are in.  Hold the lock; repeatable."""
        self.stop(is_hanging=is_hanging)
        paths = self.paths
        secrets = (paths.keys, paths.note)
        files = (paths.socket, paths.monitor, paths.pidfile, paths.starting, paths.pending_exports, paths.copy_lock)
        for path in (*secrets, *files, paths.lock):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(paths.control)

    def _end_process(self, pid: int, is_hanging: bool) -> None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor now holds the process; make sure that it is still the one that was meant.
            if not _runs_with(pid, self.paths.pidfile):
                return
            if not is_hanging and self._quits(handle, pid):
                return
            gentle = [] if is_hanging else [(signal.SIGTERM, TERM_TIMEOUT_S)]
            for number, timeout_s in [*gentle, (signal.SIGKILL, TERM_TIMEOUT_S)]:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
                if _has_ended(handle, timeout_s):
                    return
        finally:
            os.close(handle)
        raise exc.DriverError(
            reason=f"the exporter of {self.what} (pid {pid}) does not end even when killed; "
            "it waits for storage that does not answer"
        )

    def _quits(self, handle: int, pid: int) -> bool:
        try:
            with self.connect() as qmp:
                qmp.send("quit")
                # The connection stays open meanwhile: a monitor forgets what a client that left had said.
                return _has_ended(handle, QUIT_TIMEOUT_S)
        except QmpUnreachable as error:
            LOG.warning("%s: exporter %d is ended by a signal: %s", self.what, pid, error)
            return False


def run_tool(
    command: Sequence[str], timeout_s: float, pass_fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """Run one of the package's programs to its end in a session of its own."""
    require_tool(command[0])
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            start_new_session=True,
            pass_fds=pass_fds,
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise exc.DriverError(reason=f"{command[0]} did not get ready within {timeout_s:g} s and was ended") from None


def require_tool(name: str) -> None:
    """Raise ``MissingDriverLibrary`` when one of the package's programs isn't there."""
    if shutil.which(name) is None:
        raise exc.MissingDriverLibrary(library=name, remedy=f"install the package {PACKAGE}")


def one_line(text: str) -> str:
    """What a program printed, for the end of a message."""
    return " ".join(text.split())[:1000]


def _runs_with(pid: int, pidfile: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            # Empty for a zombie, which serves nobody.
            return os.fsencode(f"--pidfile={pidfile}") in file.read().split(b"\0")
    except OSError:
        return False


def _pids_with(pidfile: str) -> list[int]:
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _runs_with(pid, pidfile)]


def _has_ended(handle: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
