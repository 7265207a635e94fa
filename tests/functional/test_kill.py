"""kill -9 of the daemon in the middle of everything it does.

After the next start all that was promised is finished, nothing is in between, records, files and
exporters agree, and whoever writes to an attached volume has noticed nothing.
"""

from __future__ import annotations

import collections
import os
import random
import secrets
import time
from collections.abc import Callable

import pytest

from tests.functional.kill_actions import ACTIONS, Action, Request
from tests.functional.user import MIB, User, expected_files, fill
from tests.functional.writer import StampWriter, read_stamps
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.ports import Query
from volsvc.testing.daemon import Daemon, wait_until

SEED_VARIABLE = "VOLSVC_TEST_SEED"
OPEN = Query(filters={"state": ["queued", "running"]})
BLOCKS = {at * MIB: 4 * MIB for at in range(0, 640, 20)}  # 128 MiB of data, scattered


def require_agreement(user: User) -> None:
    """Nothing is in between, and records, files, exporters and promised capacity agree."""
    state = user.state()
    assert state.stuck() == []
    bad = {**state.volumes, **state.snapshots, **state.attachments}
    assert [key for key, row in bad.items() if row["status"].startswith("error")] == []
    assert set(state.files) == expected_files(state)
    connected = {row["volume_id"] for row in state.attachments.values() if row["connection_info"]}
    exporting = {path.parent.name for path in user.daemon.root.glob("run/qsd-*/*/pid")}
    assert exporting == {key.replace("-", "") for key in connected}
    assert len(state.exporters) == len(connected)
    store = SqlStore(create_engine(f"sqlite:///{user.daemon.state}/volsvc.sqlite"))
    [service] = [service for service in store.list_services() if service.serves_volumes]
    assert service.allocated_gb == sum(row["size"] for row in state.volumes.values())


def clear(user: User) -> None:
    """Delete all but what the rounds share."""
    state = user.state()
    for key, row in state.attachments.items():
        if state.volumes[row["volume_id"]]["name"] not in ("source", "witness"):
            user.cinder.attachments.delete(key)
    for key in state.snapshots:
        user.cinder.volume_snapshots.delete(key)
    wait_until(lambda: not user.cinder.volume_snapshots.list(), "the snapshots to be gone")
    for key, row in state.volumes.items():
        if row["name"] not in ("source", "witness"):
            user.cinder.volumes.delete(key)
    wait_until(lambda: len(user.cinder.volumes.list()) == 2, "the volumes to be gone")


def wait_for_work(store: SqlStore, request: Request) -> None:
    """Until an operation is recorded, without a pause, or the request has ended without."""
    wait_until(lambda: store.list_operations(OPEN).items or request.has_ended, "work to begin", pause_s=0)


def run_rounds(daemon: Daemon, rounds: int) -> None:
    seed = int(os.environ.get(SEED_VARIABLE, secrets.randbelow(2**32)))
    print(f"{SEED_VARIABLE}={seed}")
    rng = random.Random(seed)
    user = User(daemon.start().wait_ready())
    source = user.create(1, name="source")
    source_data = {offset: rng.randbytes(length) for offset, length in BLOCKS.items()}
    connection = user.connect(source)
    fill(connection, source_data)
    user.disconnect(connection)
    witness = user.connect(user.create(1, name="witness"))
    store = SqlStore(create_engine(f"sqlite:///{daemon.state}/volsvc.sqlite"))
    caught: collections.Counter[str] = collections.Counter()
    plan: list[type[Action]] = []
    with StampWriter(witness) as writer:
        for number in range(rounds):
            if not plan:
                plan = rng.sample(ACTIONS, len(ACTIONS))
            kind = plan.pop()
            action = kind(user, rng, source, source_data)
            moment_s, is_after_claim = rng.uniform(0, kind.window_s), bool(rng.randrange(2))
            request = Request(action.ask)
            if is_after_claim:
                wait_for_work(store, request)
            time.sleep(moment_s)
            daemon.kill()
            open_ones = [f"{operation.action} {operation.state}" for operation in store.list_operations(OPEN).items]
            caught["in the middle" if open_ones else "before or after"] += 1
            was_answered = request.ended_well()
            since = "its record" if is_after_claim else "the request"
            answer = "answered" if was_answered else "not answered"
            print(f"round {number}: {kind.__name__}, {moment_s * 1000:.0f} ms after {since}, {open_ones}, {answer}")
            if not rng.randrange(3):
                killed_again_s = rng.uniform(0.3, 1.2)
                print(f"  and {killed_again_s:.3f} s after its next start")
                daemon.start(wait=False)
                time.sleep(killed_again_s)
                daemon.kill()
            user = User(daemon.start().wait_ready())
            action.user = user
            user.wait_idle()
            action.check(was_answered)
            require_agreement(user)
            clear(user)
            writer.wait_more(5)
    print(dict(caught))
    assert read_stamps(witness) == (writer.count, writer.count)


@pytest.mark.slow
def test_killed_at_random_moments_it_finishes_what_it_promised(make_daemon: Callable[..., Daemon]) -> None:
    run_rounds(make_daemon(), rounds=3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_thirty_times_at_random_moments_it_finishes_what_it_promised(make_daemon: Callable[..., Daemon]) -> None:
    run_rounds(make_daemon(), rounds=33)
