"""The one sentence that the log, the API and the tools say of a backend."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from volsvc import models
from volsvc.service_words import describe_service, describe_state

NOW = dt.datetime(2030, 1, 1, 12, 0, 0)


def service(**fields: Any) -> models.Service:
    return models.Service(id=1, host="node@one", binary="cinder-volume", heartbeat_at=NOW, **fields)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"state": "starting"}, "starting"),
        ({"state": "ready", "is_up": True}, "ready"),
        ({"state": "ready", "is_up": True, "losses": 1}, "ready (lost once since the start)"),
        (
            {
                "state": "retrying",
                "step": "check_for_setup_error",
                "reason": "connection refused by 10.0.0.5:3260",
                "attempts": 2,
                "max_attempts": 4,
                "next_attempt_at": NOW + dt.timedelta(seconds=41),
            },
            "retrying (check_for_setup_error: connection refused by 10.0.0.5:3260; attempt 2 of 4; next in 41 s)",
        ),
        (
            {"state": "retrying", "step": "do_setup", "reason": "no", "attempts": 9},
            "retrying (do_setup: no; attempt 9)",
        ),
        (
            {"state": "exhausted", "step": "do_setup", "reason": "no", "attempts": 4, "max_attempts": 4},
            "exhausted (do_setup: no; attempt 4 of 4; fix it, then reload or reinit)",
        ),
        (
            {"state": "unrecoverable", "step": "load", "reason": "install it, then reload", "attempts": 1},
            "unrecoverable (load: install it, then reload)",
        ),
        (
            {"state": "lost", "step": "operation", "reason": "gone", "attempts": 7, "max_attempts": 4, "losses": 2},
            "lost (operation: gone; attempt 7; lost 2 times since the start)",
        ),
        (
            {"state": "retrying", "step": "do_setup", "reason": "no answer", "hanging_since": NOW, "attempts": 1},
            "retrying (do_setup: no answer; hanging since 2030-01-01 12:00:00 UTC; attempt 1)",
        ),
        ({"state": "stopped"}, "stopped"),
        (
            {"state": "ready", "is_up": False},
            "silent (no heartbeat since 2030-01-01 12:00:00 UTC: its daemon is gone or can't reach the database)",
        ),
    ],
)
def test_each_state_is_one_sentence_that_says_why_and_what_next(fields: dict[str, Any], sentence: str) -> None:
    assert describe_service(service(**fields), NOW) == sentence


def test_the_daemon_itself_does_not_call_itself_silent() -> None:
    assert describe_state(service(state="ready"), NOW) == "ready"
