"""The init script for systems without systemd: start, reload, stop."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

import volsvc
from volsvc.testing.daemon import Daemon, wait_until

SCRIPT = pathlib.Path(volsvc.__file__).parent.parent / "etc" / "init.d" / "volsvc-all"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="an init script runs as root"),
    pytest.mark.skipif(shutil.which("start-stop-daemon", path=PATH) is None, reason="needs start-stop-daemon"),
]


def test_it_starts_reloads_and_stops_the_daemon(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(options={"log_file": "volsvc-all.log"})
    daemon.configure({"log_file": daemon.log}, {})
    defaults = daemon.root / "defaults"
    pid_file = daemon.root / "pid"
    program = pathlib.Path(sys.executable).parent / "volsvc-all"
    made = daemon.root / "made"
    settings = f"CONFIG={daemon.config}\nUSER_NAME=root\nPIDFILE={pid_file}\nDIRECTORIES={made}\n"
    defaults.write_text(f"DAEMON=/nonexistent/volsvc-all\n{settings}")

    def run(verb: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": PATH, "VOLSVC_DEFAULTS": str(defaults)}
        return subprocess.run(
            [str(SCRIPT), verb], env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def must(verb: str) -> None:
        done = run(verb)
        assert done.returncode == 0, done.stderr

    refused = run("start")
    assert (refused.returncode, made.exists()) == (5, False)
    assert f"set DAEMON in {defaults}" in refused.stderr
    defaults.write_text(f"DAEMON={program}\n{settings}")
    must("start")
    assert made.stat().st_mode & 0o777 == 0o700
    try:
        wait_until(lambda: "serves:" in daemon.words(), "the daemon to serve")
        must("start")
        must("status")
        pid = int(pid_file.read_text())
        must("reload")
        wait_until(lambda: "reload 1 applied" in daemon.words(), "the reload")
        assert int(pid_file.read_text()) == pid
    finally:
        must("stop")
    assert not pathlib.Path(f"/proc/{pid}").exists()
    assert run("status").returncode != 0
    assert run("nonsense").returncode == 2
