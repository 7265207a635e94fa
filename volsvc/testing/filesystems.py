"""Small file systems of a wanted kind for a test, where the machine lets us mount them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest

_TIMEOUT_S = 60


@contextlib.contextmanager
def mounted_tmpfs(directory: pathlib.Path, size_mib: int) -> Iterator[pathlib.Path]:
    """A tmpfs of that size at ``directory``; skips the test where mounting isn't allowed."""
    yield from _mounted(directory, ["-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs"])


@contextlib.contextmanager
def mounted_image(directory: pathlib.Path, kind: str, size_mib: int) -> Iterator[pathlib.Path]:
    """An ``xfs`` (extents can be shared), ``btrfs`` or ``ext4`` on a loop device at ``directory``; skips likewise."""
    options = {"xfs": ["-q", "-m", "reflink=1"], "btrfs": ["-q"], "ext4": ["-q"]}[kind]
    tool = shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if tool is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    image = directory.with_name(f"{directory.name}.img")
    with image.open("wb") as file:
        file.truncate(size_mib * 1024**2)
    subprocess.run([tool, *options, str(image)], check=True, timeout=_TIMEOUT_S, capture_output=True)
    try:
        yield from _mounted(directory, ["-o", "loop", str(image)])
    finally:
        image.unlink()


def _mounted(directory: pathlib.Path, arguments: list[str]) -> Iterator[pathlib.Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    directory.mkdir(exist_ok=True)
    result = subprocess.run(
        ["mount", *arguments, str(directory)], timeout=_TIMEOUT_S, capture_output=True, text=True, check=False
    )
    if result.returncode:
        pytest.skip(f"this machine can't mount it: {result.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True, timeout=_TIMEOUT_S, capture_output=True)
