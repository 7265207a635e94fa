"""The format is what its page says: a program that follows the page alone reads what the engine wrote."""

from __future__ import annotations

import pathlib
import random
import subprocess
import sys

import pytest

from volsvc.backup.drivers.base import BackupDriverContext
from volsvc.backup.drivers.posix import PosixBackupDriver
from volsvc.backup.engine.create import create_backup
from volsvc.backup.engine.reading import load_root
from volsvc.backup.format.hashing import PLAIN
from volsvc.drivers.base import NoWork
from volsvc.testing.memory_blocks import MemorySource
from volsvc.testing.snapshots import options_of

from .worlds import BACKUP_ID, CHUNK, request

READER = pathlib.Path(__file__).resolve().parents[3] / "doc" / "source" / "examples" / "read_backup.py"
MARKER = "00000000-0000-4000-8000-000000000001"


def content() -> bytes:
    """More than one page of chunks: text, noise, repeats of both, holes, and an end that is no whole chunk."""
    source = random.Random(1)
    noise = source.randbytes(20 * CHUNK)
    text = b"".join(b"%06d some words that repeat themselves\n" % number for number in range(4000))
    gap = bytes(1024 * CHUNK)
    return b"".join((noise, text, bytes(-len(text) % CHUNK), gap, noise[: 5 * CHUNK], text, gap, b"the end"))


@pytest.fixture
def store(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "store"
    path.mkdir()
    driver = PosixBackupDriver(
        BackupDriverContext("host", options_of(PosixBackupDriver, backup_posix_path=str(path)), "")
    )
    driver.do_setup()
    driver.read_identity()
    driver.write_identity(MARKER)
    create_backup(driver, request(metadata={"name": "ä backup"}), MemorySource(content()), NoWork())
    root = load_root(driver, BACKUP_ID, PLAIN)
    assert len(root.pages) == 3
    assert len(root.packs) > 3
    return path


def read(store: pathlib.Path, image: pathlib.Path) -> subprocess.CompletedProcess[str]:
    # Isolated: it could not import this package by accident.
    command = [sys.executable, "-I", str(READER), str(store), BACKUP_ID, str(image)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_reader_written_from_the_page_reads_every_byte(store: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert "volsvc." not in "".join(line for line in READER.read_text().splitlines() if "import" in line)
    done = read(store, tmp_path / "image")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "image").read_bytes() == content()


def test_it_finds_a_changed_bit_where_the_page_says_a_hash_covers_it(
    store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    pack = min((store / "data" / BACKUP_ID).glob("d-*"))
    whole = pack.read_bytes()
    for at in (9, 70, len(whole) - 90, len(whole) - 40, len(whole) - 1):
        pack.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        done = read(store, tmp_path / "image")
        assert done.returncode == 1, f"byte {at}"
        assert "damaged" in done.stderr, f"byte {at}: {done.stderr}"
    pack.write_bytes(whole)
    assert read(store, tmp_path / "image").returncode == 0
