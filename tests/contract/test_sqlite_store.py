"""The contract of stores, on SQLite, and what is SQLite's own."""

from __future__ import annotations

import datetime as dt
import functools
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc.db import claims, migrate, records, schema
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.db.transactions import Transactions
from volsvc.ports import Outcome, Query, Store
from volsvc.testing.store_contract import StoreContract
from volsvc.testing.stores import builders as b


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)


def open_sqlite(path: str, *, service_down_time_s: float = 60.0) -> SqlStore:
    # What survives a loss of power isn't tested here, and the disk's syncs are most of the time.
    engine = create_engine(f"sqlite:///{path}", is_synchronous=False)
    return SqlStore(engine, service_down_time_s=service_down_time_s)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the schema, migrated once and copied for each test."""
    path = tmp_path_factory.mktemp("schema") / "empty.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    migrate.sync(engine)
    engine.dispose()
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_database, tmp_path / "volsvc.sqlite"))


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def open_store(self, database: Path) -> Callable[..., SqlStore]:
        return functools.partial(open_sqlite, str(database))


@pytest.fixture
def engine(database: Path) -> Iterator[sa.Engine]:
    engine = create_engine(f"sqlite:///{database}", busy_timeout_s=0.2)
    yield engine
    engine.dispose()


def test_a_store_is_what_the_core_asks_for(engine: sa.Engine) -> None:
    store: Store = SqlStore(engine)
    assert store.list_services() == []


def test_a_commit_is_on_the_disk_unless_told_otherwise(database: Path) -> None:
    for is_synchronous, expected in ((True, 2), (False, 1)):
        engine = create_engine(f"sqlite:///{database}", is_synchronous=is_synchronous)
        with engine.connect() as connection:
            values = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        engine.dispose()
        assert values == ["wal", expected, 1]


def test_a_transaction_that_may_write_has_the_lock_from_its_start(database: Path, engine: sa.Engine) -> None:
    other = create_engine(f"sqlite:///{database}")
    try:
        with other.begin():
            store = SqlStore(engine)
            assert store.list_services() == [], "readers don't wait for a writer"
            with pytest.raises(exc.StoreUnavailable, match="locked"):
                store.register_service(b.HOST, "volsvc-volume", {})
        store.register_service(b.HOST, "volsvc-volume", {})
    finally:
        other.dispose()


def test_a_reader_does_not_keep_a_writer_waiting(database: Path, engine: sa.Engine) -> None:
    store = SqlStore(engine)

    def look_and_write(connection: sa.Connection) -> int:
        before = connection.execute(sa.select(sa.func.count()).select_from(schema.services)).scalar_one()
        SqlStore(other).register_service(b.HOST, "volsvc-volume", {})
        return before

    other = create_engine(f"sqlite:///{database}", busy_timeout_s=0.2)
    try:
        assert Transactions(engine).read(look_and_write) == 0
        assert len(store.list_services()) == 1
    finally:
        other.dispose()


def test_writers_of_one_process_are_served_in_turn(engine: sa.Engine) -> None:
    transactions = Transactions(engine)
    order: list[int] = []
    lined_up = threading.Semaphore(0)
    threads = []

    def write(number: int) -> None:
        lined_up.release()
        transactions.write(lambda connection: order.append(number))

    def hold(connection: sa.Connection) -> None:
        for number in range(5):
            threads.append(threading.Thread(target=write, args=(number,)))
            threads[-1].start()
            lined_up.acquire()
            wait_until(lambda n=number: len(transactions._turns._waiting) == n + 1)  # type: ignore[misc]

    transactions.write(hold)
    for thread in threads:
        thread.join(20)
    assert order == [0, 1, 2, 3, 4]


def test_a_heartbeat_from_the_future_is_no_heartbeat(engine: sa.Engine) -> None:
    store = SqlStore(engine)
    service = store.register_service(b.HOST, "volsvc-volume", {"state": "ready"})
    assert service.is_up
    for delta, is_up in ((3600, False), (-3600, False), (30, True), (-30, True)):
        stepped = b.utcnow() + dt.timedelta(seconds=delta)
        with engine.begin() as connection:
            connection.execute(sa.update(schema.services).values(heartbeat_at=stepped))
        assert store.list_services()[0].is_up is is_up


def test_finding_work_looks_things_up_however_long_the_queue(engine: sa.Engine) -> None:
    store = SqlStore(engine)
    volume = b.add_volume(store)
    template = store.submit(b.create_intent(b.volume_record()))[0]
    rows = []
    for number in range(10_000):
        values = records.values_of(template, schema.operations) | {"id": str(number), "resource_id": f"v{number}"}
        del values["seq"]
        # A third are free, a third share one source, a third wait for one volume.
        kind = number % 3
        values |= {"second_shared": kind == 1, "second_id": volume.id if kind == 1 else None}
        if kind == 2:
            values["resource_id"] = "crowded"
        rows.append(values)
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.operations), rows)
        asked = claims.CLAIMABLE.params(the_hosts=[b.HOST], the_limit=10_000)
        statement = asked.compile(engine, compile_kwargs={"literal_binds": True})
        plan = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")]
    assert [step for step in plan if "SCAN" in step] == []
    assert len(store.claimable(b.HOST, 20_000)) == 1 + 3334 + 3333 + 1


def test_what_the_database_refuses_is_unavailable_and_says_why(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/new.sqlite")
    with pytest.raises(exc.StoreUnavailable, match="db sync"):
        SqlStore(engine).list_services()
    (tmp_path / "bad.sqlite").write_bytes(b"this is no database, but a text" * 100)
    broken = create_engine(f"sqlite:///{tmp_path}/bad.sqlite")
    with pytest.raises(exc.StoreUnavailable, match="not a database"):
        SqlStore(broken).list_services()
    engine.dispose()
    broken.dispose()


def test_a_transaction_that_was_locked_out_is_run_again(engine: sa.Engine) -> None:
    calls: list[int] = []

    def work(connection: sa.Connection) -> str:
        calls.append(1)
        if len(calls) < 3:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise sa.exc.OperationalError("BEGIN", None, error)
        return "done"

    assert Transactions(engine).write(work) == "done"
    assert len(calls) == 3


@pytest.mark.parametrize("lost_call", ["submit", "claim", "finish"])
def test_a_commit_whose_answer_was_lost_is_not_done_twice(engine: sa.Engine, lost_call: str) -> None:
    store = SqlStore(engine)
    volume = b.volume_record()
    lose_next = []

    @sa.event.listens_for(engine, "commit")
    def commit_and_lose(connection: sa.Connection) -> None:
        if lose_next:
            lose_next.pop()
            connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]
            raise sa.exc.OperationalError("COMMIT", None, sqlite3.OperationalError(), connection_invalidated=True)

    def lose(name: str) -> None:
        if name == lost_call:
            lose_next.append(name)

    lose("submit")
    operation = b.submit(store, b.create_intent(volume))
    lose("claim")
    claimed = b.claim(store, operation)
    assert claimed.claim_epoch == 1
    lose("finish")
    ended = store.finish(claimed, Outcome("done"))
    assert not lose_next
    assert store.get_operation(operation.id) == ended
    assert store.list_operations(Query()).items == (ended,)
    assert store.get_volume(volume.id).status == "available"
