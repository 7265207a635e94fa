"""Nothing but the loader reads a configuration, so a reload knows every option that a part was built from."""

from __future__ import annotations

import ast
import pathlib

import pytest

import volsvc

ROOT = pathlib.Path(volsvc.__file__).parent

#: Modules that may read oslo.config, and what for.
READERS = {
    "settings.py": "the loader",
    "logs.py": "oslo.log reads its own options",
    "api/policies.py": "oslo.policy wants an object of its own, with nothing in it",
    "testing/snapshots.py": "tests freeze declared options with it",
    "rpc/transport.py": "oslo.messaging reads its own options",
    "rpc/notifier.py": "oslo.messaging reads its own options",
    "rpc/unix_settings.py": "the transport's options, registered by oslo.messaging",
}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_loader_reads_a_configuration(path: pathlib.Path) -> None:
    if str(path.relative_to(ROOT)) in READERS:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in ("CONF", "ConfigOpts") and isinstance(node.value, ast.Name):
            # A type in a signature is no reading.
            is_reading = node.attr == "CONF" or _is_called(path, node)
            assert not is_reading, f"{path}:{node.lineno} reads oslo.config"


def _is_called(path: pathlib.Path, wanted: ast.Attribute) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.lineno == wanted.lineno
        and node.func.attr == wanted.attr
        for node in ast.walk(ast.parse(path.read_text()))
    )  # fmt: skip
