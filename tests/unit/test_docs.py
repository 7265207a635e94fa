"""The documentation builds without a warning, and the pages that stand alone can be read."""

from __future__ import annotations

import itertools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    done = subprocess.run(
        [*command, str(ROOT / "doc" / "source"), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "generated" / "options.html").exists()


@pytest.mark.parametrize("name", ["README.rst", "CONTRIBUTING.rst"])
def test_page_is_valid_restructuredtext(name: str) -> None:
    command = [sys.executable, "-m", "docutils", "--halt=2", str(ROOT / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["README.rst", "CONTRIBUTING.rst"])
def test_page_names_only_files_and_targets_that_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if line[:1].isalpha()}
    words = text.replace("``", " ").split()
    for first, second in itertools.pairwise(words):
        if first == "make" and second.isalpha() and second not in ("it", "up"):
            assert second in targets, f"{name}: there is no 'make {second}'"
    for word in words:
        word = word.strip(".,();*")
        if word.startswith(("doc/source", "tests/", "tools/", "etc/", "volsvc/")) and "*" not in word:
            assert (ROOT / word).exists(), f"{name}: there is no {word}"
