"""What is generated and kept in the tree says what the code says now."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("tool", "directory", "suffixes", "command"),
    [
        ("generate_samples.py", "etc", (".sample",), "make samples"),
        ("generate_docs.py", "doc/source/generated", (".rst", ".svg"), "make docs"),
    ],
)
def test_generated_files_are_up_to_date(
    tmp_path: pathlib.Path, tool: str, directory: str, suffixes: tuple[str, ...], command: str
) -> None:
    made_in = tmp_path / "made"
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / tool), "--output", str(made_in)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "COLUMNS": "40"},
    )
    made = {path.name: path.read_text() for path in made_in.iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / directory).iterdir() if path.suffix in suffixes}
    assert made, "nothing was generated"
    stale = sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
    assert not stale, (
        f"{directory}: {', '.join(stale)} no longer says what the code says; run '{command}' and commit it"
    )


def test_the_sample_does_not_name_the_machine_it_was_made_on() -> None:
    sample = (ROOT / "etc" / "cinder.conf.sample").read_text()
    assert "#host = the machine's name" in sample
    assert "#state_path = /var/lib/volsvc for root, else ~/.volsvc/state" in sample


def test_the_help_of_each_option_says_whether_a_reload_applies_it() -> None:
    from volsvc.conf.opts import list_opts

    silent = [
        f"[{group}] {option.name}"
        for group, options in list_opts()
        for option in options
        if "A reload" not in (option.help or "") and option.name != "volume_name_template"
    ]
    assert not silent, f"say 'A reload applies it.' or 'A reload can't change it.' in the help of {silent}"
