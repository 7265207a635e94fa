"""The policy file beside the configuration file, on a real API."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cinderclient import exceptions as client_exceptions

from volsvc.testing.daemon import Daemon


def test_a_rule_of_the_policy_file_is_applied(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(program="volsvc-api")
    (daemon.root / "policy.yaml").write_text('"volume:get_all": "!"\n')
    cinder = daemon.start().cinder()
    with pytest.raises(client_exceptions.Forbidden, match="volume:get_all"):
        cinder.volumes.list()
    assert cinder.volume_types.list()


def test_a_policy_file_that_cannot_be_used_stops_the_start_with_its_name(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(program="volsvc-api")
    (daemon.root / "policy.yaml").write_text('"volume:get_all": "rule:nosuch"\n')
    with pytest.raises(
        RuntimeError, match=r"ended with 1: [\s\S]*policy\.yaml: a rule names a rule that does not exist"
    ):
        daemon.start()
