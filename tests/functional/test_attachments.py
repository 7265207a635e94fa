"""Attachments on a real service: their statuses, their clients, and daemons that come and go beneath them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from cinderclient import exceptions

from tests.functional.user import CONNECTOR, MIB, Connection, User
from tests.functional.writer import StampWriter
from volsvc.testing.daemon import Daemon, exporters_under, wait_until
from volsvc.testing.nbd_client import NbdError

SERVER_ID = "aaaaaaaa-1111-2222-3333-444444444444"


def test_reserve_connect_complete_and_detach_each_show(user: User) -> None:
    volume = user.create(1)
    attachments = user.cinder.attachments

    def seen() -> tuple[str, str, str]:
        shown = user.cinder.volumes.get(volume.id)
        row = attachments.list(search_opts={"volume_id": volume.id}, detailed=True)
        return (
            shown.status,
            row[0].status if row else "",
            shown.attachments[0]["server_id"] if shown.attachments else "",
        )

    made = attachments.create(volume.id, None, SERVER_ID)
    assert seen() == ("reserved", "reserved", "")
    assert not made["connection_info"]
    connected = attachments.update(made["id"], CONNECTOR)
    assert seen()[:2] == ("attaching", "attaching")
    Connection(made["id"], connected.connection_info["uri"]).write(0, b"early")
    attachments.complete(made["id"])
    assert seen() == ("in-use", "attached", SERVER_ID)
    attachments.delete(made["id"])
    assert seen() == ("available", "", "")


def test_a_reservation_is_given_back_without_the_backend(user: User) -> None:
    volume = user.create(1)
    made = user.cinder.attachments.create(volume.id, None, SERVER_ID)
    user.cinder.attachments.delete(made["id"])
    assert user.cinder.volumes.get(volume.id).status == "available"
    assert user.state().stuck() == []


def test_a_read_only_attachment_refuses_writes(user: User) -> None:
    volume = user.create(1)
    connection = user.connect(volume, mode="ro")
    with connection.open() as nbd:
        assert nbd.is_read_only
        assert nbd.read(0, 512) == bytes(512)
        with pytest.raises(NbdError):
            nbd.write(0, b"x" * 512)
    assert user.cinder.attachments.show(connection.id).attach_mode == "ro"


def test_clients_of_a_multiattach_volume_are_cut_one_by_one(user: User) -> None:
    kind = user.cinder.volume_types.create(f"multi-{os.urandom(3).hex()}")
    kind.set_keys({"multiattach": "<is> True"})
    volume = user.create(1, volume_type=kind.name)
    assert volume.multiattach
    first, second = user.connect(volume), user.connect(volume)
    with StampWriter(first) as writer, second.open() as other:
        other.write(0, b"from the second")
        user.disconnect(second)
        with pytest.raises(OSError):
            other.read(0, 512)
        writer.wait_more(20)
    assert first.read(0, 15) == b"from the second"
    assert [entry["attachment_id"] for entry in user.wait_volume(volume.id, "in-use").attachments] == [first.id]
    user.disconnect(first)
    user.wait_volume(volume.id)


def test_an_exporter_ends_with_its_last_attachment(make_daemon: Callable[..., Daemon]) -> None:
    user = User(make_daemon().start().wait_ready())
    connection = user.connect(user.create(1))
    assert len(exporters_under(user.daemon.root)) == 1
    user.disconnect(connection)
    assert exporters_under(user.daemon.root) == []


# -- the daemon comes and goes -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_client_writes_on_while_the_daemon_is_down_and_comes_back(
    make_daemon: Callable[..., Daemon], how: str
) -> None:
    daemon = make_daemon().start().wait_ready()
    user = User(daemon)
    volume = user.create(1)
    connection = user.connect(volume)
    exporters = exporters_under(daemon.root)
    with StampWriter(connection) as writer:
        if how == "stop":
            assert daemon.stop() == 0
        else:
            daemon.kill()
        writer.wait_more(50)
        user = User(daemon.start().wait_ready())
        writer.wait_more(50)
        assert exporters_under(daemon.root) == exporters, "the exporter was adopted, not replaced"
    user.disconnect(connection)
    user.wait_volume(volume.id)
    assert exporters_under(daemon.root) == []


def test_an_exporter_that_died_is_started_again_at_the_same_address(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon().start().wait_ready()
    user = User(daemon)
    volume = user.create(1)
    connection = user.connect(volume)
    connection.write(0, b"precious")
    [exporter] = exporters_under(daemon.root)
    daemon.stop()
    os.kill(exporter, signal.SIGKILL)
    wait_until(lambda: not exporters_under(daemon.root), "the exporter to be gone")
    daemon.start().wait_ready()
    assert exporters_under(daemon.root)
    assert connection.read(0, 8) == b"precious"


# -- separate processes ----------------------------------------------------------------------------


@pytest.fixture
def pair(make_daemon: Callable[..., Daemon]) -> tuple[Daemon, Daemon]:
    """volsvc-volume and volsvc-api as processes of their own, on unix:// between them."""
    volume = make_daemon(program="volsvc-volume").start()
    api = make_daemon(volume.root, program="volsvc-api").start()
    api.wait_ready()
    return volume, api


def test_api_and_volume_daemon_as_two_processes_do_the_main_job(pair: tuple[Daemon, Daemon]) -> None:
    user = User(pair[1])
    volume = user.create(1)
    connection = user.connect(volume)
    connection.write(0, b"through two processes")
    user.snapshot(volume)
    user.disconnect(connection)
    user.wait_volume(volume.id)


def test_an_attach_while_the_volume_daemon_is_killed_is_refused_at_once_and_leaves_nothing(
    pair: tuple[Daemon, Daemon],
) -> None:
    daemon, api = pair
    user = User(api)
    volume = user.create(1)
    daemon.kill()
    before = user.state()
    with pytest.raises(exceptions.ClientException, match="node@file") as refused:
        user.cinder.attachments.create(volume.id, CONNECTOR)
    assert refused.value.code == 503
    after = user.state()
    assert (after.volumes[volume.id]["status"], after.attachments) == ("available", {})
    assert after.files == before.files
    assert after.stuck() == []
    reserved = user.cinder.attachments.create(volume.id, None, SERVER_ID)
    with pytest.raises(exceptions.ClientException) as refused:
        user.cinder.attachments.update(reserved["id"], CONNECTOR)
    assert refused.value.code == 503
    assert user.cinder.attachments.show(reserved["id"]).status == "reserved"
    user.cinder.attachments.delete(reserved["id"])
    daemon.start()
    api.wait_ready()
    user.wait_idle()
    assert user.state().attachments == {}
    user.connect(volume)


def test_a_detach_while_the_volume_daemon_is_down_happens_when_it_is_back(pair: tuple[Daemon, Daemon]) -> None:
    daemon, api = pair
    user = User(api)
    volume = user.create(1)
    connection = user.connect(volume)
    daemon.kill()
    user.disconnect(connection)
    shown = user.cinder.attachments.show(connection.id)
    assert shown.status == "detaching", "it is not claimed to be detached before it is"
    assert connection.read(0, MIB) == bytes(MIB)
    daemon.start()
    user.wait_volume(volume.id)
    assert exporters_under(daemon.root) == []


def test_what_is_recorded_while_the_volume_daemon_is_down_is_done_when_it_is_back(pair: tuple[Daemon, Daemon]) -> None:
    daemon, api = pair
    user = User(api)
    first = user.create(1)
    daemon.kill()
    second = user.cinder.volumes.create(1)
    user.cinder.volumes.delete(first)
    assert user.cinder.volumes.get(second.id).status == "creating"
    daemon.start()
    user.wait_volume(second.id)
    user.wait_gone(first)
