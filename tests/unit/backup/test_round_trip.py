"""Whatever a volume holds comes back byte for byte, and holes stay holes."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.backup.worlds import (
    BACKUP_ID,
    CHUNK,
    PACK,
    assert_nothing_leaked,
    engine_threads,
    make,
    new_store,
    request,
    restored,
)
from volsvc import exceptions as exc
from volsvc.backup.engine.create import create_backup
from volsvc.backup.engine.reading import load_root
from volsvc.backup.engine.restore import restore_backup
from volsvc.backup.engine.verify import verify_backup
from volsvc.backup.format.hashing import PLAIN, Hasher
from volsvc.backup.format.page import PAGE_CHUNKS
from volsvc.drivers.base import NoWork
from volsvc.testing.memory_blocks import MemorySink, MemorySource

KINDS = ["hole", "zeros", "text", "random", "repeat"]
PIECES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 6 * CHUNK), st.integers(0, 3)), max_size=25)


def build(pieces: list[tuple[str, int, int]]) -> tuple[bytes, list[tuple[int, int]]]:
    """A volume's bytes and its data extents: every piece but a hole."""
    content, extents = bytearray(), []
    for kind, length, seed in pieces:
        if kind == "random":
            piece = random.Random(seed).randbytes(length)
        elif kind == "text":
            piece = (b"%d words and words " % seed * (length // 8 + 1))[:length]
        elif kind == "repeat":
            piece = (random.Random(seed).randbytes(CHUNK) * (length // CHUNK + 1))[:length]
        else:
            piece = bytes(length)
        if kind != "hole":
            extents.append((len(content), length))
        content += piece
    return bytes(content), extents


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=PIECES, workers=st.integers(1, 3), page_extents=st.integers(1, 5))
def test_any_pattern_of_data_holes_and_zeros_comes_back(
    pieces: list[tuple[str, int, int]], workers: int, page_extents: int
) -> None:
    content, extents = build(pieces)
    store = new_store()
    source = MemorySource(content, extents, page_extents=page_extents)
    root = create_backup(store, request(workers=workers), source, NoWork())
    assert restored(store, len(content)) == content
    full = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
    assert root.chunks == sum(any(chunk) for chunk in full)
    verify_backup(store, BACKUP_ID, NoWork())
    assert_nothing_leaked(store)
    assert not engine_threads()


@settings(max_examples=60, deadline=None)
@given(pieces=PIECES, extra=st.integers(0, 3 * CHUNK))
def test_a_volume_that_held_something_holds_exactly_the_backup_after_a_restore(
    pieces: list[tuple[str, int, int]], extra: int
) -> None:
    content, extents = build(pieces)
    store = make(MemorySource(content, extents))
    sink = MemorySink(len(content) + extra, fill=b"\xff")
    restore_backup(store, BACKUP_ID, sink, NoWork(), is_blank=False)
    assert sink.synced == content + bytes(extra)


def test_only_data_is_read_from_the_volume_and_only_data_is_written_to_a_blank_one() -> None:
    content = bytearray(400 * CHUNK)
    content[10 * CHUNK : 12 * CHUNK] = random.Random(1).randbytes(2 * CHUNK)
    extents = [(10 * CHUNK + 100, CHUNK), (200 * CHUNK, 3 * CHUNK)]
    source = MemorySource(bytes(content), extents)
    store = make(source)
    assert source.read_bytes == 5 * CHUNK
    sink = MemorySink(len(content))
    restore_backup(store, BACKUP_ID, sink, NoWork(), is_blank=True)
    assert sink.written_bytes == 2 * CHUNK


def test_repeated_chunks_are_stored_once() -> None:
    unique = random.Random(2).randbytes(3 * CHUNK)
    store = make(MemorySource(unique * 50), workers=1)
    root = load_root(store, BACKUP_ID, PLAIN)
    assert root.chunks == 150
    assert root.stored_bytes < 8 * CHUNK + root.chunks * 100
    assert restored(store, 150 * CHUNK) == unique * 50


def test_data_that_does_not_compress_is_stored_as_it_is() -> None:
    content = random.Random(3).randbytes(64 * CHUNK)
    root = load_root(make(MemorySource(content)), BACKUP_ID, PLAIN)
    assert root.stored_bytes < len(content) + 64 * 120 + 1024 * len(root.packs)


def test_a_volume_of_many_pages_comes_back() -> None:
    chunk = 512
    size = 3 * PAGE_CHUNKS * chunk + 5 * chunk + 17
    generator = random.Random(4)
    content = b"".join(
        generator.randbytes(chunk) if generator.random() < 0.3 else bytes(chunk) for _ in range(size // chunk)
    )
    content += b"x" * (size - len(content))
    store = make(MemorySource(content), chunk_bytes=chunk, pack_bytes=64 * 1024)
    assert len(load_root(store, BACKUP_ID, PLAIN).pages) == 4
    assert restored(store, size) == content


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_tiny_volumes_come_back(size: int) -> None:
    content = b"\x01" * size
    assert restored(make(MemorySource(content)), size) == content


def test_an_empty_volume_needs_no_pack() -> None:
    store = make(MemorySource(bytes(10 * CHUNK), []))
    root = load_root(store, BACKUP_ID, PLAIN)
    assert (root.packs, root.chunks, root.stored_bytes) == ({}, 0, 0)
    assert restored(store, 10 * CHUNK) == bytes(10 * CHUNK)


def test_the_caller_s_metadata_comes_back() -> None:
    metadata = {"name": 'a\n"b"\u2028', "tags": [1, None], "volume": {"id": "x"}}
    store = make(MemorySource(b"x"), metadata=metadata)
    assert load_root(store, BACKUP_ID, PLAIN).metadata == metadata


def test_chunks_and_packs_that_cannot_be_are_refused() -> None:
    for values in ({"chunk_bytes": 3000}, {"chunk_bytes": 256}, {"pack_bytes": 3 * CHUNK}):
        with pytest.raises(exc.InvalidInput):
            create_backup(new_store(), request(**values), MemorySource(b"x"), NoWork())


def test_a_volume_smaller_than_the_backup_is_refused_untouched() -> None:
    store = make(MemorySource(b"x" * CHUNK))
    sink = MemorySink(CHUNK - 1, fill=b"\xff")
    with pytest.raises(exc.InvalidInput):
        restore_backup(store, BACKUP_ID, sink, NoWork(), is_blank=False)
    assert sink.content == b"\xff" * (CHUNK - 1)


def test_a_missing_backup_is_not_found() -> None:
    with pytest.raises(exc.BackupNotFound):
        restore_backup(new_store(), BACKUP_ID, MemorySink(CHUNK), NoWork(), is_blank=True)


def test_an_id_that_is_no_uuid_is_refused() -> None:
    for bad in ("../x", "", "x" * 36):
        with pytest.raises(exc.InvalidInput):
            create_backup(new_store(), request(backup_id=bad), MemorySource(b"x"), NoWork())


def test_a_keyed_backup_needs_its_key() -> None:
    content = random.Random(5).randbytes(30 * CHUNK)
    key = Hasher(bytes(range(32)), b"k" * 16)
    store = make(MemorySource(content), hasher=key)
    assert restored(store, len(content), key) == content
    verify_backup(store, BACKUP_ID, NoWork(), hasher=key)
    for other in (PLAIN, Hasher(bytes(range(32)), b"o" * 16)):
        with pytest.raises(exc.BackupNotReadable):
            restored(store, len(content), other)
    with pytest.raises(exc.BackupDamaged):
        restored(store, len(content), Hasher(b"z" * 32, b"k" * 16))


def test_packs_stay_within_their_size() -> None:
    store = make(MemorySource(random.Random(6).randbytes(100 * CHUNK)))
    assert max(map(len, store.objects.objects.values())) <= PACK
