"""A file that is wrong in any way changes nothing, is told everywhere, and a good one clears it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest

from tests.functional.healing.backends import HealingDaemon
from tests.functional.reload.reloading import applied, refused, reload
from volsvc.testing.daemon import wait_until
from volsvc.testing.nbd_client import NbdClient

Make = Callable[..., HealingDaemon]
CONNECTOR = {"host": "test", "ip": "127.0.0.1", "initiator": "iqn.test"}

DRIVER_THAT_DOES_NOT_IMPORT = "import nosuchlibrary\n"


def _replace(old: str, new: str) -> Callable[[pathlib.Path], None]:
    def spoil(config: pathlib.Path) -> None:
        text = config.read_text()
        assert old in text
        config.write_text(text.replace(old, new))

    return spoil


BROKEN: dict[str, tuple[Callable[[pathlib.Path], object], list[str]]] = {
    "syntax": (_replace("[DEFAULT]", "[DEFAULT"), ["cinder.conf", "section"]),
    "wrong type": (_replace("service_down_time = 60", "service_down_time = soon"), ["service_down_time", "soon"]),
    "out of range": (_replace("service_down_time = 60", "service_down_time = 1"), ["service_down_time", "1"]),
    "unknown backend": (_replace("enabled_backends = disk", "enabled_backends = disk,nosuch"), ["nosuch", "no group"]),
    "no backend": (_replace("enabled_backends = disk", "enabled_backends ="), ["enabled_backends is empty"]),
    "wrong type in a backend": (_replace("reserved_percentage = 3", "reserved_percentage = few"), ["[disk]", "few"]),
    "deleted": (lambda config: config.unlink(), ["does not exist"]),
    "empty": (lambda config: config.write_text(""), ["can't change by a reload"]),
    "binary": (lambda config: config.write_bytes(bytes(range(256))), ["cinder.conf"]),
    "a directory": (lambda config: (config.unlink(), config.mkdir()), ["not a file"]),
    "driver that does not exist": (_replace("volume_driver = file", "volume_driver = nosuch"), ["nosuch", "file"]),
    "driver that does not import": (
        _replace("volume_driver = file", "volume_driver = broken_driver.Driver"),
        ["nosuchlibrary", "missing"],
    ),
    "setup fails": (_replace("/disk\n", "/elsewhere\n"), ["node@disk is ready now and would not be", "elsewhere"]),
    "log file in no directory": (_replace("debug = false", "log_file = /nosuch/volsvc.log"), ["log_file", "/nosuch"]),
    "wrong log option": (_replace("debug = false", "debug = perhaps"), ["debug", "perhaps"]),
    "unknown transport": (_replace("debug = false", "transport_url = carrier://pigeon"), ["transport_url"]),
    "unknown database": (_replace("[disk]", "[database]\nconnection = nosuch://x\n[disk]"), ["database", "nosuch"]),
    "open API without authentication": (
        _replace("debug = false", "osapi_volume_listen = 0.0.0.0"),
        ["osapi_volume_listen", "noauth"],
    ),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    """One daemon for all the broken files, with an attached volume that must never notice."""
    modules = tmp_path_factory.mktemp("modules")
    (modules / "broken_driver.py").write_text(DRIVER_THAT_DOES_NOT_IMPORT)
    daemon = HealingDaemon(
        "disk",
        {"service_down_time": 60, "debug": "false"},
        disk={"volume_driver": "file", "reserved_percentage": 3},
    )
    daemon.groups["disk"] = {**daemon.groups["disk"], "file_store_path": daemon.root / "disk"}
    daemon.write()
    (daemon.root / "disk").mkdir()
    daemon.environment = {"PYTHONPATH": str(modules)}
    with daemon:
        daemon.start().wait_ready()
        cinder = daemon.cinder()
        volume = cinder.volumes.create(1)
        wait_until(lambda: cinder.volumes.get(volume.id).status == "available", "the volume")
        uri = cinder.attachments.create(volume.id, CONNECTOR)["connection_info"]["uri"]
        with NbdClient.from_uri(uri) as nbd:
            yield daemon, nbd


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_changes_nothing_and_a_good_one_clears_the_error(served, kind: str) -> None:
    daemon, nbd = served
    spoil, words = BROKEN[kind]
    pid = daemon.pid
    daemon.write()
    spoil(daemon.config)
    reason = refused(daemon)
    for word in words:
        assert word in reason
    assert "\n" not in reason
    assert daemon.process.poll() is None
    assert daemon.pid == pid
    row = daemon.services()["disk"]
    assert row["is_up"]
    assert row["config_error"] == reason
    nbd.write(0, b"still here")
    assert daemon.cinder().volumes.list()
    if daemon.config.is_dir():
        daemon.config.rmdir()
    applied(daemon)
    assert daemon.services()["disk"]["config_error"] is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_changes_nothing(served) -> None:
    daemon, _ = served
    daemon.config.chmod(0)
    assert "can't be read" in refused(daemon)
    daemon.config.chmod(0o600)
    assert reload(daemon)["error"] is None


@pytest.mark.parametrize("method", ["do_setup", "check_for_setup_error", "read_identity", "get_volume_stats", "close"])
def test_kill_at_each_step_of_a_reload_leaves_a_clean_start_on_the_file_as_it_is(make: Make, method: str) -> None:
    import signal

    daemon = make()
    daemon.start().wait_ready()
    calls = daemon.one.calls(method)
    daemon.one.script(**{method: {"delay_s": 30}})
    daemon.groups["one"] = {**daemon.groups["one"], "fake_capacity_gb": 5}
    daemon.write()
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: daemon.one.calls(method) > calls, f"the reload to be in {method}")
    daemon.kill()
    daemon.one.script()
    daemon.start().wait_ready()
    (pool,) = daemon.cinder().pools.list(detailed=True)
    assert pool.total_capacity_gb == 5
    assert daemon.stop() == 0
