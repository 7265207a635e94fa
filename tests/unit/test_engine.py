"""Opening a database: what is refused, and what a new file looks like."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from volsvc import exceptions as exc
from volsvc.db import filesystem, migrate
from volsvc.db.engine import create_engine


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        engine = create_engine(f"sqlite:///{tmp_path}/new.sqlite")
        migrate.sync(engine)
        with engine.connect():
            modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        engine.dispose()
    finally:
        os.umask(old)
    assert modes == {0o600}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:////nowhere/at/all.sqlite", "not a directory"),
        ("no url", "can't be read"),
        ("nothing://host/name", "can't be loaded"),
    ],
)
def test_a_connection_that_cannot_be_used_is_refused_with_the_reason(url: str, words: str) -> None:
    with pytest.raises(exc.ConfigurationError, match=words):
        create_engine(url)


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "find_type", lambda path: "nfs4")
    with pytest.raises(exc.ConfigurationError, match=r"network file system \(nfs4\)"):
        create_engine(f"sqlite:///{tmp_path}/new.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_the_file_system_of_a_path_is_that_of_the_longest_mount_point(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "1 0 8:1 / / rw - ext4 /dev/root rw\n"
        "2 1 0:5 / /srv rw,relatime shared:7 - nfs4 server:/a rw\n"
        "3 2 8:2 / /srv/local\\040disk rw - xfs /dev/sdb rw\n"
        "4 1 0:6 / /over rw - ext4 /dev/sdc rw\n"
        "5 4 0:7 / /over rw - fuse.sshfs host: rw\n"
        "nonsense\n"
    )
    found = {
        path: filesystem.find_type(path, mountinfo=mountinfo)
        for path in ("/", "/srvx", "/srv", "/srv/a/b", "/srv/local disk/a", "/over/a")
    }
    assert found == {
        "/": "ext4",
        "/srvx": "ext4",
        "/srv": "nfs4",
        "/srv/a/b": "nfs4",
        "/srv/local disk/a": "xfs",
        "/over/a": "fuse.sshfs",
    }
    assert filesystem.is_network("/srv/a", mountinfo=mountinfo)
    assert filesystem.find_type("/", mountinfo=tmp_path / "missing") == ""
