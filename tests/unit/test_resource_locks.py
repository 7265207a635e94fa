from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from volsvc.resource_locks import Hold, ResourceLocks


def test_sharers_share_and_an_exclusive_holder_is_alone() -> None:
    locks = ResourceLocks()
    shared, alone = [Hold("a", True)], [Hold("a", False)]
    assert locks.try_acquire(shared)
    assert locks.try_acquire(shared)
    assert not locks.try_acquire(alone)
    locks.release(shared)
    assert not locks.try_acquire(alone)
    locks.release(shared)
    assert locks.try_acquire(alone)
    assert not locks.try_acquire(shared)


def test_all_or_none() -> None:
    locks = ResourceLocks()
    assert locks.try_acquire([Hold("b", False)])
    assert not locks.try_acquire([Hold("a", False), Hold("b", True)])
    assert locks.held() == {"b"}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_what_is_released_is_free_again(wishes: list[tuple[str, bool]]) -> None:
    locks = ResourceLocks()
    taken = []
    for name, is_shared in wishes:
        holds = [Hold(name, is_shared)]
        if locks.try_acquire(holds):
            taken.append(holds)
    for name in "abc":
        shares = [h[0].is_shared for h in taken if h[0].resource_id == name]
        assert all(shares) or len(shares) == 1, "an exclusive holder is alone"
    for holds in taken:
        locks.release(holds)
    assert locks.held() == frozenset()
