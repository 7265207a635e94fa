"""Drivers of somebody else's package: what their mistakes become, without their authors' help."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from tests.functional.healing.backends import HealingDaemon
from volsvc.testing.daemon import wait_until

pytestmark = pytest.mark.slow

Make = Callable[..., HealingDaemon]

GOOD = """
from volsvc.drivers.fake import FakeDriver

class Driver(FakeDriver):
    pass
"""


@pytest.fixture
def outside(make: Make) -> Callable[..., HealingDaemon]:
    """A daemon, not started, whose backend 'one' is ``acme.Driver`` of the given text and 'two' is a fake."""

    def build(text: str, options: dict[str, Any] | None = None, **group: Any) -> HealingDaemon:
        daemon = make("one,two", options)
        packages = daemon.root / "packages"
        packages.mkdir()
        daemon.environment = {"PYTHONPATH": f"{packages}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        install(daemon, "acme", text)
        daemon.groups["one"] = {**daemon.one.group, "volume_driver": "acme.Driver", **group}
        daemon.write()
        return daemon

    return build


def install(daemon: HealingDaemon, module: str, text: str) -> pathlib.Path:
    path = daemon.root / "packages" / f"{module}.py"
    path.write_text(textwrap.dedent(text))
    return path


def require_alone(daemon: HealingDaemon) -> dict[str, Any]:
    """'one' is unrecoverable, and 'two' works beside it."""
    row = daemon.wait_state("one", "unrecoverable")
    daemon.wait_state("two", "ready")
    daemon.new_volume()
    return row


# -- libraries -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "step", "needed_by"),
    [
        (f"import nosuchlib{GOOD}", "load", "{config}: [one] volume_driver = acme.Driver"),
        (f"{GOOD}    def do_setup(self):\n        import nosuchlib\n        super().do_setup()", "do_setup", "Driver"),
        (f"{GOOD}    def check_for_setup_error(self):\n        import nosuchlib", "check_for_setup_error", "Driver"),
    ],
)
def test_a_missing_library_is_named_and_one_installed_later_is_found_at_sighup(
    outside: Make, text: str, step: str, needed_by: str
) -> None:
    daemon = outside(text)
    daemon.start()
    row = require_alone(daemon)
    sentence = (
        f'unrecoverable ({step}: the Python library "nosuchlib" ({needed_by.format(config=daemon.config)}) is missing: '
        "install the package that has it, then reload"
    )
    assert (row["step"], row["last_attempt"]["error_class"]) == (step, "MissingDriverLibrary")
    assert sentence in daemon.manage("service", "list").stdout
    assert sentence in daemon.words()
    api = {service.host: service for service in daemon.cinder().services.list()}
    assert getattr(api["node@one"], "volsvc:init_summary") == sentence + ")"
    install(daemon, "nosuchlib", "")
    daemon.signal(signal.SIGHUP)
    daemon.wait_state("one", "ready")


def test_a_library_that_does_not_fit_is_said_to_be_there(outside: Make) -> None:
    daemon = outside(f"from nosuchlib import Cluster{GOOD}")
    install(daemon, "nosuchlib", "")
    daemon.start()
    reason = require_alone(daemon)["reason"]
    assert '"nosuchlib"' in reason
    assert "cannot import name 'Cluster'" in reason
    assert "is missing" not in reason


def test_a_driver_whose_package_is_installed_later_is_found_by_reinit(outside: Make) -> None:
    daemon = outside(GOOD)
    path = daemon.root / "packages" / "acme.py"
    path.unlink()
    daemon.start()
    assert "there is no module acme" in require_alone(daemon)["reason"]
    path.write_text(GOOD)
    done = daemon.manage("service", "reinit", "node@one")
    assert (done.returncode, done.stdout) == (0, "node@one: ready\n"), done.stderr


@pytest.mark.parametrize("text", ["class Driver(", "raise RuntimeError('no')", "class Other: pass", "Driver = 3"])
def test_a_module_that_is_no_driver_is_unrecoverable(outside: Make, text: str) -> None:
    daemon = outside(text)
    daemon.start()
    row = require_alone(daemon)
    assert row["last_attempt"]["error_class"] == "DriverConfigurationError"
    assert "acme" in row["reason"]


# -- support and options ------------------------------------------------------------------------


def test_an_unsupported_driver_is_refused_until_it_is_enabled(outside: Make) -> None:
    daemon = outside(f"{GOOD}    supported = False")
    daemon.start()
    row = require_alone(daemon)
    assert row["last_attempt"]["error_class"] == "DriverNotSupported"
    assert "enable_unsupported_driver = True" in row["reason"]
    assert daemon.stop() == 0
    daemon.groups["one"]["enable_unsupported_driver"] = True
    daemon.write()
    daemon.start()
    daemon.wait_state("one", "ready")


NEEDY = f"""
from oslo_config import cfg
{GOOD}
    @classmethod
    def declared_options(cls):
        return [*super().declared_options(), cfg.IntOpt("acme_port", required=True, min=1)]
"""


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({}, ["[one] acme_port", "required"]),
        ({"acme_port": "many"}, ["[one] acme_port", "many"]),
        ({"acme_port": 0}, ["[one] acme_port", "0"]),
        ({"acme_port": 1, "enable_unsupported_driver": "perhaps"}, ["[one] enable_unsupported_driver", "perhaps"]),
        ({"acme_port": 1, "fake_capacity_gb": "plenty"}, ["[one] fake_capacity_gb", "plenty"]),
    ],
)
def test_a_wrong_or_missing_option_is_that_backends_trouble_alone(
    outside: Make, group: dict[str, Any], words: list[str]
) -> None:
    daemon = outside(NEEDY, **group)
    daemon.start()
    row = require_alone(daemon)
    assert row["last_attempt"]["error_class"] == "DriverConfigurationError"
    for word in [*words, str(daemon.config)]:
        assert word in row["reason"], row["reason"]


def test_a_good_option_serves(outside: Make) -> None:
    daemon = outside(NEEDY, acme_port=7)
    daemon.start()
    daemon.wait_state("one", "ready")


# -- what a driver returns and raises ---------------------------------------------------------------

SHAPES = f"""
import json, pathlib
{GOOD}
    def get_volume_stats(self):
        stats = super().get_volume_stats()
        shape = json.loads(pathlib.Path(self.options.fake_script_path).with_suffix(".shape").read_text())
        if not isinstance(shape, dict):
            return shape
        import dataclasses
        return dataclasses.replace(stats, **shape)
"""


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (None, "returned NoneType"),
        ({"total_capacity_gb": "infinite"}, "total_capacity_gb = 'infinite'"),
        ({"extra": {"a": float("inf")}}, "extra that is no JSON"),
    ],
)
def test_stats_of_the_wrong_shape_are_refused_and_say_what_is_wrong(outside: Make, shape: Any, words: str) -> None:
    daemon = outside(SHAPES, {"reinit_driver_count": 0, "backend_loss_threshold": 2})
    path = daemon.one.path.with_suffix(".shape")

    def give(text: str) -> None:
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)

    give("{}")
    daemon.start()
    daemon.wait_state("one", "ready")
    daemon.wait_state("two", "ready")
    give(json.dumps(shape))
    daemon.wait_state("one", "lost")
    # The row soon shows the attempt that follows; the log keeps how it was lost.
    daemon.wait_for_log(r"node@one: lost \(get_volume_stats: ")
    row = daemon.wait_reason("one", words)
    wait_until(lambda: daemon.services()["one"]["step"] == "publish", "an attempt that fails for the same reason")
    assert row["losses"] == 1
    daemon.new_volume()
    give("{}")
    daemon.wait_state("one", "ready")


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()"])
def test_an_error_that_ends_threads_ends_only_what_met_it(outside: Make, error: str) -> None:
    text = f"""
import pathlib
{GOOD}
    def _fail(self, what):
        if (pathlib.Path(self.options.fake_script_path).with_name("fail-" + what)).exists():
            raise {error}
    def get_volume_stats(self):
        self._fail("stats")
        return super().get_volume_stats()
    def create_volume(self, volume):
        self._fail("create")
        return super().create_volume(volume)
    def close(self):
        self._fail("stats")
        super().close()
"""
    daemon = outside(text, {"backend_loss_threshold": 2, "enabled_backends": "one"})
    del daemon.groups["two"]
    daemon.write()
    daemon.start()
    daemon.wait_state("one", "ready")
    failing = daemon.root / "fail-create"
    failing.touch()
    volume = daemon.cinder().volumes.create(1)
    daemon.wait_volume(volume.id, "error")
    failing.unlink()
    daemon.new_volume()
    failing = daemon.root / "fail-stats"
    failing.touch()
    daemon.wait_state("one", "lost")
    wait_until(lambda: daemon.services()["one"]["attempts"] >= 2, "attempts that fail")
    failing.unlink()
    daemon.wait_state("one", "ready")
    daemon.new_volume()
    assert daemon.stop() == 0
