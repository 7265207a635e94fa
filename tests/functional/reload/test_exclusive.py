"""A driver that can't exist twice: its operations end first, new ones wait, and it never counts as down."""

from __future__ import annotations

import pathlib
import signal
from collections.abc import Callable

import pytest

from tests.functional.healing.backends import HealingDaemon
from tests.functional.reload.reloading import applied, refused, reload_ended
from volsvc.testing.daemon import wait_until

pytestmark = pytest.mark.slow

Make = Callable[..., HealingDaemon]

DRIVER = """
from volsvc.drivers.fake import FakeDriver

class OnlyOne(FakeDriver):
    exclusive = True
    alive = 0

    def do_setup(self):
        type(self).alive += 1
        assert type(self).alive == 1, "two of them exist"
        super().do_setup()

    def close(self):
        type(self).alive -= 1
        super().close()
"""


@pytest.fixture
def daemon(make: Make, tmp_path: pathlib.Path) -> HealingDaemon:
    (tmp_path / "only_one.py").write_text(DRIVER)
    daemon = make("one")
    daemon.groups["one"] = {**daemon.groups["one"], "volume_driver": "only_one.OnlyOne"}
    daemon.write(driver_init_timeout=5)
    daemon.environment = {"PYTHONPATH": str(tmp_path)}
    daemon.start().wait_ready()
    return daemon


def test_its_operations_end_first_and_new_ones_wait(daemon: HealingDaemon) -> None:
    daemon.one.script(create_volume={"delay_s": 2})
    cinder = daemon.cinder()
    slow = cinder.volumes.create(1)
    wait_until(lambda: daemon.one.calls("create_volume"), "the operation to begin")
    daemon.groups["one"] = {**daemon.groups["one"], "fake_capacity_gb": 5}
    daemon.write()
    position = daemon.log.stat().st_size
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log("service.reload.start", position)
    waiting = cinder.volumes.create(1)
    assert daemon.services()["one"]["is_up"]
    assert reload_ended(daemon, position)["error"] is None
    for volume in (slow, waiting):
        wait_until(lambda volume=volume: cinder.volumes.get(volume.id).status == "available", "both volumes")
    (pool,) = cinder.pools.list(detailed=True)
    assert pool.total_capacity_gb == 5
    assert "two of them exist" not in daemon.words()


def test_the_old_one_is_built_again_when_the_new_one_fails(daemon: HealingDaemon) -> None:
    calls = daemon.one.calls("check_for_setup_error")
    rule = {"skip": calls, "fail": 1, "error": "BackendUnavailable", "message": "wrong address"}
    daemon.one.script(check_for_setup_error=rule)
    daemon.groups["one"] = {**daemon.groups["one"], "fake_capacity_gb": 5}
    daemon.write()
    assert "wrong address" in refused(daemon)
    row = daemon.services()["one"]
    assert (row["state"], row["losses"]) == ("ready", 0)
    volume = daemon.cinder().volumes.create(1)
    cinder = daemon.cinder()
    wait_until(lambda: cinder.volumes.get(volume.id).status == "available", "the volume")
    applied(daemon)


def test_operations_that_take_too_long_refuse_the_reload_and_the_backend_heals(daemon: HealingDaemon) -> None:
    daemon.one.script(create_volume={"delay_s": 12})
    cinder = daemon.cinder()
    slow = cinder.volumes.create(1)
    wait_until(lambda: daemon.one.calls("create_volume"), "the operation to begin")
    daemon.groups["one"] = {**daemon.groups["one"], "fake_capacity_gb": 5}
    daemon.write()
    assert "did not end within 5 s" in refused(daemon)
    wait_until(lambda: cinder.volumes.get(slow.id).status == "available", "the slow volume", 60)
    daemon.wait_state("one", "ready")
