"""A long piece of work reports how far it is, and stops with all its threads when it is told to."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from tests.unit.backup.worlds import BACKUP_ID, CHUNK, engine_threads, make, new_store, request, restored
from volsvc import exceptions as exc
from volsvc.backup.engine import threads
from volsvc.backup.engine.create import create_backup
from volsvc.backup.engine.delete import delete_backup
from volsvc.backup.engine.restore import restore_backup
from volsvc.backup.engine.scan import scan
from volsvc.backup.engine.verify import verify_backup
from volsvc.testing.memory_blocks import MemorySink, MemorySource

CONTENT = random.Random(10).randbytes(200 * CHUNK)
STOPS = [exc.OperationCancelled, exc.OperationInterrupted, exc.OperationSuperseded]


class Recorder:
    """Work that keeps what it is told and stops at the ``stop_at``-th report."""

    def __init__(self, stop_at: int = 0, error: type[BaseException] = exc.OperationCancelled) -> None:
        self.reports: list[tuple[int, int]] = []
        self.thread_ids: set[int] = set()
        self._stop_at = stop_at
        self._error = error

    def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
        self.reports.append((done_bytes, total_bytes))
        self.thread_ids.add(threading.get_ident())
        if len(self.reports) == self._stop_at:
            raise self._error("stop")


@pytest.fixture(autouse=True)
def tick_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "TICK_S", 0.0)


def jobs() -> dict[str, Callable[[Recorder], object]]:
    whole = make(MemorySource(CONTENT))
    return {
        "create": lambda work: create_backup(new_store(), request(), MemorySource(CONTENT), work),
        "restore": lambda work: restore_backup(whole, BACKUP_ID, MemorySink(len(CONTENT)), work, is_blank=True),
        "verify": lambda work: verify_backup(whole, BACKUP_ID, work),
    }


@pytest.mark.parametrize("job", ["create", "restore", "verify"])
def test_progress_stays_within_the_total_and_ends_there(job: str) -> None:
    work = Recorder()
    jobs()[job](work)
    totals = {total for _, total in work.reports}
    assert len(totals) == 1
    total = totals.pop()
    assert len(work.reports) > 3
    assert all(0 <= done <= total for done, _ in work.reports)
    assert work.reports[-1] == (total, total)
    assert work.thread_ids == {threading.get_ident()}


@pytest.mark.parametrize("error", STOPS)
@pytest.mark.parametrize("job", ["create", "restore", "verify"])
def test_what_the_caller_raises_ends_the_threads_and_passes(job: str, error: type[BaseException]) -> None:
    run = jobs()[job]
    for stop_at in (1, 2, 5):
        with pytest.raises(error, match="stop"):
            run(Recorder(stop_at, error))
        assert not engine_threads()


def test_an_interrupted_create_goes_on_with_what_is_stored() -> None:
    store = new_store()
    for attempt in range(1, 40):
        try:
            create_backup(store, request(), MemorySource(CONTENT), Recorder(2**attempt, exc.OperationInterrupted))
            break
        except exc.OperationInterrupted:
            assert not [found for found in scan(store) if found.root]
    assert restored(store, len(CONTENT)) == CONTENT


def test_a_delete_stops_between_its_steps_and_is_repeated() -> None:
    store = make(MemorySource(CONTENT))
    with pytest.raises(exc.OperationInterrupted):
        delete_backup(store, BACKUP_ID, Recorder(1, exc.OperationInterrupted))
    assert next(iter(scan(store))).is_unfinished
    delete_backup(store, BACKUP_ID, Recorder())
    assert not list(scan(store))


def test_a_thread_that_fails_wakes_all_others() -> None:
    class Boom(Exception):
        pass

    with pytest.raises(Boom), threads.Crew("backup-test", 3, lambda: None) as crew:
        channel: threads.Channel[int] = crew.channel(1)
        started = threading.Barrier(3)

        def wait_for_item() -> None:
            started.wait(30)
            while channel.get() is not None:
                pass

        def fail() -> None:
            started.wait(30)
            raise Boom

        crew.join(*[crew.start(work) for work in (wait_for_item, wait_for_item, fail)])
    assert not engine_threads()


def test_a_caller_that_fails_ends_threads_that_wait_to_put() -> None:
    with pytest.raises(exc.DriverError), threads.Crew("backup-test", 1, lambda: None) as crew:
        channel: threads.Channel[int] = crew.channel(1)

        def fill() -> None:
            while True:
                channel.put(1)

        crew.start(fill)
        raise exc.DriverError(reason="the caller's own")
    assert not engine_threads()


def test_a_closed_channel_gives_what_it_holds_and_then_nothing() -> None:
    channel: threads.Channel[int] = threads.Channel(3)
    channel.put(1)
    channel.put(2)
    channel.close()
    assert [channel.get(), channel.get(), channel.get(), channel.get()] == [1, 2, None, None]


def test_a_full_channel_says_so_in_time() -> None:
    channel: threads.Channel[int] = threads.Channel(1)
    assert channel.put(1, 0.0)
    assert not channel.put(2, 0.01)
