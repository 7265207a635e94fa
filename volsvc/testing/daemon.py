"""A real daemon in a private directory: started, killed, reloaded and stopped by tests and the demo.

Nothing is faked: it is the console script, its files, its sockets.  ``end`` leaves no process
and no file.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

T = TypeVar("T")

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 90.0


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 30.0, pause_s: float = 0.02) -> T:
    """Call ``condition`` until it is true and return what it gave; ``TimeoutError`` says what was waited for."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(pause_s)


class Daemon:
    """One daemon program on one directory; several may share a directory.

    ``options`` go to [DEFAULT], ``groups`` are further groups.  ``url`` is where its API listens,
    when it has one.  ``wrapper``: a command that ends by becoming the daemon.
    """

    def __init__(
        self,
        root: pathlib.Path | None = None,
        *,
        program: str = "volsvc-all",
        options: Mapping[str, Any] | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        # Short, because a socket's whole path has at most 107 bytes.
        self.root = root or pathlib.Path(tempfile.mkdtemp(prefix="vs-"))
        self.program = program
        self.arguments = arguments
        self.state = self.root / "state"
        self.log = self.root / f"{program}.log"
        self.config = self.root / "cinder.conf"
        self.url = ""
        self.environment: dict[str, str] = {}
        self.wrapper: tuple[str, ...] = ()
        self.process: subprocess.Popen[str] | None = None
        if options is not None or not self.config.exists():
            self.configure(options or {}, groups or {})

    @property
    def volumes(self) -> pathlib.Path:
        """Where the embedded default keeps its volumes."""
        return self.state / "volumes" / "file"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def configure(self, options: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Write cinder.conf anew."""
        default = {
            "host": "node",
            "state_path": self.state,
            "runtime_path": self.root / "run",
            "osapi_volume_listen_port": 0,
            **options,
        }
        lines = ["[DEFAULT]", *(f"{name} = {value}" for name, value in default.items())]
        for group, values in groups.items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in values.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, *, wait: bool = True) -> Self:
        """Start it and wait until every part of it has started; ``RuntimeError`` with its words if it ends."""
        command = [
            *self.wrapper,
            str(pathlib.Path(sys.executable).parent / self.program),
            "--config-file",
            str(self.config),
            *self.arguments,
        ]
        log = self.log.open("ab")
        position = log.tell()
        with log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                text=True,
                start_new_session=True,
            )
        if wait:
            self.wait_for_log(r"volsvc \S+ serves:", position)
            found = re.search(r"the REST API listens on (\S+)", self.words(position))
            self.url = found[1] if found else ""
        return self

    def start_in_vain(self, timeout_s: float = START_TIMEOUT_S) -> tuple[int, str]:
        """Start it and wait for its end, for a start that must fail: its exit code and what it said."""
        position = self.log.stat().st_size if self.log.exists() else 0
        self.start(wait=False)
        assert self.process is not None
        return self.process.wait(timeout_s), self.words(position)

    def run(self, program: str, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run one of the tools on this daemon's configuration, or on its API, to its end."""
        command = [str(pathlib.Path(sys.executable).parent / program)]
        if program == "volsvc":
            command += ["--endpoint", f"{self.url}/v3/demo"]
        else:
            command += ["--config-file", str(self.config)]
        return subprocess.run(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **self.environment},
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def words(self, position: int = 0) -> str:
        """Its log from a position on."""
        with contextlib.suppress(FileNotFoundError):
            return self.log.read_bytes()[position:].decode(errors="replace")
        return ""

    def wait_for_log(self, pattern: str, position: int = 0, timeout_s: float = START_TIMEOUT_S) -> str:
        def look() -> str | None:
            found = re.search(pattern, self.words(position))
            if found:
                return found[0]
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(
                    f"{self.program} ended with {self.process.returncode}: {self.words(position).strip()}"
                )
            return None

        return wait_until(look, f"{self.program} to log {pattern!r}", timeout_s) or ""

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM; returns the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def end(self) -> None:
        """Kill it if it runs, end its exporters, remove its directory."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for pid in exporters_under(self.root):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    # -- real clients ---------------------------------------------------------------

    def cinder(self, project: str = "demo", version: str = "3.71") -> Any:
        """python-cinderclient on this daemon's API."""
        from cinderclient import client
        from cinderclient.contrib.noauth import CinderNoAuthPlugin
        from keystoneauth1.session import Session

        auth = CinderNoAuthPlugin(project, project, endpoint=f"{self.url}/v3")
        return client.Client(version, session=Session(auth=auth), auth=auth, retries=0)

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Until every backend is up."""
        cinder = self.cinder()

        def look() -> bool:
            services = cinder.services.list()
            return bool(services) and all(service.state == "up" for service in services)

        wait_until(look, "every backend to be up", timeout_s)
        return self


def exporters_under(root: pathlib.Path) -> list[int]:
    """Pids of the storage daemons whose command line names ``root``."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "qemu-storage-daemon" in command and f"{root}/" in command:
                found.append(int(entry.name))
    return found
