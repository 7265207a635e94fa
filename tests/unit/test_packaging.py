"""The package as it is installed: programs, entry points, imports, pins, and words that don't belong in the tree."""

from __future__ import annotations

import ast
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import volsvc

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BIN = pathlib.Path(sys.executable).parent


# -- programs ------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROJECT["scripts"])
def test_program_says_its_version_and_how_it_is_used(program: str) -> None:
    version = subprocess.run([BIN / program, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert version.stdout == f"{program} {volsvc.__version__}\n"
    usage = subprocess.run([BIN / program, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert usage.stdout.startswith(f"usage: {program} ")
    assert usage.stderr == ""


@pytest.mark.parametrize("program", PROJECT["scripts"])
def test_program_refuses_an_unknown_argument_in_a_line(program: str) -> None:
    done = subprocess.run([BIN / program, "--no-such-thing"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"{program}: error: ")


# -- entry points ----------------------------------------------------------------------


@pytest.mark.parametrize("group", PROJECT["entry-points"])
def test_entry_points_load_and_are_those_of_the_project_file(group: str) -> None:
    installed = {
        entry.name: entry
        for entry in importlib.metadata.entry_points(group=group)
        if entry.dist is not None and entry.dist.name == "volsvc"
    }
    declared = PROJECT["entry-points"][group]
    assert {name: entry.value for name, entry in installed.items()} == declared, "install the package again"
    for entry in installed.values():
        assert callable(entry.load())


# -- imports ---------------------------------------------------------------------------------

IMPORT_EVERYTHING = """
import importlib, os, pkgutil, sys, threading
import volsvc

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
WORK = {"socket.bind", "socket.connect", "subprocess.Popen", "os.fork", "os.mkdir", "os.remove", "os.rename", "sqlite3.connect"}
found = []

def listen(event, args):
    if event in WORK or (event == "open" and isinstance(args[2], int) and args[2] & WRITING):
        found.append(f"{event}{args!r}")

sys.addaudithook(listen)
names = [name for _, name, _ in pkgutil.walk_packages(volsvc.__path__, "volsvc.", onerror=lambda name: None)]
names = [name for name in names if not name.startswith("volsvc.db.migrations.")]  # alembic's, run by it alone
assert len(names) > 50, names
for name in names:
    importlib.import_module(name)
    for event in found:
        print(f"{name}: {event}")
    found.clear()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            print(f"{name}: the thread {thread.name}")
print("children:", open(f"/proc/self/task/{os.getpid()}/children").read().split())
"""  # noqa: E501


def test_no_module_does_work_when_it_is_imported(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_EVERYTHING],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["children: []"]
    assert list(tmp_path.iterdir()) == []


# -- pins -----------------------------------------------------------------------------------------


def test_constraints_pin_every_dependency_within_its_bounds() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[canonicalize_name(name)] = version
    optional = PROJECT["optional-dependencies"].values()
    wanted = [Requirement(text) for group in (PROJECT["dependencies"], *optional) for text in group]
    missing = [str(r) for r in wanted if not r.name.startswith("volsvc") and canonicalize_name(r.name) not in pins]
    assert not missing, f"constraints.txt has no pin for {missing}"
    outside = [str(r) for r in wanted if canonicalize_name(r.name) in pins and not _allows(r, pins)]
    assert not outside, f"constraints.txt pins another version than {outside}"


def test_every_library_that_is_imported_is_a_dependency() -> None:
    """One that only comes along with another may stop coming along."""
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    extras = {
        canonicalize_name(Requirement(text).name)
        for group in PROJECT["optional-dependencies"].values()
        for text in group
    }
    distributions = importlib.metadata.packages_distributions()
    undeclared = []
    for path in sorted((ROOT / "volsvc").rglob("*.py")):
        allowed = declared | extras if "testing" in path.parts else declared
        for module in _imported(path):
            names = {canonicalize_name(name) for name in distributions.get(module, [])}
            if names and not names & (allowed | OPTIONAL_IMPORTS):
                undeclared.append(f"{path.relative_to(ROOT)}: {module}")
    assert not undeclared, "\n".join(undeclared)


#: Imported only where an option asks for it, or in tests' clients: they are extras or come with them.
OPTIONAL_IMPORTS = {"bcrypt", "volsvc", "keystoneauth1"}


def _imported(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names)


def _allows(requirement: Requirement, pins: dict[str, str]) -> bool:
    return requirement.specifier.contains(pins[canonicalize_name(requirement.name)], prereleases=True)


# -- words ---------------------------------------------------------------------------------------------

#: Written in pieces, so that this file is held to them too.
FORBIDDEN = {
    "unfinished work": r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
    "a registry's host": r"(py"
    + r"pi\.org|python"
    + r"hosted|npm"
    + r"js|docker"
    + r"\.io|ghcr"
    + r"\.io|crates"
    + r"\.io)",
    "a path of the machine it was written on": r"(?<![\w.~$}\])])/(wo" + r"rk|ro" + r"ot|ho" + r"me)/\w|/op" + r"t/py",
    "a number that means something elsewhere": r"(?i)\b(issue|bug|ticket|pr) ?#\d",
}


def tracked_files() -> list[pathlib.Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    names = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_has(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join([what, *found])


def test_license_is_there_and_is_the_one_that_is_named() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
