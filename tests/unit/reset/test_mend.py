"""What is stuck, each by each, is found, mended by the reset that is named, and can be deleted then."""

from __future__ import annotations

import pytest

from tests.unit.reset.bench import ADMIN, Backend
from volsvc import exceptions as exc
from volsvc import inspection, models, resets
from volsvc.ports import Query
from volsvc.states import Resource
from volsvc.testing.daemon import wait_until


def mend(backend: Backend) -> str:
    """Mend the one thing that is stuck; returns what it was reset to."""
    (situation,) = backend.store.list_stuck()
    status = str(inspection.mend_of(situation))
    if isinstance(situation.resource, models.Volume):
        backend.api.reset_status(ADMIN, situation.resource.id, status=status)
    else:
        backend.api.reset_snapshot_status(ADMIN, situation.resource.id, status=status)
    assert backend.store.list_stuck() == []
    return status


@pytest.mark.parametrize("status", sorted(resets.GOING_ON))
def test_a_stuck_volume_is_mended_and_can_be_deleted(backend: Backend, status: str) -> None:
    volume = backend.create()
    backend.set_status(Resource.VOLUME, volume.id, status)
    assert mend(backend) in ("available", "error", "error_deleting")
    assert backend.inspect(volume)["disagreements"] == []
    backend.api.delete(ADMIN, volume.id)
    wait_until(lambda: not backend.store.list_volumes(Query()).items, "the volume to be gone")


@pytest.mark.parametrize("status", sorted(resets.SNAPSHOT_GOING_ON))
def test_a_stuck_snapshot_is_mended_and_can_be_deleted(backend: Backend, status: str) -> None:
    snapshot = backend.snapshot(backend.create())
    backend.set_status(Resource.SNAPSHOT, snapshot.id, status)
    expected = {"creating": "error", "deleting": "error_deleting"}.get(status, "available")
    assert mend(backend) == expected
    backend.api.delete_snapshot(ADMIN, snapshot.id)
    wait_until(lambda: not backend.store.list_snapshots(Query()).items, "the snapshot to be gone")


def test_a_stuck_snapshot_that_the_storage_does_not_have_is_not_called_available(backend: Backend) -> None:
    snapshot = backend.snapshot(backend.create())
    backend.driver.delete_snapshot(snapshot)
    backend.set_status(Resource.SNAPSHOT, snapshot.id, "backing-up")
    with pytest.raises(exc.ResetFailed, match="the storage has no snapshot"):
        mend(backend)


@pytest.mark.parametrize("status", ["attaching", "detaching", "in-use", "reserved"])
def test_a_volume_without_attachments_that_says_it_has_some_is_mended(backend: Backend, status: str) -> None:
    volume = backend.create()
    backend.set_status(Resource.VOLUME, volume.id, status)
    assert mend(backend) == "available"


@pytest.mark.parametrize("status", ["attaching", "detaching", "available", "reserved"])
def test_a_volume_with_a_connected_client_is_mended_without_cutting_it(backend: Backend, status: str) -> None:
    volume = backend.create()
    _, client = backend.attach(volume)
    backend.set_status(Resource.VOLUME, volume.id, status)
    assert mend(backend) == "in-use"
    client.write(0, b"goes on")


@pytest.mark.parametrize("status", ["attaching", "detaching"])
def test_an_attachment_that_nothing_ends_is_mended_with_its_volume(backend: Backend, status: str) -> None:
    volume = backend.create()
    attachment, client = backend.attach(volume)
    backend.set_status(Resource.ATTACHMENT, attachment.id, status, connection_info={})
    backend.set_status(Resource.VOLUME, volume.id, status)
    assert mend(backend) == "available"
    with pytest.raises(OSError):
        client.write(0, b"late")
