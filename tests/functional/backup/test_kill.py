"""kill -9 of real daemons after each step of a backup, a restore and a deletion: each runs to its end afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.functional.backup.backing import BackupUser, ScriptedBackups
from tests.functional.user import MIB, fill
from volsvc.testing.daemon import Daemon

pytestmark = pytest.mark.slow

#: Beyond the pages that a restore does between two notes in its journal.
SIZE_GB = 9
LAST = -1


class Cut(NamedTuple):
    """Killed in the ``call``-th call of a method (``LAST``: its last one), before or after it did its work."""

    method: str
    when: str
    call: int = 1


class Place:
    """A service whose volume driver and store can be made to hang, with an attached and a spare volume."""

    def __init__(self, make_daemon: Callable[..., Daemon], *programs: str) -> None:
        first = make_daemon(program=programs[0])
        self.scripted = ScriptedBackups(first, graceful_shutdown_timeout=2)
        others = [make_daemon(first.root, program=program) for program in programs[1:]]
        self.daemons = {daemon.program: daemon for daemon in (first, *others)}
        for daemon in self.daemons.values():
            daemon.environment = first.environment
            daemon.start()
        self.connect()
        self.source = self.user.create(SIZE_GB)
        connection = self.user.connect(self.source)
        rng = random.Random(1)
        ends = [number * SIZE_GB * 1024 * MIB // 4 for number in range(5)]
        fill(connection, {start: rng.randbytes(12 * MIB) for start in (*ends[:4], ends[4] - 12 * MIB)})
        self.spare = self.user.create(SIZE_GB)
        self.digest = self.user.digest(self.source)

    def connect(self) -> None:
        """Ports change with each start."""
        daemon = next(daemon for daemon in self.daemons.values() if daemon.url)
        self.user = BackupUser(daemon.wait_ready())

    def restart(self, program: str) -> None:
        self.daemons[program].start()
        self.connect()

    def run_cut(self, cut: Cut, calls: dict[str, int], ask: Callable[[], Any], program: str = "volsvc-all") -> Any:
        """Ask, kill in that call, start again; returns what was answered."""
        number = self.scripted.hang(cut.method, calls[cut.method] if cut.call == LAST else cut.call, cut.when)
        answer = ask()
        self.scripted.wait_call(cut.method, number)
        self.daemons[program].kill()
        self.scripted.write({})
        self.restart(program)
        return answer

    def counted(self, run: Callable[[], Any]) -> dict[str, int]:
        """How often each method is called by a run that nothing cuts."""
        before = {method: self.scripted.calls(method) for method in METHODS}
        run()
        self.user.wait_idle()
        return {method: self.scripted.calls(method) - before[method] for method in METHODS}

    def require_well(self, backup: Any) -> None:
        """The backup is whole, holds the volume's bytes, and nothing is left of how it was made."""
        self.user.wait_backup(backup.id)
        self.user.require_nothing_lent()
        self.user.require_store(self.scripted.store)
        assert self.user.cinder.volumes.get(self.source.id).status == "in-use"
        self.user.restore(backup, self.spare)
        assert self.user.digest(self.spare) == self.digest

    def back_up(self) -> Any:
        return self.user.cinder.backups.create(self.source.id, force=True)


METHODS = ("create_snapshot", "close_blocks", "get_pack", "put_pack")
# After one step is before the next one, so each moment is here once.
CREATE_CUTS = (
    *(Cut("create_snapshot", "before"), Cut("create_snapshot", "after"), Cut("open_blocks", "after")),
    *(Cut("put_start", "after"), Cut("put_pack", "after", 3), Cut("put_pages", "before"), Cut("put_pages", "after")),
    *(Cut("put_root", "after"), Cut("delete_snapshot", "before"), Cut("delete_snapshot", "after")),
)
RESTORE_CUTS = (
    *(Cut("open_blocks", "after"), Cut("get_root", "after"), Cut("get_pack", "before")),
    *(Cut("get_pack", "after", LAST), Cut("close_blocks", "after")),
)
TO_NEW_CUTS = (Cut("create_volume", "before"), Cut("create_volume", "after"), Cut("get_pack", "after", LAST))
DELETE_CUTS = (
    *(Cut("delete_root", "before"), Cut("delete_root", "after")),
    *(Cut("delete_data", "after"), Cut("delete_start", "after")),
)


@pytest.fixture
def place(make_daemon: Callable[..., Daemon]) -> Place:
    return Place(make_daemon, "volsvc-all")


def test_killed_after_each_step_of_a_backup_it_is_made_in_the_end(place: Place) -> None:
    calls = place.counted(lambda: place.user.back_up(place.source, force=True))
    for cut in CREATE_CUTS:
        stored = place.scripted.calls("put_pack")
        backup = place.run_cut(cut, calls, place.back_up)
        place.require_well(backup)
        # Two workers may each have had a pack in hand, and end with one that isn't full.
        assert place.scripted.calls("put_pack") - stored <= calls["put_pack"] + 3, f"{cut}: it began anew"
        [operation] = [o for o in place.user.operations(backup.id) if o["action"] == "backup_create"]
        assert operation["attempts"] <= 2, cut
        place.user.cinder.backups.delete(backup.id)
        place.user.wait_backups_gone(backup)


def test_killed_after_each_step_of_a_restore_it_is_done_in_the_end(place: Place) -> None:
    user = place.user
    backup = user.back_up(place.source, force=True)
    calls = place.counted(lambda: user.restore(backup, place.spare))
    for cut in RESTORE_CUTS:
        number = place.scripted.calls("get_pack")
        place.run_cut(cut, calls, lambda: place.user.cinder.restores.restore(backup.id, place.spare.id))
        place.user.wait_volume(place.spare.id)
        place.user.wait_backup(backup.id)
        if (cut.method, cut.call) == ("get_pack", LAST):
            assert place.scripted.calls("get_pack") - number < calls["get_pack"] * 3 // 2, "it began anew"
        assert place.user.digest(place.spare) == place.digest, cut
        place.user.require_nothing_lent()
        place.user.require_store(place.scripted.store)
    for cut in TO_NEW_CUTS:
        made = place.run_cut(cut, calls, lambda: place.user.cinder.restores.restore(backup.id))
        assert place.user.digest(place.user.wait_volume(made.volume_id)) == place.digest, cut
        place.user.require_nothing_lent()


def test_killed_after_each_step_of_a_deletion_nothing_is_left(place: Place) -> None:
    user = place.user
    keep = user.back_up(place.source, force=True)
    for cut in DELETE_CUTS:
        backup = place.user.back_up(place.source, force=True)
        place.run_cut(cut, {}, lambda b=backup: place.user.cinder.backups.delete(b.id))
        place.user.wait_backups_gone(backup)
        place.user.require_nothing_lent()
        place.user.require_store(place.scripted.store)
    place.require_well(keep)


@pytest.mark.parametrize("method", ["put_pack", "get_pack"])
def test_stopped_in_the_middle_it_ends_in_time_and_goes_on_at_the_next_start(place: Place, method: str) -> None:
    """SIGTERM, with less time to finish than is needed."""
    user, daemon = place.user, place.daemons["volsvc-all"]
    kept = user.back_up(place.source, force=True)
    place.scripted.write({method: {"delay_s": 2}})
    number = place.scripted.calls(method)
    if method == "put_pack":
        backup = place.back_up()
    else:
        backup = kept
        user.cinder.restores.restore(kept.id, place.spare.id)
    place.scripted.wait_call(method, number + 1)
    assert daemon.stop() == 0
    place.scripted.write({})
    place.restart("volsvc-all")
    place.user.wait_backup(backup.id)
    [operation] = [o for o in place.user.operations(backup.id) if o["attempts"] == 2]
    assert operation["state"] == "done"
    if method == "get_pack":
        assert place.user.digest(place.user.wait_volume(place.spare.id)) == place.digest
    place.require_well(backup)


SEPARATE = ("volsvc-volume", "volsvc-backup", "volsvc-api")


@pytest.mark.parametrize("program", ["volsvc-volume", "volsvc-backup"])
def test_killed_alone_a_volume_or_a_backup_daemon_leaves_the_other_what_it_does(
    make_daemon: Callable[..., Daemon], program: str
) -> None:
    """Either is killed in what the driver of its own does, and in the middle of what the other one's does."""
    place = Place(make_daemon, *SEPARATE)
    calls = place.counted(lambda: place.user.back_up(place.source, force=True))
    for cut in (
        *(Cut("create_snapshot", "after"), Cut("open_blocks", "before")),
        *(Cut("put_pack", "before", 2), Cut("close_blocks", "before")),
    ):
        backup = place.run_cut(cut, calls, place.back_up, program)
        place.require_well(backup)
        place.user.cinder.backups.delete(backup.id)
        place.user.wait_backups_gone(backup)
    kept = place.user.back_up(place.source, force=True)
    for cut in (Cut("open_blocks", "before"), Cut("get_pack", "before", 2)):
        made = place.run_cut(cut, calls, lambda: place.user.cinder.restores.restore(kept.id), program)
        assert place.user.digest(place.user.wait_volume(made.volume_id)) == place.digest, cut
        place.user.require_nothing_lent()
