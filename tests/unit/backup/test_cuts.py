"""Killed at any call to the store or the volume, each piece of work is finished by asking for it again."""

from __future__ import annotations

import contextlib
import pathlib
import random
from typing import Any

import pytest

from tests.unit.backup.worlds import (
    BACKUP_ID,
    CHUNK,
    assert_nothing_leaked,
    engine_threads,
    make,
    new_store,
    request,
    restored,
)
from volsvc import exceptions as exc
from volsvc.backup.drivers.base import MARKER_NAME
from volsvc.backup.drivers.fake import FakeBackupDriver
from volsvc.backup.engine import restore as restoring
from volsvc.backup.engine.create import create_backup
from volsvc.backup.engine.delete import delete_backup
from volsvc.backup.engine.restore import FileJournal, restore_backup
from volsvc.backup.engine.scan import scan
from volsvc.backup.engine.verify import check_backup, verify_backup
from volsvc.backup.format import names
from volsvc.drivers.base import NoWork
from volsvc.testing.cut_store import CutStore
from volsvc.testing.cuts import Cut
from volsvc.testing.memory_blocks import MemorySink, MemorySource

_GENERATOR = random.Random(7)
_UNIQUE = _GENERATOR.randbytes(20 * CHUNK)
#: Several packs with repeats across them, zeros, a hole and a short last chunk.
CONTENT = b"".join((_UNIQUE, bytes(3 * CHUNK), _UNIQUE[: 6 * CHUNK], bytes(5 * CHUNK), _UNIQUE[::-1], b"end"))
EXTENTS = [(0, 29 * CHUNK), (34 * CHUNK, len(CONTENT) - 34 * CHUNK)]


def source() -> MemorySource:
    return MemorySource(CONTENT, EXTENTS)


def create_until_cut(store: FakeBackupDriver, number: int, after: bool, **values: Any) -> CutStore:
    cut = CutStore(store, number, after=after)
    with contextlib.suppress(Cut):
        create_backup(cut, request(**values), source(), NoWork())
    assert not engine_threads()
    return cut


def is_listed_as_whole(store: FakeBackupDriver) -> bool:
    return any(found.root is not None for found in scan(store))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_create_that_was_cut_goes_on_and_leaks_nothing(after: bool, workers: int) -> None:
    for number in range(1, 200):
        store = new_store()
        cut = create_until_cut(store, number, after, workers=workers)
        if is_listed_as_whole(store):
            check_backup(store, BACKUP_ID)
        kept = sum("/d-" in name for name in store.objects.objects)
        again = source()
        create_backup(new_store(store.objects), request(), again, NoWork())
        assert restored(store, len(CONTENT)) == CONTENT
        verify_backup(store, BACKUP_ID, NoWork())
        assert_nothing_leaked(store)
        if kept:
            assert again.read_bytes < sum(length for _, length in EXTENTS)
        if not cut.was_cut:
            assert number > 10
            return
    raise AssertionError("the create does not end")


def test_a_create_that_is_cut_again_and_again_ends() -> None:
    """Each attempt gets a little further: five calls after what it takes to find out what is there."""
    store = new_store()
    for attempt in range(100):
        cut = create_until_cut(store, 10 + 3 * attempt, False)
        if not cut.was_cut:
            break
    assert restored(store, len(CONTENT)) == CONTENT
    assert_nothing_leaked(store)


@pytest.mark.parametrize("lost", range(8))
def test_packs_that_did_not_survive_a_power_cut_are_made_again(lost: int) -> None:
    """Whatever subset of the packs is gone or damaged, references into it are not believed."""
    store = new_store()
    whole = create_until_cut(store, 10_000, False, workers=1)
    assert not whole.was_cut
    store.objects.objects.pop(names.root(BACKUP_ID))
    packs = sorted(name for name in store.objects.objects if "/d-" in name)
    generator = random.Random(lost)
    for pack in generator.sample(packs, k=1 + lost % len(packs)):
        data = store.objects.objects.pop(pack)
        if generator.random() < 0.5:
            store.objects.objects[pack] = data[: generator.randrange(len(data))]
    create_backup(new_store(store.objects), request(), source(), NoWork())
    assert restored(store, len(CONTENT)) == CONTENT
    verify_backup(store, BACKUP_ID, NoWork())
    assert_nothing_leaked(store)


@pytest.mark.parametrize(
    "other", [{"source_token": "later"}, {"chunk_bytes": 2 * CHUNK, "pack_bytes": 16 * CHUNK}], ids=["source", "form"]
)
def test_another_point_in_time_begins_anew(other: dict[str, Any]) -> None:
    store = new_store()
    create_until_cut(store, 9, False)
    assert any("/d-" in name for name in store.objects.objects)
    new = CONTENT[::-1]
    for number in range(1, 40):
        # Beginning anew may be cut too.
        cut = CutStore(store, number)
        with contextlib.suppress(Cut):
            create_backup(cut, request(**other), MemorySource(new), NoWork())
    create_backup(store, request(**other), MemorySource(new), NoWork())
    assert restored(store, len(new)) == new
    assert_nothing_leaked(store)


def test_a_whole_backup_is_left_alone_by_another_create() -> None:
    store = make(source())
    before = dict(store.objects.objects)
    create_backup(store, request(source_token="later"), MemorySource(b"other"), NoWork())
    assert store.objects.objects == before


def test_a_note_that_makes_no_sense_begins_anew() -> None:
    store = new_store()
    create_until_cut(store, 9, False)
    store.objects.objects[names.started(BACKUP_ID)] = b"\xff{"
    create_backup(store, request(), source(), NoWork())
    assert restored(store, len(CONTENT)) == CONTENT
    assert_nothing_leaked(store)


# -- delete --------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_delete_that_was_cut_is_never_listed_as_whole_when_it_is_not(after: bool) -> None:
    for number in range(1, 100):
        store = make(source())
        cut = CutStore(store, number, after=after)
        with contextlib.suppress(Cut):
            delete_backup(cut, BACKUP_ID, NoWork())
        if is_listed_as_whole(store):
            verify_backup(store, BACKUP_ID, NoWork())
        elif len(store.objects.objects) > 1:
            assert [found.backup_id for found in scan(store) if found.is_unfinished] == [BACKUP_ID]
        delete_backup(store, BACKUP_ID, NoWork())
        assert set(store.objects.objects) == {MARKER_NAME}
        if not cut.was_cut:
            assert number > 5
            return
    raise AssertionError("the delete does not end")


def test_deleting_an_unfinished_backup_leaves_nothing_and_others_alone() -> None:
    other_id = "00000000-0000-4000-8000-000000000000"
    store = make(source(), backup_id=other_id)
    before = set(store.objects.objects)
    create_until_cut(store, 9, True)
    assert set(store.objects.objects) > before
    delete_backup(store, BACKUP_ID, NoWork())
    delete_backup(store, BACKUP_ID, NoWork())
    assert set(store.objects.objects) == before
    verify_backup(store, other_id, NoWork())


# -- restore -------------------------------------------------------------------------------


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "_WINDOW_PAGES", 1)


def big_backup() -> tuple[FakeBackupDriver, bytes]:
    """Five pages of small chunks."""
    generator, chunk = random.Random(8), 512
    content = b"".join(
        generator.randbytes(chunk) if generator.random() < 0.1 else bytes(chunk) for _ in range(5 * 1024 - 3)
    )
    return make(MemorySource(content), chunk_bytes=chunk), content


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("is_blank", [True, False])
def test_a_restore_that_was_cut_goes_on_where_it_was_synced(tmp_path: pathlib.Path, is_blank: bool) -> None:
    store, content = big_backup()
    calls: list[str] = []
    counting = MemorySink(len(content), on_call=lambda name, *_: calls.append(name))
    restore_backup(store, BACKUP_ID, counting, NoWork(), is_blank=is_blank)
    was_resumed = False
    for number in range(1, len(calls) + 1, 7):
        journal = FileJournal(str(tmp_path / f"journal-{number}"), "this restore")
        sink = MemorySink(len(content), fill=b"\0" if is_blank else b"\xff")
        left = [number]

        def cut(name: str, offset: int, length: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] <= 0:
                raise Cut(name)

        sink.on_call = cut
        with pytest.raises(Cut):
            restore_backup(store, BACKUP_ID, sink, NoWork(), is_blank=is_blank, journal=journal)
        assert not engine_threads()
        sink.crash()
        sink.on_call = lambda *call: None
        was_resumed = was_resumed or journal.load() > 0
        written = sink.written_bytes
        restore_backup(store, BACKUP_ID, sink, NoWork(), is_blank=is_blank, journal=journal)
        assert sink.synced == content
        if journal.load() and was_resumed:
            assert sink.written_bytes - written <= counting.written_bytes
        journal.remove()
        journal.remove()
    assert was_resumed


def test_a_journal_of_another_restore_is_not_believed(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "journal")
    FileJournal(path, "that one").save(5)
    assert FileJournal(path, "that one").load() == 5
    assert FileJournal(path, "this one").load() == 0
    for damage in ("", "{}", "[]", "null", '{"position": "x", "token": "that one"}'):
        pathlib.Path(path).write_text(damage)
        assert FileJournal(path, "that one").load() == 0


def test_a_journal_that_cannot_be_written_keeps_what_it_had(tmp_path: pathlib.Path) -> None:
    """A full disk under the journals must not end a restore."""
    journal = FileJournal(str(tmp_path / "journal"), "that one")
    journal.save(3)
    (tmp_path / "journal.new").mkdir()
    journal.save(5)
    assert journal.load() == 3
    nowhere = FileJournal(str(tmp_path / "gone" / "journal"), "that one")
    nowhere.save(5)
    assert nowhere.load() == 0


@pytest.mark.parametrize("after", [False, True])
def test_a_restore_cut_at_any_call_to_the_store_is_repeated(after: bool) -> None:
    store = make(source())
    sink = MemorySink(len(CONTENT))
    for number in range(1, 100):
        cut = CutStore(store, number, after=after)
        with contextlib.suppress(Cut):
            restore_backup(cut, BACKUP_ID, sink, NoWork(), is_blank=True)
        if not cut.was_cut:
            assert sink.synced == CONTENT
            assert number > 3
            return
    raise AssertionError("the restore does not end")


# -- errors that aren't kills ----------------------------------------------------------------


def test_a_full_store_fails_the_create_and_deleting_gives_everything_back() -> None:
    store = new_store()
    store.objects.capacity_bytes = 60_000
    with pytest.raises(exc.StorageFull):
        create_backup(store, request(), source(), NoWork())
    assert not engine_threads()
    delete_backup(store, BACKUP_ID, NoWork())
    assert set(store.objects.objects) == {MARKER_NAME}


def test_a_store_that_goes_away_and_comes_back_loses_nothing() -> None:
    store = new_store()
    for skip in range(6):
        store.script.set("put", fail=1, skip=skip, error="BackendUnavailable", message="gone")
        with contextlib.suppress(exc.BackendUnavailable):
            create_backup(store, request(), source(), NoWork())
    store.script.clear()
    create_backup(store, request(), source(), NoWork())
    assert restored(store, len(CONTENT)) == CONTENT
    assert_nothing_leaked(store)


def test_a_store_that_is_unavailable_while_resuming_loses_no_pack() -> None:
    store = new_store()
    create_until_cut(store, 9, True)
    assert any("/d-" in name for name in store.objects.objects)
    before = dict(store.objects.objects)
    store.script.set("get_range", fail=True, error="BackendUnavailable")
    with pytest.raises(exc.BackendUnavailable):
        create_backup(store, request(), source(), NoWork())
    assert store.objects.objects == before


def test_a_volume_that_cannot_be_read_fails_the_create_with_its_own_error() -> None:
    def fail(offset: int, length: int) -> None:
        if offset > 10 * CHUNK:
            raise exc.VolumeAccessError(reason="the disk is broken")

    store = new_store()
    with pytest.raises(exc.VolumeAccessError, match="the disk is broken"):
        create_backup(
            store, request(), MemorySource(CONTENT, [(0, 8 * CHUNK), (30 * CHUNK, 4 * CHUNK)], on_read=fail), NoWork()
        )
    assert not is_listed_as_whole(store)
    assert not engine_threads()
