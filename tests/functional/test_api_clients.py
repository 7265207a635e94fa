"""The clients that people use, against a running server: python-cinderclient, ``cinder``, ``openstack``.

The server, the store and ``VolumeAPI`` are the real ones.  The daemon is a doorbell that does
the work as soon as it is rung, so that no command has to wait for another.
"""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.api.harness import WorkingDoorbell, add_service, api_options, work
from volsvc.api.app import build_app
from volsvc.api.server import ApiServer, build_server
from volsvc.db import migrate
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.volume_api import ApiSettings, VolumeAPI

SERVER_ID = "aaaaaaaa-1111-2222-3333-444444444444"


class EagerDoorbell(WorkingDoorbell):
    def ring(self, host: str) -> None:
        work(self._store)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('api')}/volsvc.sqlite")
    migrate.sync(engine)
    store = SqlStore(engine, service_down_time_s=3600)
    add_service(store)
    options = api_options(osapi_volume_listen_port=0, osapi_max_limit=5, api_threads=4)
    app = build_app(VolumeAPI(store, EagerDoorbell(store), ApiSettings(response_timeout_s=10)), options)
    running = build_server(app, options)
    running.start()
    yield running
    running.stop(5.0)
    engine.dispose()


def environment(home: pathlib.Path) -> dict[str, str]:
    """Nothing of the machine's own OpenStack configuration."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "CINDER"))}
    return {**clean, "HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def command(name: str) -> str:
    path = pathlib.Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed beside this Python")
    return str(path)


def run_cinder(server: ApiServer, home: pathlib.Path, *args: str) -> str:
    options = ["--os-auth-type", "noauth", "--os-user-id", "ann", "--os-project-id", "shell"]
    options += ["--os-endpoint", f"{server.address}/v3/shell", "--os-volume-api-version", "3.71"]
    done = subprocess.run(
        [command("cinder"), *options, *args], env=environment(home), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_openstack(server: ApiServer, home: pathlib.Path, *lines: str) -> list[Any]:
    """Commands in one session, to pay for its start once; the JSON of those that print some."""
    options = ["--os-auth-type", "none", "--os-endpoint", f"{server.address}/v3", "--os-volume-api-version", "3.70"]
    done = subprocess.run(
        [command("openstack"), *options],
        input="\n".join([*lines, "quit"]) + "\n",
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert not done.stderr.strip(), done.stdout + done.stderr
    found, text, decoder = [], done.stdout, json.JSONDecoder()
    while (start := min((text.find(c) for c in "[{" if c in text), default=-1)) >= 0:
        value, end = decoder.raw_decode(text, start)
        found.append(value)
        text = text[end:]
    return found


def build_client(server: ApiServer, project: str, version: str = "3.71") -> Any:
    noauth = pytest.importorskip("cinderclient.contrib.noauth")
    from cinderclient import client
    from keystoneauth1 import session

    auth = noauth.CinderNoAuthLoader().load_from_options(
        user_id="ann", project_id=project, endpoint=f"{server.address}/v3"
    )
    return client.Client(version, session=session.Session(auth=auth))


# -- python-cinderclient as a library --------------------------------------------------------


def test_the_library_takes_a_volume_through_its_life(server: ApiServer) -> None:
    cinder = build_client(server, "life")
    made = cinder.volumes.create(1, name="data", metadata={"k": "v"})
    assert cinder.volumes.get(made.id).status == "available"
    cinder.volumes.extend(made, 2)
    cinder.volumes.update(made, name="renamed")
    cinder.volumes.set_metadata(made, {"a/b c": "x"})
    cinder.volumes.set_bootable(made, True)
    shown = cinder.volumes.get(made.id)
    assert (shown.size, shown.name, shown.metadata, shown.bootable) == (
        *(2, "renamed"),
        {"k": "v", "a/b c": "x"},
        "true",
    )
    cinder.volumes.delete_metadata(made, ["k"])
    snapshot = cinder.volume_snapshots.create(made.id, name="before")
    copy = cinder.volumes.create(2, snapshot_id=snapshot.id)
    assert cinder.volumes.get(copy.id).snapshot_id == snapshot.id
    connector = {"host": "client", "mountpoint": "/dev/vdb"}
    attachment = cinder.attachments.create(made.id, connector, SERVER_ID, mode="rw")
    assert attachment["connection_info"]["driver_volume_type"] == "nbd"
    cinder.attachments.complete(attachment["id"])
    shown = cinder.volumes.get(made.id)
    assert (shown.status, shown.attachments[0]["server_id"]) == ("in-use", SERVER_ID)
    cinder.attachments.delete(attachment["id"])
    assert cinder.volumes.get(made.id).status == "available"
    cinder.volumes.force_delete(copy)
    cinder.volumes.delete(made, cascade=True)
    assert cinder.volumes.list() == []
    assert cinder.volume_snapshots.list() == []


def test_the_library_follows_pages_to_the_end(server: ApiServer) -> None:
    cinder = build_client(server, "pages")
    wanted = {cinder.volumes.create(1, name=f"v{i}").id for i in range(12)}
    assert {volume.id for volume in cinder.volumes.list()} == wanted
    assert len(cinder.volumes.list(limit=7)) == 7
    assert [volume.name for volume in cinder.volumes.list(sort="name:asc", limit=2)] == ["v0", "v1"]
    assert [volume.name for volume in cinder.volumes.list(search_opts={"name": "v3"})] == ["v3"]


def test_the_library_sees_our_errors_as_its_own(server: ApiServer) -> None:
    cinder = build_client(server, "errors")
    from cinderclient import exceptions

    with pytest.raises(exceptions.BadRequest, match=r"volume\.size") as caught:
        cinder.volumes.create(0)
    assert caught.value.request_id.startswith("req-")
    with pytest.raises(exceptions.NotFound):
        cinder.volumes.get("nothing")


def test_the_library_works_in_the_oldest_microversion(server: ApiServer) -> None:
    cinder = build_client(server, "old", "3.0")
    made = cinder.volumes.create(1, name="old")
    assert not hasattr(cinder.volumes.get(made.id), "group_id")
    cinder.volumes.delete(made)


# -- the commands ----------------------------------------------------------------------------


def test_cinder_commands(server: ApiServer, tmp_path: pathlib.Path) -> None:
    run_cinder(server, tmp_path, "create", "1", "--name", "one")
    assert "available" in run_cinder(server, tmp_path, "show", "one")
    run_cinder(server, tmp_path, "extend", "one", "2")
    run_cinder(server, tmp_path, "snapshot-create", "one", "--name", "snap")
    assert "one" in run_cinder(server, tmp_path, "list")
    assert "3.71" in run_cinder(server, tmp_path, "version-list")
    assert "node@file" in run_cinder(server, tmp_path, "service-list")
    run_cinder(server, tmp_path, "delete", "one", "--cascade")
    assert "one" not in run_cinder(server, tmp_path, "list")


def test_openstack_commands(server: ApiServer, tmp_path: pathlib.Path) -> None:
    made, listed, snapshot, copy, shown, types, services, pools = run_openstack(
        server,
        tmp_path,
        "volume create --size 1 --property k=v data -f json",
        "volume list -f json",
        "volume set --size 3 --name big data",
        "volume snapshot create --volume big snap -f json",
        "volume create --snapshot snap copy -f json",
        "volume unset --property k big",
        "volume show big -f json",
        "volume delete --force copy",
        "volume snapshot delete snap",
        "volume delete big",
        "volume type list -f json",
        "volume service list -f json",
        "volume backend pool list -f json",
    )
    assert (made["name"], made["size"]) == ("data", 1)
    assert [volume["Name"] for volume in listed] == ["data"]
    assert snapshot["volume_id"] == made["id"]
    assert copy["snapshot_id"] == snapshot["id"]
    assert (shown["size"], shown["name"], shown["properties"]) == (3, "big", {})
    assert "__DEFAULT__" in [found["Name"] for found in types]
    assert [(service["Host"], service["State"]) for service in services] == [("node@file", "up")]
    assert pools[0]["Name"] == "node@file#file"


def test_openstack_attaches_without_a_compute_service(server: ApiServer, tmp_path: pathlib.Path) -> None:
    made, attachment, listed, shown = run_openstack(
        server,
        tmp_path,
        "volume create --size 1 disk -f json",
        f"volume attachment create --server {SERVER_ID} --connect --host client --mode ro disk -f json",
        "volume attachment list -f json",
        "volume show disk -f json",
    )
    assert attachment["Volume ID"] == made["id"]
    assert attachment["Properties"]["driver_volume_type"] == "nbd"
    assert [entry["Server ID"] for entry in listed] == [SERVER_ID]
    assert shown["status"] == "attaching"
    run_openstack(
        server,
        tmp_path,
        f"volume attachment complete {attachment['ID']}",
        f"volume attachment delete {attachment['ID']}",
        "volume delete disk",
    )


# -- what only a real server shows -----------------------------------------------------------


def request(server: ApiServer, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, body=body, headers={"X-Auth-Token": "ann:raw", **headers})
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def test_a_key_with_a_slash_stays_one_key_on_the_way(server: ApiServer) -> None:
    status, body, _ = request(server, "POST", "/v3/volumes", json.dumps({"volume": {"size": 1}}))
    assert status == 202
    path = f"/v3/volumes/{json.loads(body)['volume']['id']}/metadata"
    request(server, "PUT", path, json.dumps({"metadata": {"a/b": "c"}}))
    assert request(server, "GET", f"{path}/a%2Fb")[:2] == (200, b'{"meta": {"a/b": "c"}}')


def test_a_body_is_read_chunked_too_and_one_that_is_too_large_gets_its_answer(server: ApiServer) -> None:
    good = iter([b'{"volume": ', b'{"size": 1}}'])
    assert request(server, "POST", "/v3/volumes", good)[0] == 202
    for too_large in (iter([b" " * 65536] * 10), b" " * 655360):
        status, body, headers = request(server, "POST", "/v3/volumes", too_large)
        assert status == 413
        assert json.loads(body)["overLimit"]["code"] == 413
        assert headers["Retry-After"] == "0"


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(server: ApiServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", "/v3/volumes")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert response.headers["Connection"] == "close"
    connection.close()


def test_a_length_that_is_none_is_refused(server: ApiServer) -> None:
    assert request(server, "POST", "/v3/volumes", None, **{"Content-Length": "many"})[0] == 400
    assert request(server, "GET", "/v3/volumes")[0] == 200


def test_head_has_no_body_on_the_wire(server: ApiServer) -> None:
    status, body, headers = request(server, "HEAD", "/v3/volumes")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0
