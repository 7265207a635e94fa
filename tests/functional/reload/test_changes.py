"""What a good reload changes, and what goes on meanwhile."""

from __future__ import annotations

import pathlib
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable

import pytest

from tests.functional.healing.backends import HealingDaemon
from tests.functional.reload.reloading import applied, refused, reload, reload_ended, resources
from volsvc.testing.daemon import wait_until
from volsvc.testing.nbd_client import NbdClient

pytestmark = pytest.mark.slow

Make = Callable[..., HealingDaemon]
CONNECTOR = {"host": "test", "ip": "127.0.0.1", "initiator": "iqn.test"}


def available(daemon: HealingDaemon, volume_id: str) -> None:
    cinder = daemon.cinder()
    wait_until(lambda: cinder.volumes.get(volume_id).status == "available", "the volume to be available")


def test_nothing_changed_is_applied_and_changes_nothing(start: Make) -> None:
    daemon = start()
    daemon.wait_ready()
    payload = applied(daemon)
    assert payload["parts"] == []
    assert daemon.one.calls("do_setup") == 1


def test_a_changed_option_of_a_backend_builds_a_new_driver_and_the_backend_stays_up(start: Make) -> None:
    daemon = start()
    daemon.wait_ready()
    daemon.groups["one"] = {**daemon.groups["one"], "fake_capacity_gb": 77}
    payload = applied(daemon)
    assert payload["parts"] == ["backend one"]
    assert payload["options"] == ["[one] fake_capacity_gb"]
    assert daemon.one.calls("do_setup") == 2
    (pool,) = daemon.cinder().pools.list(detailed=True)
    assert pool.total_capacity_gb == 77
    assert "lost" not in daemon.words()


def test_an_operation_keeps_the_driver_that_it_began_on(start: Make) -> None:
    daemon = start()
    daemon.wait_ready()
    daemon.one.script(create_volume={"delay_s": 3})
    cinder = daemon.cinder()
    slow = cinder.volumes.create(1)
    wait_until(lambda: daemon.one.calls("create_volume"), "the operation to begin")
    daemon.groups["one"] = {**daemon.groups["one"], "fake_capacity_gb": 50}
    position = daemon.log.stat().st_size
    applied(daemon)
    assert cinder.volumes.get(slow.id).status == "creating"
    daemon.one.script()
    quick = cinder.volumes.create(1)
    available(daemon, quick.id)
    available(daemon, slow.id)
    daemon.wait_for_log("what it replaced has ended", position)
    assert daemon.one.calls("close") == 1, "the old generation is closed when its last operation has ended"


def test_attached_clients_go_on_through_a_reload(make: Make) -> None:
    daemon = make("disk", disk={"reserved_percentage": 0})
    daemon.start().wait_ready()
    cinder = daemon.cinder()
    volume = cinder.volumes.create(1)
    available(daemon, volume.id)
    uri = cinder.attachments.create(volume.id, CONNECTOR)["connection_info"]["uri"]
    with NbdClient.from_uri(uri) as nbd:
        for percentage in range(1, 6):
            nbd.write(0, bytes([percentage]) * 4096)
            daemon.groups["disk"] = {"reserved_percentage": percentage}
            assert applied(daemon)["parts"] == ["backend disk"]
            assert nbd.read(0, 4096) == bytes([percentage]) * 4096


def test_backends_are_added_and_removed_live(make: Make) -> None:
    daemon = make("one,two")
    two = daemon.groups.pop("two")
    daemon.write(enabled_backends="one")
    daemon.start().wait_ready()
    daemon.groups["two"] = two
    applied(daemon, enabled_backends="one,two")
    daemon.wait_ready()
    cinder = daemon.cinder()
    volume = cinder.volumes.create(1, availability_zone="nova")
    available(daemon, volume.id)
    home = getattr(cinder.volumes.get(volume.id), "os-vol-host-attr:host").partition("@")[2].partition("#")[0]
    other = {"one": "two", "two": "one"}[home]
    applied(daemon, enabled_backends=other)
    row = daemon.services()[home]
    assert (row["state"], row["is_up"]) == ("stopped", False)
    assert "not in enabled_backends" in row["reason"]
    with pytest.raises(Exception, match="not in enabled_backends") as raised:
        cinder.volumes.delete(volume)
    assert raised.value.code == 503
    assert cinder.volumes.get(volume.id).status == "available"
    daemon.wait_for_log("reload 2: what it replaced has ended")
    applied(daemon, enabled_backends="one,two")
    daemon.wait_ready()
    cinder.volumes.delete(volume)
    wait_until(lambda: not cinder.volumes.list(), "the volume to be deleted")


def test_a_removed_backend_finishes_what_was_recorded(make: Make) -> None:
    daemon = make("one,two")
    daemon.start().wait_ready()
    for backend in daemon.backends.values():
        backend.script(create_volume={"delay_s": 2})
    cinder = daemon.cinder()
    volumes = [cinder.volumes.create(1) for _ in range(6)]
    applied(daemon, enabled_backends="two")
    for volume in volumes:
        available(daemon, volume.id)


def test_an_added_backend_that_can_not_start_is_accepted_and_retried(make: Make) -> None:
    daemon = make("one,two")
    daemon.write(enabled_backends="one", reinit_driver_count=0)
    daemon.start().wait_ready()
    daemon.backends["two"].script(do_setup={"fail": True, "error": "BackendUnavailable", "message": "not yet"})
    applied(daemon, enabled_backends="one,two")
    daemon.wait_state("two", "retrying")
    daemon.backends["two"].script()
    daemon.wait_state("two", "ready")


def test_a_ready_backend_that_would_not_be_ready_refuses_the_whole_reload(make: Make) -> None:
    daemon = make("one,two")
    daemon.start().wait_ready()
    before = resources(daemon)
    daemon.one.script(do_setup={"fail": True, "error": "BackendUnavailable", "message": "wrong address"})
    daemon.groups["one"] = {**daemon.groups["one"], "fake_capacity_gb": 5}
    daemon.groups["two"] = {**daemon.groups["two"], "fake_capacity_gb": 6}
    daemon.write()
    reason = refused(daemon)
    assert "node@one is ready now and would not be" in reason
    assert "wrong address" in reason
    assert all(row["is_up"] for row in daemon.services().values())
    assert {p.total_capacity_gb for p in daemon.cinder().pools.list(detailed=True)} == {1000}
    assert "wrong address" in daemon.services()["two"]["config_error"]
    wait_until(lambda: resources(daemon)["threads"] <= before["threads"] + 1, "what was built to be gone")
    daemon.one.script()
    assert reload(daemon)["error"] is None
    assert daemon.services()["two"]["config_error"] is None
    assert {p.total_capacity_gb for p in daemon.cinder().pools.list(detailed=True)} == {5, 6}


def test_a_driver_that_hangs_in_a_reload_is_given_up_and_the_old_one_stays(start: Make) -> None:
    daemon = start(driver_init_timeout=1)
    daemon.wait_ready()
    daemon.one.script(do_setup={"hang": True})
    daemon.groups["one"] = {**daemon.groups["one"], "fake_capacity_gb": 5}
    daemon.write()
    assert "has not come back within 1 s" in refused(daemon)
    daemon.one.script()
    volume = daemon.cinder().volumes.create(1)
    available(daemon, volume.id)


def test_sigterm_ends_a_reload_that_hangs(start: Make) -> None:
    daemon = start(driver_init_timeout=60)
    daemon.wait_ready()
    daemon.one.script(do_setup={"hang": True})
    daemon.groups["one"] = {**daemon.groups["one"], "fake_capacity_gb": 5}
    daemon.write()
    calls = daemon.one.calls("do_setup")
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: daemon.one.calls("do_setup") > calls, "the reload to hang")
    assert daemon.stop(30) == 0


def test_sighup_tries_what_is_not_ready_with_the_file_unchanged(start: Make) -> None:
    daemon = start({"do_setup": {"fail": True, "error": "MissingDriverLibrary", "message": "no library"}})
    daemon.wait_state("one", "unrecoverable")
    daemon.one.script()
    assert reload(daemon)["error"] is None
    daemon.wait_state("one", "ready")


def test_another_database_is_taken_and_the_services_are_in_it(start: Make) -> None:
    daemon = start()
    daemon.wait_ready()
    daemon.groups["database"] = {"connection": f"sqlite:///{daemon.root}/other.sqlite"}
    assert "database" in applied(daemon)["parts"]
    daemon.wait_ready()
    volume = daemon.cinder().volumes.create(1)
    available(daemon, volume.id)
    assert (daemon.root / "other.sqlite").exists()


def test_another_transport_is_taken_while_attachments_are_made(start: Make) -> None:
    daemon = start()
    daemon.wait_ready()
    cinder = daemon.cinder()
    errors: list[Exception] = []
    stop = threading.Event()

    def attach() -> None:
        while not stop.is_set():
            try:
                volume = cinder.volumes.create(1)
                available(daemon, volume.id)
                cinder.attachments.create(volume.id, CONNECTOR)
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=attach)
    thread.start()
    try:
        for number in range(5):
            applied(daemon, transport_url=f"unix://{daemon.root}/t{number}")
    finally:
        stop.set()
        thread.join()
    assert errors == []


def test_an_option_that_is_almost_right_is_warned_about(start: Make) -> None:
    daemon = start()
    daemon.wait_ready()
    applied(daemon, report_intervall=5)
    assert "report_intervall is not an option; did you mean report_interval?" in daemon.words()


def test_another_address_is_bound_before_the_old_one_is_left(start: Make) -> None:
    daemon = start()
    daemon.wait_ready()
    old = daemon.url
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        daemon.write(osapi_volume_listen_port=port)
        probe.listen()
        reason = refused(daemon)
        assert "can't listen" in reason
        assert "another program has that port" in reason
    assert urllib.request.urlopen(f"{old}/v3/").status == 200
    applied(daemon, osapi_volume_listen_port=port)
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/v3/").status == 200


@pytest.mark.parametrize("name", ["host", "state_path", "runtime_path"])
def test_what_only_a_restart_can_follow_is_refused_by_name(start: Make, name: str) -> None:
    daemon = start()
    daemon.wait_ready()
    daemon.write(**{name: daemon.root / "elsewhere" if name != "host" else "elsewhere"})
    assert f"{name} can't change by a reload" in refused(daemon)


def test_signals_during_a_reload_make_exactly_one_more(start: Make) -> None:
    daemon = start()
    daemon.wait_ready()
    daemon.one.script(do_setup={"delay_s": 2})
    daemon.groups["one"] = {**daemon.groups["one"], "fake_capacity_gb": 5}
    daemon.write()
    calls = daemon.one.calls("do_setup")
    position = daemon.log.stat().st_size
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: daemon.one.calls("do_setup") > calls, "the reload to be under way")
    for _ in range(5):
        daemon.signal(signal.SIGHUP)
    daemon.wait_for_log(r"reload 2 applied.*nothing had changed", position)
    assert daemon.words(position).count("service.reload.start [-]") == 2


def test_a_signal_during_the_start_is_not_lost(make: Make) -> None:
    daemon = make()
    daemon.start(wait=False)
    pathlib.Path(f"/proc/{daemon.pid}").stat()
    daemon.wait_for_log("the REST API listens on")
    daemon.signal(signal.SIGHUP)
    assert reload_ended(daemon, 0)["error"] is None
    assert daemon.stop() == 0


def test_thirty_reloads_under_work_leave_nothing_behind(start: Make) -> None:
    daemon = start()
    daemon.wait_ready()
    cinder = daemon.cinder()
    applied(daemon)
    before = resources(daemon)
    for number in range(30):
        volume = cinder.volumes.create(1)
        daemon.groups["one"] = {**daemon.groups["one"], "fake_capacity_gb": 100 + number}
        applied(daemon)
        available(daemon, volume.id)
    wait_until(lambda: daemon.words().count("what it replaced has ended") >= 31, "the old generations to be closed", 60)
    # The pool of operation threads fills up to its bound by itself.
    # A client's idle connections may stay open; a reload that leaked one file would have leaked thirty.
    wait_until(lambda: resources(daemon)["files"] <= before["files"] + 5, f"no more open files than before: {before}")
    after = resources(daemon)
    assert after["threads"] <= before["threads"] + 8, (before, after)
    assert after["exporters"] == before["exporters"]
