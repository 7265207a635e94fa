"""The fakes fail, wait and hang as told, from inside and from outside the process."""

from __future__ import annotations

import json
import pathlib
import threading
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc.drivers.fake_script import Script


def call(script: Script, method: str, done: list[str] | None = None) -> None:
    with script.applied(method):
        if done is not None:
            done.append(method)


def test_as_many_calls_fail_as_told_after_those_skipped() -> None:
    script = Script({"create_volume": {"skip": 1, "fail": 2, "error": "StorageFull", "message": "no room"}})
    call(script, "create_volume")
    for _ in range(2):
        with pytest.raises(exc.StorageFull, match="no room"):
            call(script, "create_volume")
    call(script, "create_volume")
    assert script.calls("create_volume") == 4


@pytest.mark.parametrize(("when", "expected"), [("before", []), ("after", ["delete_volume"])])
def test_failure_comes_before_or_after_the_work(when: str, expected: list[str]) -> None:
    done: list[str] = []
    with pytest.raises(exc.DriverError):
        call(Script({"delete_volume": {"fail": True, "when": when}}), "delete_volume", done)
    assert done == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DriverConfigurationError", exc.DriverConfigurationError),
        ("MissingDriverLibrary", exc.MissingDriverLibrary),
        ("OSError", OSError),
        ("SystemExit", SystemExit),
        ("NoSuchError", exc.DriverConfigurationError),
    ],
)
def test_any_error_class_may_be_named(name: str, expected: type[BaseException]) -> None:
    with pytest.raises(expected):
        call(Script({"*": {"fail": 1, "error": name}}), "do_setup")


def test_calls_hang_after_those_to_be_skipped_and_until_the_rule_is_gone() -> None:
    script = Script({"do_setup": {"hang": True, "skip": 1}})
    call(script, "do_setup")
    done = threading.Event()

    def run() -> None:
        call(script, "do_setup")
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert not done.wait(0.1)
    script.clear("do_setup")
    assert done.wait(10)
    thread.join(10)


def test_file_is_read_at_each_call_and_counts_are_shared_between_processes(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "script.json"
    script, restarted = Script(path=str(path)), Script(path=str(path))
    call(script, "do_setup")
    path.write_text(json.dumps({"do_setup": {"skip": 1, "fail": 1, "error": "BackendUnavailable"}}))
    with pytest.raises(exc.BackendUnavailable):
        call(restarted, "do_setup")
    call(script, "do_setup")
    assert script.calls("do_setup") == restarted.calls("do_setup") == 3


def test_file_that_is_no_json_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "script.json"
    path.write_text("{")
    with pytest.raises(exc.DriverConfigurationError, match=r"script\.json"):
        call(Script(path=str(path)), "do_setup")


def test_delay_reports_progress_and_can_be_cancelled() -> None:
    class Work:
        def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
            reports.append((done_bytes, total_bytes))
            if done_bytes > 50:
                raise exc.OperationCancelled(id="1")

    reports: list[Any] = []
    with pytest.raises(exc.OperationCancelled), Script({"*": {"delay_s": 0.2}}).applied("x", Work(), 100):
        pass
    assert reports[0] == (0, 100)
    assert reports[-1][0] > 50
