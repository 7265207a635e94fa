"""Every truncation and every flipped bit of what a store holds is found, and never restored."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.backup.worlds import BACKUP_ID, CHUNK, make, new_store, restored
from volsvc import exceptions as exc
from volsvc.backup.drivers.fake import FakeBackupDriver, FakeObjects
from volsvc.backup.engine.scan import scan
from volsvc.backup.engine.verify import check_backup, verify_backup
from volsvc.backup.format import names
from volsvc.drivers.base import NoWork
from volsvc.testing.memory_blocks import MemorySource

CONTENT = b"".join(
    (random.Random(9).randbytes(9 * CHUNK), b"words " * 4000, bytes(4 * CHUNK), random.Random(9).randbytes(2 * CHUNK))
)
NEWER = (exc.BackupDamaged, exc.BackupNotReadable)


@pytest.fixture(scope="module")
def objects() -> dict[str, bytes]:
    return dict(make(MemorySource(CONTENT), workers=1).objects.objects)


def store_with(objects: dict[str, bytes]) -> FakeBackupDriver:
    held = FakeObjects()
    held.objects = dict(objects)
    return new_store(held)


def essential(objects: dict[str, bytes]) -> list[str]:
    return sorted(name for name in objects if name.startswith(("roots/", "data/")))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_found(objects: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(essential(objects)))
    bit = data.draw(st.integers(0, len(objects[name]) * 8 - 1))
    damaged = bytearray(objects[name])
    damaged[bit // 8] ^= 1 << bit % 8
    store = store_with({**objects, name: bytes(damaged)})
    with pytest.raises(NEWER):
        verify_backup(store, BACKUP_ID, NoWork())
    try:
        assert restored(store, len(CONTENT)) == CONTENT
    except NEWER:
        pass


def test_every_bit_of_the_root_and_of_all_headers_and_footers_counts(objects: dict[str, bytes]) -> None:
    for name in essential(objects):
        whole = objects[name]
        is_root = name.startswith("roots/")
        edges = range(len(whole)) if is_root else [*range(64), *range(len(whole) - 80, len(whole))]
        for at in edges:
            damaged = bytearray(whole)
            damaged[at] ^= 1 << (at % 8)
            with pytest.raises(NEWER):
                verify_backup(store_with({**objects, name: bytes(damaged)}), BACKUP_ID, NoWork())


def test_each_bit_of_compressed_pieces_counts_even_those_that_change_nothing(objects: dict[str, bytes]) -> None:
    (name,) = (name for name in essential(objects) if "/m-" in name)
    for bit in range(64 * 8, 64 * 8 + 200):
        damaged = bytearray(objects[name])
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NEWER):
            verify_backup(store_with({**objects, name: bytes(damaged)}), BACKUP_ID, NoWork())


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_truncation_is_found_and_quickly(objects: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(essential(objects)))
    store = store_with({**objects, name: objects[name][: data.draw(st.integers(0, len(objects[name]) - 1))]})
    with pytest.raises(exc.BackupDamaged):
        check_backup(store, BACKUP_ID)
    with pytest.raises(exc.BackupDamaged):
        verify_backup(store, BACKUP_ID, NoWork())


def test_a_missing_object_is_found_quickly_and_named(objects: dict[str, bytes]) -> None:
    for name in essential(objects):
        store = store_with({key: value for key, value in objects.items() if key != name})
        expected = exc.BackupNotFound if name.startswith("roots/") else exc.BackupDamaged
        with pytest.raises(expected) as caught:
            check_backup(store, BACKUP_ID)
        assert name.rpartition("/")[2] in str(caught.value)
        with pytest.raises(expected):
            restored(store, len(CONTENT))


def test_two_packs_that_changed_places_are_found(objects: dict[str, bytes]) -> None:
    packs = [name for name in essential(objects) if "/d-" in name]
    swapped = {**objects, packs[0]: objects[packs[1]], packs[1]: objects[packs[0]]}
    with pytest.raises(exc.BackupDamaged):
        verify_backup(store_with(swapped), BACKUP_ID, NoWork())
    with pytest.raises(exc.BackupDamaged):
        restored(store_with(swapped), len(CONTENT))


def test_a_root_of_another_backup_is_not_taken_for_this_one(objects: dict[str, bytes]) -> None:
    other = "00000000-0000-4000-8000-000000000000"
    store = store_with({**objects, names.root(other): objects[names.root(BACKUP_ID)]})
    with pytest.raises(exc.BackupDamaged, match=BACKUP_ID):
        check_backup(store, other)


def test_an_unreachable_store_is_not_called_damage(objects: dict[str, bytes]) -> None:
    for method in ("get", "get_range", "list"):
        store = store_with(objects)
        store.script.set(method, fail=True, error="BackendUnavailable")
        with pytest.raises(exc.BackendUnavailable):
            verify_backup(store, BACKUP_ID, NoWork())


# -- scan ----------------------------------------------------------------------------------


def test_a_scan_finds_whole_unfinished_and_damaged_backups(objects: dict[str, bytes]) -> None:
    store = store_with(objects)
    damaged, unfinished = (f"{number}0000000-0000-4000-8000-000000000000" for number in (1, 2))
    store.put(names.root(damaged), b"VOLSVCRT-nonsense")
    store.put(names.started(unfinished), b"{}")
    store.put("roots/somebody-elses", b"x")
    found = {item.backup_id: item for item in scan(store)}
    assert set(found) == {BACKUP_ID, damaged, unfinished, "somebody-elses"}
    root = found[BACKUP_ID].root
    assert root is not None
    assert root.volume_bytes == len(CONTENT)
    assert found[damaged].problem
    assert found["somebody-elses"].problem
    assert found[unfinished].is_unfinished
    assert not found[damaged].is_unfinished


def test_a_scan_of_a_store_that_goes_away_is_no_short_list(objects: dict[str, bytes]) -> None:
    store = store_with(objects)
    store.script.set("list", fail=1, skip=1, error="BackendUnavailable")
    with pytest.raises(exc.BackendUnavailable):
        list(scan(store))
