"""Requests that wait for an operation's end, when the daemon dies in the middle: on the real store."""

from __future__ import annotations

import itertools
import pathlib
import threading
from collections.abc import Callable, Iterator

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.db import migrate
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.ports import Outcome
from volsvc.testing.stores import builders as b
from volsvc.volume_api import ApiSettings, VolumeAPI
from volsvc.volume_api.base import RING_ATTEMPTS

CONNECTOR = {"host": "client"}
CONNECTED = Outcome("done", first={"connection_info": {"driver_volume_type": "fake", "data": {}}})


def be_away(operation: models.Operation) -> None:
    raise exc.ServiceDown(host=b.HOST, reason="nobody listens")


class Doorbell:
    """Does ``act`` with the operation that is waited for."""

    def __init__(self) -> None:
        self.act: Callable[[models.Operation], None] = lambda operation: None

    def ring(self, host: str) -> None:
        """Nobody listens."""

    def wait_for(self, operation: models.Operation, timeout_s: float) -> None:
        """The second time that it is asked, still nobody listens."""
        act, self.act = self.act, be_away
        act(operation)


class Service:
    def __init__(self, store: SqlStore, response_timeout_s: float) -> None:
        self.store = store
        self.doorbell = Doorbell()
        self.api = VolumeAPI(store, self.doorbell, ApiSettings(response_timeout_s=response_timeout_s))
        row = store.register_service(b.HOST, "cinder-volume", {"instance": "one", "pid": 1, "state": "ready"})
        store.beat([row.id])
        self.volume = b.add_volume(store)

    def attach(self) -> models.Attachment:
        return self.api.create_attachment(b.CONTEXT, self.volume.id, connector=CONNECTOR)

    @property
    def left(self) -> tuple[str, int]:
        """The volume's status, and how many attachments are recorded."""
        attachments = self.store.attachments_of([self.volume.id]).get(self.volume.id, [])
        return self.store.get_volume(self.volume.id).status, len(attachments)


@pytest.fixture
def make_service(tmp_path: pathlib.Path) -> Iterator[Callable[[float], Service]]:
    engine = create_engine(f"sqlite:///{tmp_path}/volsvc.sqlite")
    migrate.sync(engine)
    yield lambda timeout_s: Service(SqlStore(engine), timeout_s)
    engine.dispose()


def test_nobody_listens_so_the_request_is_taken_back_at_once(make_service: Callable[[float], Service]) -> None:
    service = make_service(60)
    service.doorbell.act = be_away
    with pytest.raises(exc.ServiceDown, match="nobody listens"):
        service.attach()
    assert service.left == ("available", 0)


def test_nobody_begins_it_in_time_so_the_request_is_taken_back(make_service: Callable[[float], Service]) -> None:
    service = make_service(0.05)
    with pytest.raises(exc.ServiceDown, match="did not begin within"):
        service.attach()
    assert service.left == ("available", 0)


def test_one_that_runs_on_when_the_wait_is_over_says_where_to_look(make_service: Callable[[float], Service]) -> None:
    service = make_service(0.05)
    service.doorbell.act = lambda operation: b.claim(service.store, operation) and None
    with pytest.raises(exc.OperationTimeout, match="volsvc operation show"):
        service.attach()
    assert service.left == ("attaching", 1)


def test_a_daemon_that_dies_within_it_and_comes_back_answers_it_all_the_same(
    make_service: Callable[[float], Service],
) -> None:
    """It is queued again for a moment then, which is no reason to take it back: it was begun."""
    service = make_service(30)
    looks = itertools.count(1)
    has_waited = threading.Event()
    get_operation = service.store.get_operation

    def noticing(operation_id: str) -> models.Operation:
        if next(looks) > RING_ATTEMPTS + 2:
            has_waited.set()
        return get_operation(operation_id)

    def die_and_come_back(operation: models.Operation) -> None:
        b.claim(service.store, operation, "killed")
        service.store.take_back(b.HOST, "started again", 0)
        service.store.get_operation = noticing  # type: ignore[method-assign]
        threading.Thread(target=go_on, args=(operation,)).start()
        be_away(operation)

    def go_on(operation: models.Operation) -> None:
        assert has_waited.wait(10)
        service.store.finish(b.claim(service.store, operation, "started again"), CONNECTED)

    service.doorbell.act = die_and_come_back
    assert service.attach().connection_info["driver_volume_type"] == "fake"
    assert service.left == ("attaching", 1)
