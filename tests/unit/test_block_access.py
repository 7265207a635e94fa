"""What the volume manager gives a backup service, and takes back: fake driver, real store."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from tests.unit.fake_backend import Backend
from volsvc import exceptions as exc
from volsvc import models
from volsvc.backup.access import open_sink, open_source
from volsvc.cmd.manage import _operation_row
from volsvc.ports import Intent, Outcome
from volsvc.testing.daemon import wait_until
from volsvc.testing.stores import builders as b


@pytest.fixture
def reader(backend: Backend) -> models.Operation:
    """An operation of another daemon that goes on: a backup's is as good as any."""
    [operation] = backend.store.submit(b.create_intent(b.volume_record(host="elsewhere@backend#pool")))
    return operation


def connect(resource: models.Volume | models.Snapshot, by: models.Operation, **args: Any) -> Intent:
    """``args`` over those of a reader on the same host."""
    kind = "volume" if isinstance(resource, models.Volume) else "snapshot"
    given = {"reader": by.id, "mode": "ro", "connector": {"host": "myhost"}}
    return b.intent(f"{kind}_connect", resource.id, args=given | args)


def readers(backend: Backend) -> frozenset[str]:
    return backend.drivers[-1].list_readers()


def test_a_volume_is_written_and_its_snapshot_read_and_both_are_taken_back(
    backend: Backend, reader: models.Operation
) -> None:
    backend.serve()
    volume = backend.volume()
    written = backend.do(connect(volume, reader, mode="rw"))
    sink = open_sink(written.result["connection_info"], "/nowhere")
    sink.write(4096, memoryview(b"data" * 1024))
    backend.do(b.intent("volume_disconnect", volume.id, args={"reader": reader.id}))
    with pytest.raises(exc.VolumeAccessError):
        sink.write(0, memoryview(b"late"))
    taken = b.snapshot_intent(volume)
    backend.do(taken)
    snapshot = backend.store.get_snapshot(taken.resource_id)
    info = backend.do(connect(snapshot, reader)).result["connection_info"]
    with contextlib.closing(open_source(info, "/nowhere")) as source:
        buffer = bytearray(4)
        source.read_into(4096, memoryview(buffer))
        assert (source.size_bytes, bytes(buffer)) == (models.GIB, b"data")
    for _ in range(2):
        backend.do(b.intent("snapshot_disconnect", snapshot.id, args={"reader": reader.id}))
        assert readers(backend) == frozenset()
    assert backend.store.get_volume(volume.id).status == "available"
    assert backend.store.get_snapshot(snapshot.id).status == "available"


def test_nobody_but_the_reader_sees_what_opens_the_volume(backend: Backend, reader: models.Operation) -> None:
    backend.serve()
    ended = backend.do(connect(backend.volume(), reader))
    assert set(ended.result["connection_info"]) == {"driver_volume_type", "data"}
    assert _operation_row(ended)["result"] == ended.shown_result == {"connection_info": "***"}
    assert "fake.json" not in repr(ended)


def test_an_attached_volume_is_not_read_beside_its_clients(backend: Backend, reader: models.Operation) -> None:
    backend.serve()
    volume = backend.volume()
    backend.attach(volume)
    refused = backend.do(connect(volume, reader), state="failed")
    assert refused.error_class == "InvalidVolume"
    assert "snapshot" in (refused.error or "")
    assert readers(backend) == frozenset()


@pytest.mark.parametrize("args", [{"reader": None}, {"reader": "../escape"}, {"connector": "here"}])
def test_arguments_that_name_no_reader_are_refused(
    backend: Backend, reader: models.Operation, args: dict[str, Any]
) -> None:
    backend.serve()
    backend.do(connect(backend.volume(), reader, **args), state="failed")
    assert readers(backend) == frozenset()


def test_a_reader_that_has_ended_is_given_nothing(backend: Backend, reader: models.Operation) -> None:
    backend.serve()
    volume = backend.volume()
    backend.store.request_cancel(reader.id)
    refused = backend.do(connect(volume, reader), state="failed")
    assert refused.error_class == "Conflict"
    assert backend.script.calls("open_blocks") == 0


def test_a_reader_that_ends_while_it_is_given_the_blocks_keeps_none(backend: Backend, reader: models.Operation) -> None:
    backend.serve()
    volume = backend.volume()
    backend.script.set("open_blocks", hang=True, when="after")
    [connecting] = backend.store.submit(connect(volume, reader))
    wait_until(lambda: readers(backend) == {reader.id}, "the blocks to be open", 10)
    backend.store.request_cancel(reader.id)
    backend.script.clear()
    assert backend.wait_ended(connecting, "failed").error_class == "Conflict"
    assert readers(backend) == frozenset()


def test_what_a_failing_driver_has_half_opened_is_closed(backend: Backend, reader: models.Operation) -> None:
    backend.serve()
    volume = backend.volume()
    backend.script.set("open_blocks", fail=True, when="after")
    backend.do(connect(volume, reader), state="failed")
    assert readers(backend) == frozenset()


def test_what_is_left_of_readers_that_have_ended_goes_when_the_backend_is_initialised(
    backend: Backend, reader: models.Operation
) -> None:
    manager = backend.serve()
    volume = backend.volume()
    gone = b.submit(backend.store, b.create_intent(b.volume_record(host="elsewhere@backend#pool")))
    for each in (reader, gone):
        backend.do(connect(volume, each))
    manager.stop(5.0)
    backend.store.finish(b.claim(backend.store, gone), Outcome("failed", error="it was killed"))
    backend.serve()
    assert readers(backend) == {reader.id}


def test_a_reader_that_can_not_be_closed_does_not_keep_the_backend_down(
    backend: Backend, reader: models.Operation
) -> None:
    manager = backend.serve()
    backend.do(connect(backend.volume(), reader))
    manager.stop(5.0)
    backend.store.request_cancel(reader.id)
    backend.script.set("close_blocks", fail=True)
    backend.serve()
    assert readers(backend) == {reader.id}


def test_connecting_waits_for_nothing_that_stands_in_line(backend: Backend, reader: models.Operation) -> None:
    backend.serve()
    volume = backend.volume()
    backend.script.set("extend_volume", hang=True)
    [extending] = backend.store.submit(b.intent("volume_extend", volume.id, args={"new_size_gb": 2}))
    backend.do(connect(volume, reader))
    assert backend.store.get_operation(extending.id).is_open


def test_a_backend_that_leaves_finishes_what_stands_aside_too(
    backend: Backend, reader: models.Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volsvc.manager.RETIRE_POLL_S", 0.01)
    leaving = backend.serve()
    backend.script.set("open_blocks", hang=True)
    [connecting] = backend.store.submit(connect(backend.volume(), reader))
    waiting = threading.Thread(target=leaving.finish_recorded, args=(30.0,))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    backend.script.clear()
    backend.wait_ended(connecting)
    waiting.join(10)
    assert not waiting.is_alive()
