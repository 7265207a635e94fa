"""The one line that is made of an error."""

from __future__ import annotations

import pytest

from volsvc import exceptions as exc
from volsvc import resets


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (exc.BackendUnavailable(reason="no\n  answer"), "The backend is unavailable: no answer"),
        (RuntimeError("boom"), "RuntimeError: boom"),
        (SystemExit(), "SystemExit"),
        (exc.DriverError("login failed, password=hunter2 user=admin"), "login failed, password=*** user=admin"),
        (RuntimeError("{'auth_password': 'hunter2'}"), "RuntimeError: {'auth_password': '***'}"),
        (exc.DriverError("https://admin:hunter2@10.0.0.1/api refused"), "https://admin:***@10.0.0.1/api refused"),
        (exc.DriverError("connection refused by 10.0.0.5:3260"), "connection refused by 10.0.0.5:3260"),
    ],
)
def test_an_error_is_one_line_without_passwords(error: BaseException, line: str) -> None:
    assert exc.describe(error) == line


@pytest.mark.parametrize("status", sorted(resets.GOING_ON | resets.SNAPSHOT_GOING_ON | resets.BACKUP_GOING_ON))
def test_who_meets_what_goes_on_is_told_to_wait_and_not_to_bring_it_about(status: str) -> None:
    error = exc.StatusConflict(resource="Volume", id="v", status=status, action="volume_delete", allowed="available")
    assert "Bring it there" not in str(error)
