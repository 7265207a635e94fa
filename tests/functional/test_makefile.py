"""What 'make run' and 'make demo' start, and the benchmark of the control path: each runs to its end."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

import pytest

from volsvc.testing.daemon import wait_until

BIN = pathlib.Path(sys.executable).parent
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def short_path() -> Iterator[pathlib.Path]:
    """A directory whose path leaves room for sockets' names; pytest's own are too long for that."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="vs-"))
    yield path
    shutil.rmtree(path)


def test_make_run_says_where_it_listens_and_ends_with_ctrl_c(short_path: pathlib.Path) -> None:
    """tools/run.sh, which is all that 'make run' does once everything is installed."""
    configuration = short_path / "cinder.conf"
    configuration.write_text(f"[DEFAULT]\nstate_path = {short_path}/state\nosapi_volume_listen_port = 0\n")
    process = subprocess.Popen(
        ["sh", str(ROOT / "tools" / "run.sh"), str(short_path), str(BIN)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        wait_until(lambda: any("Ctrl-C stops it" in line for line in lines), "the hints")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
    reader.join(10)
    text = "".join(lines)
    assert re.search(r"volsvc is ready at http://127\.0\.0\.1:\d+", text)
    assert f"configuration: {configuration}" in text
    assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_holds_every_checksum_and_leaves_nothing(short_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "demo.py")],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(short_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything held" in done.stdout
    assert list(short_path.iterdir()) == []


@pytest.mark.slow
def test_the_benchmark_of_the_control_path_runs_to_its_end() -> None:
    command = [sys.executable, str(ROOT / "bench" / "control.py"), "--quick", "--count", "3", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    wanted = {"create, answered", "create, done", "attach", "detach", "delete, done", "show", "list 100 with details"}
    assert wanted <= {row["what"] for row in found["rows"]}
    assert {row["threads"] for row in found["rows"]} == {1, 8}
    assert [row["when"] for row in found["processes"]] == ["idle", "after 1 thread", "after 8 threads"]
