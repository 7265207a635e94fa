"""The contract of a backup driver, as tests to subclass.

Give a class derived from ``BackupDriverContract`` a ``harness`` fixture, and pytest runs it::

    class TestMyDriver(BackupDriverContract):
        @pytest.fixture
        def harness(self, tmp_path):
            yield MyHarness(tmp_path)
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import MARKER_NAME, BackupDriver
from volsvc.backup.engine.create import CreateRequest, create_backup
from volsvc.backup.engine.delete import delete_backup
from volsvc.backup.engine.restore import restore_backup
from volsvc.backup.engine.verify import verify_backup
from volsvc.drivers.base import NoWork
from volsvc.testing.memory_blocks import MemorySink, MemorySource

MIB = 1024**2
BAD_NAMES = ["", "/", "/etc/passwd", "a//b", "../a", "a/../b", "a/.hidden", ".part/a", "a/", "a b", "a\n", "é", "a/./b"]
#: More than any store gives in one page.
MANY = 1003


class BackupDriverHarness:
    """What the suite needs to know of one driver."""

    def new_driver(self) -> BackupDriver:
        """A driver, built but not set up, on the same store as the one before."""
        raise NotImplementedError

    def swap_store(self) -> contextlib.AbstractContextManager[None]:
        """During the block the store has no marker, as when another disk or bucket is in its place."""
        raise NotImplementedError

    #: True when each single call notices a swapped store, not only ``check_identity``.
    notices_at_once = False


def start(harness: BackupDriverHarness) -> BackupDriver:
    """A driver brought up as a manager does it."""
    driver = harness.new_driver()
    driver.do_setup()
    driver.check()
    if driver.read_identity() is None:
        driver.write_identity(str(uuid.uuid4()))
    driver.remove_leftovers()
    return driver


def names_of(driver: BackupDriver, prefix: str = "") -> list[str]:
    return sorted(item.name for page in driver.list(prefix) for item in page)


def aligned(data: bytes) -> memoryview:
    """``data`` in page-aligned memory, as the engine hands packs over."""
    memory = mmap.mmap(-1, max(1, len(data)))
    memory[: len(data)] = data
    return memoryview(memory)[: len(data)]


class BackupDriverContract:
    @pytest.fixture
    def harness(self) -> Iterator[BackupDriverHarness]:
        raise NotImplementedError

    @pytest.fixture
    def driver(self, harness: BackupDriverHarness) -> Iterator[BackupDriver]:
        driver = start(harness)
        yield driver
        driver.close()

    # -- the store's identity ---------------------------------------------------------------

    def test_a_new_store_has_no_identity_and_keeps_the_one_it_is_given(self, harness: BackupDriverHarness) -> None:
        driver = harness.new_driver()
        driver.do_setup()
        driver.check()
        assert driver.read_identity() is None
        identity = str(uuid.uuid4())
        driver.write_identity(identity)
        driver.check_identity()
        again = harness.new_driver()
        again.do_setup()
        again.check()
        assert again.read_identity() == identity

    def test_writing_the_identity_again_succeeds_and_another_is_refused(self, harness: BackupDriverHarness) -> None:
        driver = harness.new_driver()
        driver.do_setup()
        identity = str(uuid.uuid4())
        driver.write_identity(identity)
        driver.write_identity(identity)
        with pytest.raises(exc.BackendUnavailable):
            driver.write_identity(str(uuid.uuid4()))
        assert driver.find_identity() == identity

    def test_a_store_with_a_damaged_marker_is_not_used(self, driver: BackupDriver) -> None:
        driver.put(MARKER_NAME, b"{}")
        with pytest.raises(exc.BackendUnavailable, match="damaged"):
            driver.read_identity()

    def test_a_store_of_a_later_format_is_not_used(self, driver: BackupDriver) -> None:
        driver.put(MARKER_NAME, b'{"format": 2, "uuid": "%s"}' % str(driver.identity).encode())
        with pytest.raises(exc.BackendUnavailable, match="format 2"):
            driver.check_identity()

    def test_a_swapped_store_is_noticed_and_left_alone(
        self, harness: BackupDriverHarness, driver: BackupDriver
    ) -> None:
        driver.put("a", b"kept")
        with harness.swap_store():
            with pytest.raises(exc.BackendUnavailable):
                driver.check_identity()
            if harness.notices_at_once:
                for call in _each_call(driver):
                    with pytest.raises(exc.BackendUnavailable):
                        call()
        assert driver.get("a") == b"kept"
        assert names_of(driver) == ["a", MARKER_NAME]

    def test_the_engine_does_nothing_in_a_swapped_store(
        self, harness: BackupDriverHarness, driver: BackupDriver
    ) -> None:
        backup_id = str(uuid.uuid4())
        request = CreateRequest(backup_id, "now")
        create_backup(driver, request, MemorySource(b"x" * MIB), NoWork())
        before = names_of(driver)
        with harness.swap_store():
            with pytest.raises(exc.BackendUnavailable):
                delete_backup(driver, backup_id, NoWork())
            with pytest.raises(exc.BackendUnavailable):
                create_backup(driver, CreateRequest(str(uuid.uuid4()), "now"), MemorySource(b"x" * MIB), NoWork())
        assert names_of(driver) == before

    # -- objects ----------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [0, 1, 4095, 4096, MIB - 1, MIB + 512, 3 * MIB + 1])
    def test_an_object_comes_back_as_it_was_stored(self, driver: BackupDriver, size: int) -> None:
        data = _pattern(size)
        driver.put("x/bytes", data)
        driver.put("x/aligned", aligned(data))
        driver.put("x/array", bytearray(data))
        driver.put_if_absent("x/absent", aligned(data))
        for name in ("x/bytes", "x/aligned", "x/array", "x/absent"):
            assert driver.get(name) == data
        assert {item.size_bytes for page in driver.list("x/") for item in page} == {size}

    def test_put_replaces(self, driver: BackupDriver) -> None:
        driver.put("a", _pattern(MIB))
        driver.put("a", b"short")
        assert driver.get("a") == b"short"

    def test_put_if_absent_refuses_to_replace(self, driver: BackupDriver) -> None:
        driver.put_if_absent("a/b", b"first")
        with pytest.raises(exc.BackupObjectExists):
            driver.put_if_absent("a/b", b"second")
        assert driver.get("a/b") == b"first"

    def test_of_several_put_if_absent_at_once_exactly_one_wins(self, driver: BackupDriver) -> None:
        barrier = threading.Barrier(6)

        def put(number: int) -> bool:
            barrier.wait(30)
            try:
                driver.put_if_absent("race/x", b"%d" % number)
            except exc.BackupObjectExists:
                return False
            return True

        with ThreadPoolExecutor(6) as pool:
            winners = [number for number, won in enumerate(pool.map(put, range(6))) if won]
        assert [b"%d" % winner for winner in winners] == [driver.get("race/x")]

    def test_what_is_not_there_is_missing_and_nothing_else(self, driver: BackupDriver) -> None:
        driver.put("a/b", b"x")
        for name in ("nothing", "a/c", "a/b-", "c/d/e"):
            with pytest.raises(exc.BackupObjectMissing):
                driver.get(name)
            with pytest.raises(exc.BackupObjectMissing):
                driver.get_range(name, 0, 1)

    def test_ranges(self, driver: BackupDriver) -> None:
        data = _pattern(100_000)
        driver.put("a", data)
        for offset, length in ((0, 10), (5, 0), (99_990, 10), (99_990, 500), (100_000, 1), (200_000, 5), (0, 100_000)):
            assert driver.get_range("a", offset, length) == data[offset : offset + length]

    def test_a_prefix_lists_what_is_below_it(self, driver: BackupDriver) -> None:
        for name in ("a", "a.b/x", "aa/x", "a-/x", "d/x", "d/y/z", "dd"):
            driver.put(name, b"1")
        assert names_of(driver, "d/") == ["d/x", "d/y/z"]
        assert names_of(driver, "d/y/") == ["d/y/z"]
        assert names_of(driver, "nothing/") == []
        assert names_of(driver) == sorted(["a", "a.b/x", "aa/x", "a-/x", "d/x", "d/y/z", "dd", MARKER_NAME])

    def test_listing_and_deleting_many(self, driver: BackupDriver) -> None:
        wanted = [f"many/{number:04d}" for number in range(MANY)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: driver.put(name, b""), wanted))
        pages = list(driver.list("many/"))
        assert len(pages) > 1
        assert sorted(item.name for page in pages for item in page) == wanted
        driver.delete_many([*wanted, "many/nothing"])
        assert names_of(driver) == [MARKER_NAME]

    def test_deleting_is_repeatable(self, driver: BackupDriver) -> None:
        driver.put("a/b/c", b"1")
        driver.put("a/d", b"2")
        driver.delete("a/b/c")
        driver.delete("a/b/c")
        driver.delete("x/y")
        driver.delete_many([])
        assert names_of(driver) == ["a/d", MARKER_NAME]
        driver.put("a/b/c", b"3")
        assert driver.get("a/b/c") == b"3"

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_names_that_could_mean_something_else_are_refused(self, driver: BackupDriver, name: str) -> None:
        calls: Iterable[Callable[[], object]] = (
            lambda: driver.put(name, b""),
            lambda: driver.put_if_absent(name, b""),
            lambda: driver.get(name),
            lambda: driver.get_range(name, 0, 1),
            lambda: driver.delete(name),
            lambda: driver.delete_many(["good", name]),
        )
        for call in calls:
            with pytest.raises(exc.InvalidInput):
                call()
        assert names_of(driver) == [MARKER_NAME]

    @pytest.mark.parametrize("prefix", ["a", "/", "../", "a//", ".part/"])
    def test_prefixes_that_could_mean_something_else_are_refused(self, driver: BackupDriver, prefix: str) -> None:
        with pytest.raises(exc.InvalidInput):
            list(driver.list(prefix))

    def test_several_threads_store_and_delete_at_once(self, driver: BackupDriver) -> None:
        def work(number: int) -> None:
            for turn in range(8):
                name = f"shared/{number}/{turn}"
                driver.put(name, aligned(_pattern(5000 + number)))
                assert driver.get(name) == _pattern(5000 + number)
                driver.delete(name)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert names_of(driver) == [MARKER_NAME]

    def test_room_is_a_number_or_unknown(self, driver: BackupDriver) -> None:
        free = driver.free_bytes()
        assert free is None or free > 0

    def test_closing_after_work_is_quiet(self, harness: BackupDriverHarness) -> None:
        driver = start(harness)
        driver.put("a", b"1")
        driver.close()

    # -- a backup ---------------------------------------------------------------------------

    def test_a_backup_is_made_restored_verified_and_deleted(self, driver: BackupDriver) -> None:
        content = b"".join((_pattern(3 * MIB), bytes(2 * MIB), _pattern(MIB)[::-1], b"end"))
        backup_id = str(uuid.uuid4())
        root = create_backup(driver, CreateRequest(backup_id, "now", pack_bytes=MIB), MemorySource(content), NoWork())
        assert root.volume_bytes == len(content)
        sink = MemorySink(len(content))
        restore_backup(driver, backup_id, sink, NoWork(), is_blank=True)
        assert sink.synced == content
        assert verify_backup(driver, backup_id, NoWork()).packs == len(root.packs)
        delete_backup(driver, backup_id, NoWork())
        assert names_of(driver) == [MARKER_NAME]


def _pattern(size: int) -> bytes:
    """Bytes that repeat only after a long while and don't compress to nothing."""
    step = b"".join(number.to_bytes(4, "little") for number in range(0, 65536 * 7, 7))
    return (step * (size // len(step) + 1))[:size]


def _each_call(driver: BackupDriver) -> Iterator[Callable[[], object]]:
    yield lambda: driver.put("b", b"")
    yield lambda: driver.put_if_absent("b", b"")
    yield lambda: driver.get("a")
    yield lambda: driver.get_range("a", 0, 1)
    yield lambda: list(driver.list(""))
    yield lambda: driver.delete("a")
    yield lambda: driver.delete_many(["a"])
    yield lambda: driver.free_bytes()
    yield driver.check
