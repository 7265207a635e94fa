"""Contract: several threads and processes at once lose nothing, oversell nothing, claim nothing twice."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TypeVar

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import CapacityClaim, Guards, Intent, Outcome, Query, Store
from volsvc.testing.stores import builders as b

T = TypeVar("T")
OpenStore = Callable[..., Store]


def together(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Run jobs on a thread each, started at the same moment; their results, or the first error."""
    barrier = threading.Barrier(len(jobs))

    def start(job: Callable[[], T]) -> T:
        barrier.wait(30)
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result(60) for future in [pool.submit(start, job) for job in jobs]]


def create_until_full(store: Store, limit_gb: int, attempts: int) -> int:
    """Create 1 GiB volumes until refused; returns how many were recorded."""
    made = 0
    for _ in range(attempts):
        try:
            guards = Guards(capacity=CapacityClaim(b.HOST, 1, limit_gb))
            b.submit(store, b.create_intent(b.volume_record(), guards=guards))
        except exc.CapacityExceeded:
            break
        made += 1
    return made


def claim_all(store: Store, instance: str) -> list[str]:
    """Claim and finish whatever there is; returns the ids that this caller had."""
    had: list[str] = []
    while True:
        candidates = store.claimable(b.HOST, 5)
        if not candidates:
            return had
        for candidate in candidates:
            claimed = store.claim(candidate.id, instance)
            if claimed is not None:
                had.append(claimed.id)
                store.finish(claimed, Outcome("done"))


def work_in_process(open_store: OpenStore, name: str, limit_gb: int) -> tuple[int, list[str]]:
    """What each process of the test does."""
    store = open_store()
    return create_until_full(store, limit_gb, limit_gb), claim_all(store, name)


class RaceContract:
    def test_threads_never_oversell_a_backend(self, store: Store) -> None:
        store.register_service(b.HOST, "volsvc-volume", {})
        made = together([lambda: create_until_full(store, 20, 8)] * 6)
        assert sum(made) == 20
        assert sum(volume.claimed_gb for volume in store.volumes_on(b.HOST)) == 20

    def test_exactly_one_of_many_claimers_wins(self, store: Store) -> None:
        operations = [b.submit(store, b.create_intent(b.volume_record())) for _ in range(5)]
        for operation in operations:
            claims = together([lambda n=n, i=operation.id: store.claim(i, f"i{n}") for n in range(6)])  # type: ignore[misc]
            winners = [claim for claim in claims if claim is not None]
            assert len(winners) == 1
            assert store.get_operation(operation.id).instance == winners[0].instance

    def test_of_many_requests_on_one_volume_one_is_recorded(self, store: Store) -> None:
        volume = b.add_volume(store)

        def ask(action: str) -> models.Operation | None:
            try:
                return b.submit(store, b.intent(action, volume.id))
            except exc.StatusConflict:
                return None

        answers = together([lambda a=a: ask(a) for a in ("volume_extend", "volume_delete") * 4])  # type: ignore[misc]
        recorded = [answer for answer in answers if answer is not None]
        assert len(recorded) == 1
        assert [o.id for o in store.list_operations(Query(filters={"state": "queued"})).items] == [recorded[0].id]

    def test_a_volume_that_is_not_multiattach_is_attached_once(self, store: Store) -> None:
        volume = b.add_volume(store)

        def attach() -> bool:
            try:
                b.submit(store, b.attach_intent(volume))
            except exc.InvalidVolume:
                return False
            return True

        assert together([attach] * 6).count(True) == 1
        assert len(store.attachments_of([volume.id])[volume.id]) == 1

    def test_a_delete_and_a_snapshot_never_both_start(self, store: Store) -> None:
        for _ in range(5):
            volume = b.add_volume(store)

            def ask(intent: Intent) -> bool:
                try:
                    b.submit(store, intent)
                except (exc.StatusConflict, exc.InvalidVolume):
                    return False
                return True

            delete = b.intent("volume_delete", volume.id, guards=Guards(no_snapshots=volume.id))
            answers = together([lambda i=i: ask(i) for i in (delete, b.snapshot_intent(volume))])  # type: ignore[misc]
            assert answers.count(True) == 1

    def test_a_withdrawal_and_a_claim_never_both_succeed(self, store: Store) -> None:
        for _ in range(5):
            operation = b.submit(store, b.create_intent(b.volume_record()))
            jobs: list[Callable[[], object]] = [
                lambda i=operation.id: store.withdraw(i),  # type: ignore[misc]
                lambda i=operation.id: store.claim(i, "me") is not None,  # type: ignore[misc]
            ]
            assert together(jobs).count(True) == 1

    def test_changes_of_metadata_at_once_are_all_kept(self, store: Store) -> None:
        volume = b.add_volume(store)

        def add(number: int) -> None:
            for turn in range(5):
                key = f"{number}-{turn}"
                store.update_volume(volume.id, {"metadata": lambda found, key=key: {**found, key: "kept"}})

        together([lambda n=n: add(n) for n in range(6)])  # type: ignore[misc]
        assert len(store.get_volume(volume.id).metadata) == 30

    def test_an_edit_of_metadata_that_raises_writes_nothing(self, store: Store) -> None:
        volume = b.add_volume(store, metadata={"k": "v"})

        def refuse(found: dict[str, str]) -> dict[str, str]:
            raise exc.MetadataNotFound(id="key")

        with pytest.raises(exc.MetadataNotFound):
            store.update_volume(volume.id, {"name": "new", "metadata": refuse})
        assert store.get_volume(volume.id) == volume

    def test_two_processes_share_a_database(self, store: Store, open_store: OpenStore) -> None:
        store.register_service(b.HOST, "volsvc-volume", {})
        limit_gb = 30
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            futures = [pool.submit(work_in_process, open_store, name, limit_gb) for name in ("a", "b")]
            results = [future.result(90) for future in futures]
        # What one process left for the other may have come after its last look.
        leftovers = claim_all(store, "c")
        assert sum(made for made, _ in results) == limit_gb
        times_claimed = Counter(leftovers)
        for _, had in results:
            times_claimed.update(had)
        assert len(times_claimed) == limit_gb
        assert set(times_claimed.values()) == {1}
        assert {volume.status for volume in store.volumes_on(b.HOST)} == {"available"}
