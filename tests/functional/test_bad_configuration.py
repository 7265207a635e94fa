"""Configurations that can't be: one line that names file, option and value, and only what is wrong is down."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sqlite3
from collections.abc import Callable

import pytest

from tests.functional.user import User
from volsvc.db.migrate import NEEDED
from volsvc.testing.daemon import Daemon, wait_until

# What the file says after the daemon's own options, and what the one line must name beside the file.
BAD_FILES = {
    "no assignment": ("this is no option", r"cinder\.conf:6.*'this is no option'"),
    "section without an end": ("[broken\nx = 1", r"cinder\.conf:6.*'\[broken'"),
    "a word for a number": ("report_interval = often", r"\[DEFAULT\] report_interval = often: .*Integer"),
    "a number out of range": ("graceful_shutdown_timeout = -3", r"graceful_shutdown_timeout = -3: .*equal to 1"),
    "a port out of range": ("osapi_volume_listen_port = 99999", r"osapi_volume_listen_port = 99999: .*65535"),
    "no such choice": ("auth_strategy = magic", r"auth_strategy = magic: .*noauth, http_basic"),
    "backend without a group": ("enabled_backends = one,two\n[one]", r"enabled_backends names 'two'.*no group \[two\]"),
    "backend twice": ("enabled_backends = file,file", "enabled_backends names a backend twice"),
    "no backend": ("enabled_backends =", "enabled_backends is empty; name at least one"),
    "a contradiction": (
        "report_interval = 9\nservice_down_time = 9",
        "service_down_time is 9.*report_interval",
    ),
}
# The same for what isn't found in the file itself but when it is used.
BAD_USES = {
    "noauth for the world": ("osapi_volume_listen = 0.0.0.0", "osapi_volume_listen = 0.0.0.0 .*use 127.0.0.1"),
    "database URL": ("[database]\nconnection = nonsense", r"\[database\] connection .*sqlite:///"),
    "database's driver": ("[database]\nconnection = oracle://u:hush@h/x", r"\[database\] connection .*oracle"),
    "database's directory": ("[database]\nconnection = sqlite:////nowhere/x.db", r"\[database\] connection .*/nowhere"),
    "transport": ("transport_url = bogus://u:hush@x", "transport_url .*bogus"),
}


def start_with(daemon: Daemon, text: str) -> str:
    """Start it on its file with this text added; returns the last line it said before it exited with 1."""
    daemon.config.write_text(daemon.config.read_text() + text + "\n")
    code, words = daemon.start_in_vain()
    assert code == 1, words
    assert "Traceback" not in words
    assert "hush" not in words, "a password is shown"
    return words.strip().splitlines()[-1]


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_line_with_file_option_and_value(make_daemon: Callable[..., Daemon], name: str) -> None:
    text, wanted = BAD_FILES[name]
    daemon = make_daemon()
    line = start_with(daemon, text)
    assert line.startswith("volsvc-all: ")
    assert str(daemon.config) in line
    assert re.search(wanted, line), line
    assert not daemon.state.exists(), "nothing was made before the file was found to be good"


@pytest.mark.parametrize("name", BAD_USES)
def test_an_option_that_cannot_be_used_is_one_line_with_file_and_name(
    make_daemon: Callable[..., Daemon], name: str
) -> None:
    text, wanted = BAD_USES[name]
    daemon = make_daemon()
    line = start_with(daemon, text)
    assert line.startswith(f"volsvc-all: {daemon.config}: ")
    assert re.search(wanted, line), line


def test_a_file_that_is_not_there_is_named(make_daemon: Callable[..., Daemon]) -> None:
    code, words = make_daemon(arguments=("--config-file", "/nonexistent/other.conf")).start_in_vain()
    assert code == 1
    assert "/nonexistent/other.conf does not exist" in words


def test_a_backend_asked_for_by_name_must_be_enabled(make_daemon: Callable[..., Daemon]) -> None:
    code, words = make_daemon(program="volsvc-volume", arguments=("--backend", "two")).start_in_vain()
    assert code == 1
    assert "no backend 'two'; enabled_backends has: file" in words


def test_an_option_that_is_almost_right_is_warned_about(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(options={"report_intervall": 5}).start()
    assert "report_intervall is not an option; did you mean report_interval?" in daemon.words()


# -- one bad backend ------------------------------------------------------------------------------

# Per backend: its group, the state it ends in, and what its reason must name.
BAD_BACKENDS = {
    "nomodule": ({"volume_driver": "nothing.here.Driver"}, "unrecoverable", "volume_driver = nothing.here.Driver"),
    "noclass": ({"volume_driver": "os.path.Driver"}, "unrecoverable", "'os.path.Driver'.*no class Driver"),
    "typo": ({"volume_driver": "fiel"}, "unrecoverable", "'fiel'; it must be one of fake, file"),
    "nodriver": ({"volume_driver": "collections.OrderedDict"}, "unrecoverable", "not a child of"),
    "notarget": ({"target_helper": "tgtadm"}, "unrecoverable", "target_helper is 'tgtadm'; .*nbd"),
    "choice": ({"file_allocation": "fat"}, "unrecoverable", "file_allocation = fat: .*thin, thick"),
    "number": ({"reserved_percentage": "lots"}, "unrecoverable", "reserved_percentage = lots"),
    "relative": ({"file_store_path": "here"}, "unrecoverable", "file_store_path 'here' is not absolute"),
    "unmounted": ({"file_store_path": "/nonexistent/disk"}, "retrying", "/nonexistent/disk is not there"),
}


def test_a_bad_backend_is_down_with_the_reason_and_the_others_serve(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(
        options={"enabled_backends": ",".join(["file", *BAD_BACKENDS])},
        groups={name: group for name, (group, _, _) in BAD_BACKENDS.items()},
    ).start()
    user = User(daemon)

    def states() -> dict[str, dict[str, str]]:
        listed = daemon.run("volsvc-manage", "service", "list", "-f", "json")
        assert listed.returncode == 0, listed.stderr
        return {row["host"].partition("@")[2]: row for row in json.loads(listed.stdout) if "@" in row["host"]}

    wait_until(lambda: "starting" not in {row["state"] for row in states().values()}, "each backend to have been tried")
    found = states()
    assert (found["file"]["state"], found["file"]["status"]) == ("ready", "up")
    for name, (_, state, reason) in BAD_BACKENDS.items():
        row = found[name]
        assert (row["state"], row["status"]) == (state, "down"), name
        assert re.search(reason, row["reason"]), row["reason"]
        if state == "unrecoverable" and name != "relative":
            assert f"{daemon.config}: [{name}]" in row["reason"]
    assert {service.host: service.state for service in user.cinder.services.list(binary="cinder-volume")} == {
        f"node@{name}": "up" if name == "file" else "down" for name in found
    }
    user.disconnect(user.connect(user.create(1)))

    checked = daemon.run("volsvc-manage", "config", "check")
    assert checked.returncode == 1
    assert "[typo]" in checked.stderr
    assert "Traceback" not in checked.stderr


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("log_file", "/nonexistent/volsvc.log", r"logs: .*can't be written"),
        ("osapi_volume_listen", "192.0.2.1", "API: .*not a loopback address"),
        ("auth_strategy", "keystone", "API: .*keystone"),
        ("policy", "'volume:create': 'role:", "policy: .*policy.yaml"),
    ],
)
def test_what_stops_a_daemon_is_found_by_the_check_before(
    make_daemon: Callable[..., Daemon], option: str, value: str, complaint: str
) -> None:
    daemon = make_daemon(options={} if option == "policy" else {option: value})
    if option == "policy":
        (daemon.root / "policy.yaml").write_text(value)
    checked = daemon.run("volsvc-manage", "config", "check")
    assert checked.returncode == 1, checked.stdout
    assert re.search(complaint, checked.stderr), checked.stderr
    assert "Traceback" not in checked.stderr
    assert daemon.start_in_vain()[0] == 1


# -- the database's schema --------------------------------------------------------------------------


def stamp(daemon: Daemon, version: str | None) -> None:
    with contextlib.closing(sqlite3.connect(daemon.state / "volsvc.sqlite")) as database, database:
        if version is None:
            database.execute("DROP TABLE alembic_version")
        else:
            database.execute("UPDATE alembic_version SET version_num = ?", [version])


@pytest.mark.parametrize("program", ["volsvc-all", "volsvc-volume", "volsvc-backup", "volsvc-api"])
def test_an_older_schema_stops_the_daemon_with_the_command_to_run(
    make_daemon: Callable[..., Daemon], program: str
) -> None:
    daemon = make_daemon(program=program)
    assert daemon.run("volsvc-manage", "db", "sync").returncode == 0
    stamp(daemon, "0000")
    code, words = daemon.start_in_vain()
    assert code == 1
    line = words.strip().splitlines()[-1]
    command = f"volsvc-manage --config-file {daemon.config} db sync"
    assert re.search(f"schema 0000.*needs {NEEDED}.*run '{re.escape(command)}' and start again", line), words
    assert "Traceback" not in words


def test_a_schema_much_newer_stops_the_daemon_and_the_next_one_does_not(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    assert daemon.run("volsvc-manage", "db", "sync").returncode == 0
    stamp(daemon, f"{int(NEEDED) + 2:04}")
    code, words = daemon.start_in_vain()
    assert code == 1
    assert "upgrade this program" in words
    stamp(daemon, f"{int(NEEDED) + 1:04}")
    User(daemon.start().wait_ready()).create(1)


def test_a_daemon_makes_its_database_and_a_tool_does_not(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.state.mkdir()
    for command in (["db", "version"], ["service", "list"], ["volume", "stuck"]):
        asked = daemon.run("volsvc-manage", *command)
        assert asked.returncode == 1
        assert "there is no database at" in asked.stderr
        assert str(daemon.config) in asked.stderr
    assert list(daemon.state.iterdir()) == []
    daemon.start().wait_ready()
    version = daemon.run("volsvc-manage", "db", "version")
    assert (version.returncode, version.stdout.strip()) == (0, f"schema {NEEDED}")


# -- two of one ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["volsvc-all", "volsvc-volume"])
def test_a_second_daemon_of_the_same_backend_is_refused_with_the_first_ones_pid(
    make_daemon: Callable[..., Daemon], program: str
) -> None:
    first = make_daemon().start().wait_ready()
    user = User(first)
    connection = user.connect(user.create(1))
    code, words = make_daemon(first.root, program=program).start_in_vain()
    assert code == 1
    assert re.search(rf"node@file is already served by the process {first.pid}; stop that one", words), words
    assert "Traceback" not in words
    assert user.cinder.services.list(binary="cinder-volume")[0].state == "up"
    connection.write(0, b"nothing was touched")
    user.disconnect(connection)


def test_two_daemons_share_a_host_with_a_backend_each(make_daemon: Callable[..., Daemon]) -> None:
    one = make_daemon(
        program="volsvc-volume",
        options={"enabled_backends": "one,two"},
        groups={"one": {}, "two": {}},
        arguments=("--backend", "one"),
    ).start()
    make_daemon(one.root, program="volsvc-volume", arguments=("--backend", "two")).start()
    api = make_daemon(one.root, program="volsvc-api").start().wait_ready()
    assert {service.host for service in api.cinder().services.list()} == {"node@one", "node@two"}
    one.kill()
    one.start()
    api.wait_ready()


def test_a_port_in_use_is_named(make_daemon: Callable[..., Daemon]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, words = make_daemon(options={"osapi_volume_listen_port": port}).start_in_vain()
    assert code == 1
    line = words.strip().splitlines()[-1]
    assert str(port) in line
    assert "Traceback" not in words
