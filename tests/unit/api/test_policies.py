from __future__ import annotations

import os
import pathlib

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.api import policies
from volsvc.api.policies import RULES, Policy, list_rules
from volsvc.api.routes import PUBLIC_ROWS, ROWS

ADMIN = models.RequestContext("root", "p", is_admin=True, roles=("admin", "member", "reader"))
MEMBER = models.RequestContext("ann", "p", roles=("member", "reader"))
READER = models.RequestContext("bob", "p", roles=("reader",))


def test_every_row_has_a_rule_that_exists_and_public_ones_have_none() -> None:
    assert {row.rule for row in ROWS} <= set(RULES)
    assert {row.rule for row in PUBLIC_ROWS} == {None}


def test_rules_say_where_they_apply() -> None:
    documented = {rule.name: rule for rule in list_rules()}
    places = getattr(documented["volume:extend"], "operations", None)
    assert places == [{"method": "POST", "path": "/v3/volumes/{id}/action (os-extend)"}]


@pytest.mark.parametrize(
    ("rule", "admin", "member", "reader"),
    [
        ("volume:get", True, True, True),
        ("volume:create", True, True, False),
        ("volume_extension:services:update", True, False, False),
        ("volsvc:anyone", True, True, True),
    ],
)
def test_default_rules(rule: str, admin: bool, member: bool, reader: bool) -> None:
    policy = Policy()
    assert [policy.allows(rule, who) for who in (ADMIN, MEMBER, READER)] == [admin, member, reader]


def test_a_refusal_names_the_rule() -> None:
    with pytest.raises(exc.PolicyNotAuthorized, match="volume_extension:services:index"):
        Policy().check("volume_extension:services:index", MEMBER)


def test_a_file_changes_rules_and_is_read_again_when_it_changes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "_SECONDS_BETWEEN_LOOKS", 0.0)
    path = tmp_path / "policy.yaml"
    path.write_text('"volume:create": "rule:admin_api"\n')
    policy = Policy(str(path))
    assert not policy.allows("volume:create", MEMBER)
    assert policy.allows("volume:delete", MEMBER)
    path.write_text('"volume:create": ""\n"volume:delete": "!"\n')
    assert policy.allows("volume:create", MEMBER)
    assert not policy.allows("volume:delete", ADMIN)
    path.unlink()
    assert policy.allows("volume:delete", MEMBER)


def test_a_bad_file_stops_the_start_and_changes_nothing_later(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "_SECONDS_BETWEEN_LOOKS", 0.0)
    path = tmp_path / "policy.yaml"
    path.write_text('"volume:create": "!"\n')
    policy = Policy(str(path))
    for broken in ('"volume:create": [\n', '"volume:create": "rule:nowhere"\n', "- a list\n"):
        path.write_text(broken)
        assert not policy.allows("volume:create", ADMIN), broken
        with pytest.raises(exc.ConfigurationError, match=r"policy\.yaml"):
            Policy(str(path))


def test_a_file_that_is_missing_means_the_built_in_rules(tmp_path: pathlib.Path) -> None:
    assert Policy(os.fspath(tmp_path / "none.yaml")).allows("volume:create", MEMBER)
