"""The commands that ``make run`` prints, run as a new user would: copied into a shell."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable

import pytest

from volsvc.testing.daemon import Daemon


def test_the_commands_that_are_printed_work_as_they_stand(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(arguments=("--hints",)).start().wait_ready()
    printed = daemon.wait_for_log(r"(?s)Try, in another terminal:\n.*?\n(?=Ctrl-C)")
    commands = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    assert [re.split(r"\s", command)[0] for command in commands] == [
        "export",
        "cinder",
        "cinder",
        "volsvc",
        "volsvc-manage",
    ]
    if not os.path.exists(f"{re.search(r'PATH=([^:]+)', commands[0])[1]}/cinder"):
        pytest.skip("python-cinderclient is not installed beside this Python")
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("OS_", "CINDER")) and name != "HOME"
    }
    done = subprocess.run(
        ["sh", "-ec", "\n".join(commands)],
        env={**clean, "HOME": str(daemon.root), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| first |" in done.stdout
    assert "volume_create" in done.stdout
    assert re.search(r"\| cinder-volume .*\| up ", done.stdout)
