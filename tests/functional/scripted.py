"""A real daemon whose driver does wrong, or waits, as the test says."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from volsvc.testing.daemon import Daemon


class ScriptedDaemon:
    """volsvc-all on the fake driver, whose storage outlives it and whose script the test writes."""

    def __init__(self, daemon: Daemon, **options: Any) -> None:
        self.daemon = daemon
        self.storage = daemon.root / "fake.json"
        self.script = daemon.root / "script.json"
        backend = {
            "volume_driver": "fake",
            "target_helper": "fake",
            "fake_state_path": self.storage,
            "fake_script_path": self.script,
        }
        default = {"enabled_backends": "one", "operation_workers": 16, **options}
        daemon.configure(default, {"one": backend})
        self.write({})

    def write(self, rules: Mapping[str, Mapping[str, Any]]) -> None:
        new = self.script.with_suffix(".new")
        new.write_text(json.dumps(rules))
        new.replace(self.script)

    def calls(self) -> dict[str, int]:
        counts = pathlib.Path(f"{self.script}.counts")
        return dict(json.loads(counts.read_text())) if counts.exists() else {}

    def stored(self) -> dict[str, Any]:
        return dict(json.loads(self.storage.read_text()))
