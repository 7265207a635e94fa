"""What each errno means to the service."""

from __future__ import annotations

import errno
import os
import pathlib

import pytest

from volsvc import exceptions as exc
from volsvc.drivers.storage_errors import translate


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, exc.StorageFull),
        (errno.EDQUOT, exc.StorageFull),
        (errno.EROFS, exc.BackendUnavailable),
        (errno.EIO, exc.BackendUnavailable),
        (errno.ENOTCONN, exc.BackendUnavailable),
        (errno.ESTALE, exc.BackendUnavailable),
        (errno.EACCES, exc.BackendUnavailable),
        (errno.EFBIG, exc.DriverError),
        (errno.ENOENT, exc.DriverError),
    ],
)
def test_errno_decides_what_fails(tmp_path: pathlib.Path, number: int, expected: type[Exception]) -> None:
    found = translate(OSError(number, os.strerror(number)), "create a volume", str(tmp_path))
    assert type(found) is expected
    assert "create a volume" in str(found)
    assert str(tmp_path) in str(found)


def test_missing_directory_is_a_missing_disk(tmp_path: pathlib.Path) -> None:
    found = translate(OSError(errno.ENOENT, "no"), "create a volume", str(tmp_path / "gone"))
    assert type(found) is exc.BackendUnavailable
    assert "mounted" in str(found)
