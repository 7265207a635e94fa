"""Notifications: where they go, what they hide, and that they hold up nobody."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

import pytest

from volsvc import exceptions as exc
from volsvc.rpc.notifier import OsloNotifier
from volsvc.rpc.transport import load_messaging_options
from volsvc.testing.notifier import RecordingNotifier


def build(short_path: Path, text: str = "") -> OsloNotifier:
    path = short_path / "cinder.conf"
    path.write_text(f"[oslo_messaging_notifications]\n{text}")
    return OsloNotifier(
        load_messaging_options([str(path)]), f"unix://{short_path}/rpc", publisher_id="volume.node@fast"
    )


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    return [
        (record.levelname, json.loads(record.getMessage()))
        for record in caplog.records
        if record.name.startswith("oslo.messaging.notification")
    ]


def test_notifications_go_to_the_log_unless_told_otherwise(short_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    notifier = build(short_path)
    notifier.info("volume.create.end", {"volume_id": "v-1"})
    notifier.error("volume.driver.init.error", {"reason": "no disk"})
    notifier.close()
    (level, first), (second_level, second) = logged(caplog)
    assert (level, second_level) == ("INFO", "ERROR")
    assert first["event_type"] == "volume.create.end"
    assert first["publisher_id"] == "volume.node@fast"
    assert first["payload"] == {"volume_id": "v-1"}
    assert second["payload"] == {"reason": "no disk"}
    assert not (short_path / "rpc").exists()


def test_secrets_are_masked_before_any_driver_sees_them(short_path: Path) -> None:
    from oslo_messaging.notify._impl_test import NOTIFICATIONS  # what its driver "test" was given

    del NOTIFICATIONS[:]
    payload = {"connector": {"auth_password": "s3cret"}, "list": [{"admin_pass": "s3cret"}], "volume_id": "v-1"}
    build(short_path, "driver = test\n").info("any", payload)
    ((_context, message, _priority, _retry),) = NOTIFICATIONS
    assert "s3cret" not in str(message)
    assert message["payload"]["volume_id"] == "v-1"
    assert payload["connector"] == {"auth_password": "s3cret"}


def test_noop_driver_says_nothing(short_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    build(short_path, "driver = noop\n").info("any", {})
    assert logged(caplog) == []


def test_several_drivers_each_get_it(short_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    build(short_path, "driver = log\ndriver = noop\ndriver = log\n").info("any", {})
    assert len(logged(caplog)) == 2


def test_driver_that_reaches_nobody_raises_nothing_and_takes_no_time(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = time.monotonic()
    build(short_path, "driver = messagingv2\n").info("any", {})
    assert time.monotonic() - begun < 5
    assert "nobody listens for notifications" in caplog.text


@pytest.mark.parametrize("payload", [{"what": threading.Lock()}, None, {1: object()}])
def test_payload_that_can_t_be_sent_raises_nothing(short_path: Path, payload: dict[str, object]) -> None:
    build(short_path).info("any", payload)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("driver = lgo\n", "driver = lgo"),
        ("transport_url = nothing\n", "transport_url"),
        ("transport_url = pigeon://coop\n", "transport_url"),
        ("retry = often\n", "retry"),
    ],
)
def test_bad_configuration_is_refused_with_the_option_s_name(short_path: Path, text: str, found: str) -> None:
    with pytest.raises(exc.ConfigurationError, match=found):
        build(short_path, text)


def test_recording_notifier_remembers_what_was_sent_as_it_was_then() -> None:
    notifier = RecordingNotifier()
    payload = {"list": [1]}
    notifier.info("a", payload)
    payload["list"].append(2)
    notifier.error("b", {})
    assert [(one.priority, one.event_type, one.payload) for one in notifier.sent()] == [
        ("info", "a", {"list": [1]}),
        ("error", "b", {}),
    ]
    assert [one.priority for one in notifier.sent("b")] == ["error"]
    notifier.clear()
    assert notifier.sent() == []


def test_recording_notifier_waits_for_what_another_thread_sends() -> None:
    notifier = RecordingNotifier()
    thread = threading.Timer(0.05, notifier.info, ["late", {}])
    thread.start()
    assert len(notifier.wait_for("late")) == 1
    thread.join()
    with pytest.raises(AssertionError, match="never was not sent"):
        notifier.wait_for("never", timeout_s=0.01)
