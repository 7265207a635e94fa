"""The units in etc/systemd: what systemd itself says of them, and what they promise to exporters."""

from __future__ import annotations

import configparser
import pathlib
import shutil
import subprocess
import tomllib

import pytest

from volsvc.conf import service as service_conf

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "etc" / "systemd").glob("*.service"))
SHUTDOWN_S = next(opt.default for opt in service_conf.OPTS if opt.name == "graceful_shutdown_timeout")

pytestmark = pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)


def read(path: pathlib.Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text())
    return parser


def test_unit_starts_a_program_that_is_installed_under_its_name(path: pathlib.Path) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    program = pathlib.PurePath(read(path)["Service"]["ExecStart"].split()[0]).name
    assert program == path.stem
    assert program in scripts


def test_unit_waits_for_the_daemons_word_and_reloads_by_sighup(path: pathlib.Path) -> None:
    service = read(path)["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["Restart"] == "on-failure"
    assert service["User"] == "volsvc"


def test_unit_leaves_exporters_and_their_sockets_alone(path: pathlib.Path) -> None:
    service = read(path)["Service"]
    assert service["RuntimeDirectoryPreserve"] == "yes"
    if path.stem != "volsvc-api":
        assert service["KillMode"] == "process"
    # A mount namespace of its own would hide the sockets from their clients.
    assert service.get("PrivateTmp", "no") == "no"


def test_unit_gives_a_stop_the_time_that_it_may_take(path: pathlib.Path) -> None:
    service = read(path)["Service"]
    assert int(service["TimeoutStopSec"]) > SHUTDOWN_S
    assert int(service["WatchdogSec"]) > SHUTDOWN_S


def test_systemd_finds_nothing_wrong_with_the_unit(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = read(path)
    program = unit["Service"]["ExecStart"].split()[0]
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace(program, shutil.which("true") or "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")
