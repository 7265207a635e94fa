"""Random resets beside everything else, daemons killed now and then; ``bench/reset.py --soak`` does many more."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

import pytest

from volsvc.testing.daemon import Daemon
from volsvc.testing.reset_soak import OPTIONS, ResetSoak

SEED_VARIABLE = "VOLSVC_TEST_SEED"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_apart", [False, True], ids=["one process", "the API apart"])
def test_after_rounds_of_random_resets_all_agree_and_nothing_is_stuck(
    make_daemon: Callable[..., Daemon], is_apart: bool
) -> None:
    seed = int(os.environ.get(SEED_VARIABLE, secrets.randbelow(2**32)))
    print(f"{SEED_VARIABLE}={seed}")
    api = daemon = make_daemon(program="volsvc-api" if is_apart else "volsvc-all", options=OPTIONS).start()
    if is_apart:
        daemon = make_daemon(api.root, program="volsvc-volume").start()
    api.wait_ready()
    soak = ResetSoak(api, daemon, seed)
    try:
        tally = soak.run(15)
    finally:
        soak.close()
    assert tally.count("reset") == 60
    assert tally.count("reset", 202) > 10, "resets are done, not only refused"
