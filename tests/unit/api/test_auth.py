from __future__ import annotations

import base64
import os
import pathlib

import bcrypt
import falcon
import falcon.testing
import pytest

from tests.unit.api.harness import api_options
from volsvc import exceptions as exc
from volsvc.api.auth import HttpBasic, Identity, NoAuth, build_authenticator, check_listen_is_safe


def request(**headers: str) -> falcon.Request:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return falcon.testing.create_req(headers=names)


def basic(user: str, password: str) -> falcon.Request:
    return request(Authorization="Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())


def hash_of(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


@pytest.mark.parametrize(
    ("token", "user", "project"),
    [
        (None, "admin", None),
        ("notused", "admin", None),
        ("", "admin", None),
        ("ann:lab", "ann", "lab"),
        ("ann:a:b", "ann", "a:b"),
        ("ann", "ann", None),
        (":lab", "admin", "lab"),
    ],
)
def test_noauth_takes_user_and_project_from_the_token(token: str | None, user: str, project: str | None) -> None:
    req = request() if token is None else request(X_Auth_Token=token)
    assert NoAuth().identify(req) == Identity(user, project, True)


def test_noauth_refuses_endless_names() -> None:
    with pytest.raises(exc.Unauthorized):
        NoAuth().identify(request(X_Auth_Token="x" * 300))


@pytest.fixture
def users(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "htpasswd"
    path.write_text(f"# people\nadmin:{hash_of('secret')}\nann:{hash_of('word')}\nold:$apr1$x$y\n")
    return path


def test_basic_knows_users_by_their_password(users: pathlib.Path) -> None:
    auth = HttpBasic(str(users), frozenset({"admin"}))
    assert auth.identify(basic("admin", "secret")) == Identity("admin", None, True)
    for _ in range(2):
        assert auth.identify(basic("ann", "word")) == Identity("ann", "ann", False)


@pytest.mark.parametrize(
    "req",
    [
        request(),
        request(Authorization="Bearer x"),
        request(Authorization="Basic %%%"),
        request(Authorization="Basic " + base64.b64encode(b"nocolon").decode()),
        basic("ann", "secret"),
        basic("ann", ""),
        basic("nobody", "word"),
        basic("old", "y"),
    ],
)
def test_basic_refuses_everyone_else(users: pathlib.Path, req: falcon.Request) -> None:
    auth = HttpBasic(str(users), frozenset())
    auth.identify(basic("ann", "word"))
    with pytest.raises(exc.Unauthorized):
        auth.identify(req)


def test_basic_forgets_passwords_when_the_file_changes(users: pathlib.Path) -> None:
    auth = HttpBasic(str(users), frozenset())
    auth.identify(basic("ann", "word"))
    users.write_text(f"ann:{hash_of('other')}\nbob:{hash_of('new')}\n")
    with pytest.raises(exc.Unauthorized):
        auth.identify(basic("ann", "word"))
    assert auth.identify(basic("bob", "new")).user_id == "bob"


def test_basic_without_its_file_stops_the_start(tmp_path: pathlib.Path) -> None:
    options = api_options(auth_strategy="http_basic", http_basic_auth_user_file=os.fspath(tmp_path / "none"))
    with pytest.raises(exc.ConfigurationError, match="http_basic_auth_user_file"):
        build_authenticator(options)


def test_keystone_is_refused_clearly() -> None:
    with pytest.raises(exc.ConfigurationError, match="keystone is not available"):
        build_authenticator(api_options(auth_strategy="keystone"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_noauth_may_listen_on_loopback(host: str) -> None:
    check_listen_is_safe(api_options(osapi_volume_listen=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "no.such.host.invalid"])
def test_noauth_refuses_to_listen_elsewhere(host: str) -> None:
    with pytest.raises(exc.ConfigurationError, match="noauth"):
        check_listen_is_safe(api_options(osapi_volume_listen=host))


def test_noauth_may_listen_on_a_unix_socket_and_passwords_anywhere() -> None:
    check_listen_is_safe(api_options(osapi_volume_listen="0.0.0.0", osapi_volume_listen_unix="/run/api"))
    check_listen_is_safe(api_options(osapi_volume_listen="0.0.0.0", auth_strategy="http_basic"))
