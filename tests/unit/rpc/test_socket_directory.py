"""Who may own a socket's name, and what becomes of names that nobody serves."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volsvc import exceptions as exc
from volsvc.rpc.socket_directory import (
    MAX_PATH_BYTES,
    SocketDirectory,
    is_dead,
    server_name,
    server_prefix,
    subscriber_name,
)
from volsvc.rpc.unix_settings import UnixSettings


@pytest.fixture
def directory(rpc_directory: Path) -> SocketDirectory:
    return SocketDirectory(UnixSettings(str(rpc_directory), handoff_timeout_s=0.5))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_directory_and_sockets_are_for_their_owner_alone(directory: SocketDirectory, rpc_directory: Path) -> None:
    previous = os.umask(0)
    try:
        bound = directory.bind("t:one")
    finally:
        os.umask(previous)
    assert mode_of(rpc_directory) == 0o700
    assert mode_of(rpc_directory / "t:one") == 0o600
    bound.sock.close()


def test_group_gets_in_where_the_options_say_so(rpc_directory: Path) -> None:
    options = UnixSettings(str(rpc_directory), directory_mode=0o710, directory_group=str(os.getegid()))
    bound = SocketDirectory(options).bind("t:one")
    assert mode_of(rpc_directory) == 0o710
    assert mode_of(rpc_directory / "t:one") == 0o660
    bound.sock.close()


def test_directory_of_ours_with_another_mode_is_given_the_right_one(
    directory: SocketDirectory, rpc_directory: Path
) -> None:
    rpc_directory.mkdir()
    rpc_directory.chmod(0o755)
    directory.prepare()
    assert mode_of(rpc_directory) == 0o700


def test_directory_that_others_may_write_to_is_refused(directory: SocketDirectory, rpc_directory: Path) -> None:
    rpc_directory.mkdir()
    rpc_directory.chmod(0o777)
    with pytest.raises(exc.ConfigurationError, match="others may write"):
        directory.bind("t:one")
    assert list(rpc_directory.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_another_user_is_refused(directory: SocketDirectory, rpc_directory: Path) -> None:
    rpc_directory.mkdir(mode=0o700)
    os.chown(rpc_directory, 65534, 65534)
    with pytest.raises(exc.ConfigurationError, match="belongs to uid 65534"):
        directory.bind("t:one")


def test_link_or_file_in_the_directory_s_place_is_refused(directory: SocketDirectory, rpc_directory: Path) -> None:
    rpc_directory.symlink_to(rpc_directory.parent)
    with pytest.raises(exc.ConfigurationError, match="not a directory"):
        directory.bind("t:one")
    rpc_directory.unlink()
    rpc_directory.write_text("")
    with pytest.raises(exc.ConfigurationError, match="not a directory"):
        directory.bind("t:one")


def test_unknown_group_is_refused(rpc_directory: Path) -> None:
    options = UnixSettings(str(rpc_directory), directory_mode=0o710, directory_group="no-such-group")
    with pytest.raises(exc.ConfigurationError, match="no such group"):
        SocketDirectory(options).bind("t:one")


def test_longest_path_that_the_kernel_takes_works_and_one_more_byte_is_refused(
    directory: SocketDirectory, rpc_directory: Path
) -> None:
    room = MAX_PATH_BYTES - len(os.fsencode(rpc_directory)) - len("/t:")
    bound = directory.bind("t:" + "h" * room)
    bound.sock.close()
    with pytest.raises(exc.ConfigurationError, match="108 bytes"):
        directory.bind("t:" + "h" * (room + 1))


def test_dead_sockets_and_unfinished_ones_are_removed_and_living_ones_stay(
    directory: SocketDirectory, rpc_directory: Path
) -> None:
    living = directory.bind("t:living")
    directory.bind("t:dead").sock.close()
    unfinished = rpc_directory / ".new-0123abcd"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(unfinished))
    (rpc_directory / "notes.txt").write_text("not ours to remove")
    assert is_dead(str(rpc_directory / "t:dead"))
    assert not is_dead(str(rpc_directory / "t:living"))
    new = directory.bind("t:new")
    assert sorted(path.name for path in rpc_directory.iterdir()) == [".lock", "notes.txt", "t:living", "t:new"]
    living.sock.close()
    new.sock.close()


def test_release_leaves_a_successor_s_socket_alone(directory: SocketDirectory, rpc_directory: Path) -> None:
    first = directory.bind("t:one")
    second = directory.bind("t:one")
    directory.release(first)
    assert (rpc_directory / "t:one").is_socket()
    directory.release(second)
    directory.release(second)
    assert not (rpc_directory / "t:one").exists()
    first.sock.close()
    second.sock.close()


def test_name_is_never_missing_while_it_is_taken_over_again_and_again(
    directory: SocketDirectory, rpc_directory: Path
) -> None:
    bound = directory.bind("t:one")
    is_over = threading.Event()
    failures: list[OSError] = []

    def connect() -> None:
        while not is_over.is_set():
            with socket.socket(socket.AF_UNIX) as sock:
                try:
                    sock.connect(str(rpc_directory / "t:one"))
                except OSError as error:
                    failures.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    for _ in range(50):
        successor = directory.bind("t:one")
        directory.release(bound)
        # Not closed before the other thread is done with it, as a server drains first.
        bound = successor
    is_over.set()
    thread.join()
    assert [error for error in failures if isinstance(error, FileNotFoundError)] == []


def test_lock_that_another_process_keeps_is_an_error_with_a_way_out(
    directory: SocketDirectory, rpc_directory: Path
) -> None:
    directory.prepare()
    with directory._locked(), pytest.raises(exc.ConfigurationError, match="fuser"):
        directory.bind("t:one")


_part = st.text(min_size=1, max_size=12)


@settings(max_examples=50)
@given(first=st.tuples(_part, _part), second=st.tuples(_part, _part))
def test_different_servers_never_share_a_name(first: tuple[str, str], second: tuple[str, str]) -> None:
    names = [server_name(None, *one) for one in (first, second)]
    assert (names[0] == names[1]) == (first == second)
    for name in names:
        assert "/" not in name
        assert "\0" not in name
        assert not name.startswith(".")


@settings(max_examples=50)
@given(exchange=_part, topic=_part, server=_part, pool=st.none() | _part)
def test_names_are_found_by_their_own_prefix_only(exchange: str, topic: str, server: str, pool: str | None) -> None:
    assert server_name(exchange, topic, server).startswith(server_prefix(exchange, topic))
    assert not server_name(exchange, topic, server).startswith(server_prefix(None, topic))
    assert not server_name(exchange, topic, server).startswith(server_prefix(exchange, topic + "x"))
    assert subscriber_name(exchange, topic, pool) != subscriber_name(exchange, topic, pool)


def test_usual_name_stays_readable() -> None:
    assert server_name(None, "volsvc-volume", "node-1.example.org@fast") == "volsvc-volume:node-1.example.org@fast"


def test_only_our_uid_root_and_the_allowed_ones_are_trusted(rpc_directory: Path) -> None:
    options = UnixSettings(str(rpc_directory), allowed_uids=frozenset({4242}))
    assert options.is_trusted(os.geteuid())
    assert options.is_trusted(0)
    assert options.is_trusted(4242)
    assert not options.is_trusted(4243)
