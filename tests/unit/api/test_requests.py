"""What is the same for every request: discovery, microversions, ids, projects, errors, the access log."""

from __future__ import annotations

import json
import logging
from typing import Any

import falcon.testing
import pytest

from tests.unit.api.harness import ApiHarness, api_options
from volsvc import exceptions as exc
from volsvc.api.app import build_app

GOOD_ID = "req-0a1b2c3d-0000-1111-2222-333344445555"


@pytest.mark.parametrize(("path", "status"), [("/", 300), ("/v3", 200), ("/v3/", 200)])
def test_discovery_needs_no_token_and_no_version(api: ApiHarness, path: str, status: int) -> None:
    answer = api.get(path, token=None, version="volume 9.99")
    assert answer.status == status
    (version,) = answer.body["versions"]
    assert (version["id"], version["status"], version["min_version"], version["version"]) == (
        "v3.0",
        "CURRENT",
        "3.0",
        "3.71",
    )
    assert version["links"][1]["href"].endswith("/v3/")


def test_links_begin_with_the_public_endpoint(store: Any) -> None:
    api = ApiHarness(store, public_endpoint="https://storage.example/block/")
    assert api.get("/").body["versions"][0]["links"][1]["href"] == "https://storage.example/block/v3/"


def test_each_answer_has_its_version_and_ids(api: ApiHarness) -> None:
    for answer in (api.get("/v3/volumes", version=27), api.get("/v3/volumes/none", version=27)):
        assert answer.headers["openstack-api-version"] == "volume 3.27"
        assert answer.headers["vary"] == "OpenStack-API-Version"
        assert answer.headers["x-openstack-request-id"].startswith("req-")
        assert answer.headers["x-openstack-request-id"] == answer.headers["x-compute-request-id"]


@pytest.mark.parametrize(
    ("sent", "is_taken"),
    [(GOOD_ID, True), ("req-1", False), (GOOD_ID + "\tx", False), (GOOD_ID.upper(), False), ("x" * 5000, False)],
)
def test_a_request_id_is_taken_only_if_well_formed(api: ApiHarness, sent: str, is_taken: bool) -> None:
    answer = api.get("/v3/volumes", headers={"X-Openstack-Request-Id": sent})
    assert (answer.headers["x-openstack-request-id"] == sent) is is_taken


def test_the_request_id_reaches_the_operation(api: ApiHarness) -> None:
    api.post("/v3/volumes", {"volume": {"size": 1}}, headers={"X-Openstack-Request-Id": GOOD_ID})
    assert [operation.request_id for operation in api.operations()] == [GOOD_ID]


def test_a_version_out_of_range_is_a_406_and_a_malformed_one_a_400(api: ApiHarness) -> None:
    assert api.get("/v3/volumes", version=72).fault == (
        "computeFault",
        "Version 3.72 is not supported by the API. Minimum is 3.0 and maximum is 3.71.",
    )
    assert api.get("/v3/volumes", version="volume x").status == 400


@pytest.mark.parametrize(("path", "first"), [("/v3/volumes/summary", 12), ("/v3/attachments", 27)])
def test_a_path_of_a_later_version_is_not_there_before(api: ApiHarness, path: str, first: int) -> None:
    assert api.get(path, version=first).status == 200
    assert api.get(path, version=first - 1).fault[0] == "itemNotFound"


@pytest.mark.parametrize("path", ["/v3/volumes", "/v3/project/volumes", "/v3/project/volumes/", "/v3/volumes/"])
def test_the_project_in_the_path_is_optional(api: ApiHarness, path: str) -> None:
    volume = api.new_volume(name="mine")
    assert [v["id"] for v in api.get(path).body["volumes"]] == [volume["id"]]


def test_links_have_the_project_if_the_path_had_it(api: ApiHarness) -> None:
    volume_id = api.new_volume()["id"]
    with_project = api.get(f"/v3/project/volumes/{volume_id}").body["volume"]["links"]
    assert [link["href"].partition(".org")[2] for link in with_project] == [
        f"/v3/project/volumes/{volume_id}",
        f"/project/volumes/{volume_id}",
    ]
    without = api.get(f"/v3/volumes/{volume_id}").body["volume"]["links"]
    assert without[0]["href"].endswith(f"/v3/volumes/{volume_id}")


def test_without_a_token_the_project_of_the_path_counts(api: ApiHarness) -> None:
    body = {"volume": {"size": 1}}
    made = api.post("/v3/lab-7/volumes", body, token="notused").body["volume"]
    assert made["os-vol-tenant-attr:tenant_id"] == "lab-7"
    assert api.get("/v3/lab-7/volumes", token=None).body["volumes"]
    assert not api.get("/v3/other/volumes", token=None).body["volumes"]
    assert api.post("/v3/volumes", body, token=None).body["volume"]["os-vol-tenant-attr:tenant_id"] == "admin"


def test_another_project_than_the_tokens_is_malformed(api: ApiHarness) -> None:
    name, message = api.get("/v3/other/volumes").fault
    assert name == "badRequest"
    assert "Malformed request url" in message


def test_a_project_may_be_called_as_a_collection_is(api: ApiHarness) -> None:
    made = api.post("/v3/types/volumes", {"volume": {"size": 1}}, token="ann:types").body["volume"]
    assert made["os-vol-tenant-attr:tenant_id"] == "types"
    assert api.get("/v3/types/default", token="ann:types").body["volume_type"]["name"] == "__DEFAULT__"


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v3/nowhere", "/v3/project", "/v2/volumes", "/v3/a/b/c", "/v3/volumes/%00"]
)
def test_an_unknown_path_is_not_found_in_cinders_shape(api: ApiHarness, path: str) -> None:
    assert api.get(path, token=None).fault[0] == "itemNotFound"


def test_a_method_that_is_not_there_names_those_that_are(api: ApiHarness) -> None:
    answer = api.request("PATCH", "/v3/volumes")
    assert answer.fault[0] == "badMethod"
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}


def test_head_is_a_get_without_a_body_and_options_says_what_is_allowed(api: ApiHarness) -> None:
    head = api.request("HEAD", "/v3/volumes")
    assert (head.status, head.body) == (200, None)
    assert int(head.headers["content-length"]) == len(json.dumps({"volumes": []}))
    options = api.request("OPTIONS", "/v3/volumes")
    assert options.status == 200
    assert "POST" in options.headers["allow"]


BROKEN_BODIES = [
    b"",
    b"{",
    b"\xff\xfe",
    b'{"volume": NaN}',
    b'{"volume": {"size": 1, "name": "\\ud800"}}',
    b'{"volume": {"size": 1, "name": "a\\u0000b"}}',
    b"[" * 50000,
    b'{"volume": {"size": ' + b"9" * 5000 + b"}}",
    b'"volume"',
    b"null",
]


@pytest.mark.parametrize("raw", BROKEN_BODIES, ids=range(len(BROKEN_BODIES)))
def test_a_broken_body_is_a_400(api: ApiHarness, raw: bytes) -> None:
    answer = api.request("POST", "/v3/volumes", raw=raw)
    assert answer.fault[0] == "badRequest"
    assert len(answer.fault[1]) < 400
    assert api.operations() == []


def test_a_backslash_u_in_a_name_is_no_nul(api: ApiHarness) -> None:
    assert api.new_volume(name="C:\\u0000")["name"] == "C:\\u0000"


def test_another_media_type_is_refused(api: ApiHarness) -> None:
    answer = api.request("POST", "/v3/volumes", {"volume": {}}, headers={"Content-Type": "text/xml"})
    assert "Content-Type" in answer.fault[1]


def test_a_body_that_is_too_large_is_a_413_that_says_when_to_retry(store: Any) -> None:
    api = ApiHarness(store, osapi_max_request_body_size=1024)
    answer = api.request("POST", "/v3/volumes", raw=b" " * 1025)
    assert answer.fault[0] == "overLimit"
    assert answer.headers["retry-after"] == "0"
    assert api.request("POST", "/v3/volumes", raw=b" " * 1024).status == 400


@pytest.mark.parametrize(
    "body", [{}, [], {"os-extend": {"new_size": 2}, "os-force_delete": {}}, {"os-nothing": {}}, "os-extend"]
)
def test_an_action_that_is_not_there_names_those_that_are(api: ApiHarness, body: Any) -> None:
    answer = api.post(f"/v3/volumes/{api.new_volume()['id']}/action", body)
    assert answer.fault[0] == "badRequest"
    assert "os-extend" in answer.fault[1]


def test_an_action_of_a_later_version_is_not_there_before(api: ApiHarness) -> None:
    answer = api.post("/v3/attachments/x/action", {"os-complete": {}}, version=43)
    assert "no such action" in answer.fault[1]


class BrokenApi:
    """A service whose every method raises what it was given."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise self._error

        return fail


def ask_broken(error: Exception) -> falcon.testing.Result:
    app = build_app(BrokenApi(error), api_options())  # type: ignore[arg-type]
    return falcon.testing.TestClient(app).simulate_get("/v3/volumes/x")


def test_an_unexpected_error_tells_the_client_only_where_to_look(caplog: pytest.LogCaptureFixture) -> None:
    result = ask_broken(KeyError("the secret path"))
    assert result.status_code == 500
    fault = result.json["computeFault"]
    assert result.headers["x-openstack-request-id"] in fault["message"]
    assert "secret" not in result.text
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert result.headers["x-openstack-request-id"] in record.getMessage()


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (exc.StatusConflict("volume x is 'error'"), 400, "badRequest"),
        (exc.InvalidVolume(reason="no"), 400, "badRequest"),
        (exc.VolumeTypeExists(name="gold"), 409, "conflictingRequest"),
        (exc.CapacityExceeded(reason="full"), 413, "overLimit"),
        (exc.NoBackendReady(reason="none"), 503, "serviceUnavailable"),
        (exc.OperationTimeout(id="1", reason="slow"), 504, "computeFault"),
        (exc.PolicyNotAuthorized(action="volume:get"), 403, "forbidden"),
        (exc.DriverError(reason="it broke"), 500, "computeFault"),
    ],
)  # fmt: skip
def test_errors_have_cinders_codes_and_names(error: exc.VolsvcError, status: int, name: str) -> None:
    result = ask_broken(error)
    assert result.status_code == status
    assert result.json[name]["message"] == str(error)


def test_a_databases_error_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    result = ask_broken(exc.StoreUnavailable(reason="connect to postgresql://me:word@db failed"))
    assert result.status_code == 503
    assert "word" not in result.text
    assert "connect to" in caplog.text


def test_passwords_in_an_error_are_masked() -> None:
    result = ask_broken(exc.DriverError(reason="login failed: auth_password='hunter2'"))
    assert "hunter2" not in result.text


def test_each_request_has_a_line_in_the_access_log(api: ApiHarness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="volsvc.api.access")
    answer = api.get("/v3/volumes/a\nb?name=hidden", token="ann:project")
    (line,) = [r.getMessage() for r in caplog.records if r.name == "volsvc.api.access"]
    assert "GET /v3/volumes/a%0Ab 404" in line
    assert answer.headers["x-openstack-request-id"] in line
    assert "ann" not in line
