"""Copies equal their source, hole for hole, by each of the ways the kernel may force."""

from __future__ import annotations

import errno
import os
import pathlib
import tempfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volsvc import exceptions as exc
from volsvc.drivers import sparse

BLOCK = 4096
runs = st.lists(st.tuples(st.integers(0, 255), st.integers(1, 40), st.integers(0, 255)), max_size=6)


def copy(source: pathlib.Path, destination: pathlib.Path, length: int | None = None) -> list[tuple[int, int]]:
    reports: list[tuple[int, int]] = []
    with source.open("rb") as reader, destination.open("w+b") as writer:
        length = os.fstat(reader.fileno()).st_size if length is None else length
        sparse.copy_data(reader.fileno(), writer.fileno(), length, lambda done, total: reports.append((done, total)))
    return reports


@settings(max_examples=60, deadline=None)
@given(runs=runs, tail=st.integers(0, 5000))
def test_copy_equals_its_source_and_takes_no_more_room(runs: list[tuple[int, int, int]], tail: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        source, destination = pathlib.Path(name, "source"), pathlib.Path(name, "destination")
        with source.open("wb") as file:
            for start, count, byte in runs:
                file.seek(start * BLOCK)
                file.write(bytes([byte]) * count * BLOCK)
            file.truncate(300 * BLOCK + tail)
        reports = copy(source, destination)
        assert destination.read_bytes() == source.read_bytes()
        assert destination.stat().st_blocks <= source.stat().st_blocks
        assert [done for done, _ in reports] == sorted(done for done, _ in reports)
        assert reports[-1] == (source.stat().st_size, source.stat().st_size)


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS])
def test_kernel_without_copy_file_range_is_served_by_hand_and_skips_zeros(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*args: Any) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "source").write_bytes(b"\0" * 1024**2 + b"data" * 5000)
    copy(tmp_path / "source", tmp_path / "destination")
    assert (tmp_path / "destination").read_bytes() == (tmp_path / "source").read_bytes()
    assert (tmp_path / "destination").stat().st_blocks * 512 < 1024**2


def test_kernel_that_answers_zero_in_the_middle_is_served_by_hand(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", lambda *args: 0)
    (tmp_path / "source").write_bytes(b"data" * 5000)
    copy(tmp_path / "source", tmp_path / "destination")
    assert (tmp_path / "destination").read_bytes() == b"data" * 5000


def test_file_system_that_can_not_tell_holes_is_copied_whole(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> int:
        raise OSError(errno.EINVAL, "no SEEK_DATA")

    monkeypatch.setattr(os, "lseek", refuse)
    (tmp_path / "source").write_bytes(b"data" * 5000)
    copy(tmp_path / "source", tmp_path / "destination")
    assert (tmp_path / "destination").read_bytes() == b"data" * 5000


def test_full_disk_is_not_mistaken_for_a_missing_ability(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", full)
    (tmp_path / "source").write_bytes(b"data")
    with pytest.raises(OSError, match="full"):
        copy(tmp_path / "source", tmp_path / "destination")


def test_progress_may_stop_the_copy_between_pieces(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "PIECE_BYTES", BLOCK)
    (tmp_path / "source").write_bytes(b"x" * 10 * BLOCK)
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if done >= 3 * BLOCK:
            raise exc.OperationCancelled(id="1")

    with (
        (tmp_path / "source").open("rb") as reader,
        (tmp_path / "destination").open("w+b") as writer,
        pytest.raises(exc.OperationCancelled),
    ):
        sparse.copy_data(reader.fileno(), writer.fileno(), 10 * BLOCK, progress)
    assert seen == [0, BLOCK, 2 * BLOCK, 3 * BLOCK]
