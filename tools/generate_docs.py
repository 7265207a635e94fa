"""Write the references in doc/source/generated: options, states, commands, requests.

Each page comes from the data that the program itself runs on, so that none of them can say
something else.  The files are kept in the tree; a test compares them with what this writes.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

import reset_pages
import state_pages
from rst import document, list_table, literal, plain, section

ROOT = pathlib.Path(__file__).resolve().parent.parent

# -- options -------------------------------------------------------------------------

_TYPE_NAMES = {
    "String": "text",
    "Integer": "integer",
    "Float": "number",
    "Boolean": "true or false",
    "List": "list, comma-separated",
    "Port": "port",
    "HostAddress": "host name or address",
    "URI": "URL",
    "Dict": "key:value pairs",
}
_RELOAD_SENTENCE = re.compile(r"\s*A reload (?P<what>can't change it|applies it(?P<how>[^.]*))\.")

OPTIONS_INTRO = """\
Options are written in ``cinder.conf``. Names, groups and defaults are Cinder's wherever Cinder has
the option; :doc:`/departures` lists the defaults that differ. A backend's options stand in the
group that ``enabled_backends`` names; ``[backend_defaults]`` gives what that group doesn't set.

"Reload" says whether the change of an option takes part in a reload of the configuration:
"yes", "no", or to what it applies; "-" where the option's help says nothing. How a
reload works is in :doc:`/admin-reload`.
"""


def make_options_page() -> str:
    from volsvc.conf.opts import list_opts

    parts = [document("Configuration options", OPTIONS_INTRO)]
    for group, options in list_opts():
        rows = [_option_row(option) for option in sorted(options, key=lambda option: option.name)]
        table = list_table(("Option", "Type", "Default", "Reload", "Meaning"), rows, (22, 12, 18, 10, 38))
        parts.append(section(f"[{group}]", table))
    return "\n".join(parts)


def _option_row(option: Any) -> tuple[str, ...]:
    help_text = " ".join((option.help or "").split())
    found = _RELOAD_SENTENCE.search(help_text)
    reload = "-"
    if found:
        reload = "no" if found["how"] is None else (found["how"].strip() or "yes")
        help_text = (help_text[: found.start()] + help_text[found.end() :]).strip()
    meaning = plain(help_text) + _choices(option)
    default = option.sample_default if option.sample_default is not None else option.default
    return literal(option.name), _type_of(option), _default(default), reload, meaning


def _type_of(option: Any) -> str:
    kind = option.type
    text = _TYPE_NAMES.get(type(kind).__name__, type(kind).__name__)
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if low is not None and high is not None:
        text += f", {low} to {high}"
    elif low is not None:
        text += f", at least {low}"
    return text + (", secret" if option.secret else "")


def _default(value: Any) -> str:
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, list | tuple):
        return literal(",".join(map(str, value)))
    return literal(str(value)) if value != "" else "empty"


def _choices(option: Any) -> str:
    choices = getattr(option.type, "choices", None)
    if not choices:
        return ""
    described = [literal(str(choice)) + (f" ({plain(text)})" if text else "") for choice, text in choices.items()]
    return f" One of: {'; '.join(described)}."


# -- commands -----------------------------------------------------------------------------

CLI_INTRO = """\
The programs and everything they accept. Each also has ``--help``. The daemons and
``volsvc-manage`` exit with 0 when they did what was asked and with 1 when not, and then say why in
one line; wrong arguments exit with 2.
"""


def make_cli_page() -> str:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    parts = [document("Commands", CLI_INTRO)]
    for name, entry_point in scripts.items():
        parser = importlib.import_module(entry_point.partition(":")[0]).build_parser()
        parser.prog = name
        parts.append(section(name, "\n".join(_program(parser, name))))
    return "\n".join(parts)


def _program(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    description = (parser.description or "").removeprefix(f"{name}: ")
    yield from filter(None, (_sentence(description), _sentence(parser.epilog)))
    for command, sub in _leaves(parser, name):
        if command != name:
            yield f".. rubric:: {literal(command)}\n"
            yield _sentence(sub.description or _help_of(parser, command.split()[1:]))
        rows = [_argument(action) for action in sub._actions if not _is_skipped(action)]
        if rows:
            yield list_table(("Argument", "Meaning"), rows, (35, 65))


def _leaves(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser itself, then every command below it that has no commands of its own."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, sub in action.choices.items():
                found = list(_leaves(sub, f"{name} {word}"))
                yield from found[1:] if len(found) > 1 else found


def _help_of(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """What its group says of a command."""
    text = ""
    for word in words:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                text = next((str(a.help or "") for a in action._choices_actions if a.dest == word), text)
                parser = action.choices[word]
                break
    return text


def _is_skipped(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction | argparse._HelpAction | argparse._VersionAction)


def _argument(action: argparse.Action) -> tuple[str, str]:
    value = str(action.metavar or action.dest.upper())
    if action.choices:
        value = "|".join(map(str, action.choices))
    if not action.option_strings:
        return literal(str(action.metavar or action.dest)), plain(action.help or "-")
    takes_value = action.nargs != 0
    names = ", ".join(f"{option} {value}" if takes_value else option for option in action.option_strings)
    return literal(names), plain(action.help or "-")


def _sentence(text: str | None) -> str:
    if not text:
        return ""
    words = plain(" ".join(text.split()))
    return words[0].upper() + words[1:] + ("" if words.endswith(".") else ".") + "\n"


# -- requests ---------------------------------------------------------------------------------

REQUESTS_INTRO = """\
Every request that the API answers, with the microversion it begins at, the code of an ordinary
answer and the policy rule it needs. Each path may also have the project in it:
``/v3/{project_id}/volumes`` is ``/v3/volumes``.
"""


def make_requests_page() -> str:
    from volsvc.api import microversions
    from volsvc.api.routes import PUBLIC_ROWS, ROWS

    groups: dict[str, list[tuple[str, ...]]] = {}
    for row in (*ROWS, *PUBLIC_ROWS):
        prefix = "" if row in PUBLIC_ROWS else "/v3"
        what = literal(f"{row.method} {prefix}{row.path}") + (f" with {literal(row.action)}" if row.action else "")
        first = microversions.text(row.first)
        rule = literal(row.rule) if row.rule else "none, and no authentication"
        groups.setdefault("" if row in PUBLIC_ROWS else row.path.split("/")[1], []).append(
            (what, first, str(row.success), rule)
        )
    parts = [document("Requests", REQUESTS_INTRO)]
    for name, rows in groups.items():
        table = list_table(("Request", "Since", "Code", "Rule"), rows, (46, 8, 8, 38))
        parts.append(section(name or "Versions", table))
    return "\n".join(parts)


# -- writing ------------------------------------------------------------------------------------

PAGES = {
    "options.rst": make_options_page,
    "cli.rst": make_cli_page,
    "requests.rst": make_requests_page,
    "resets.rst": reset_pages.make_resets_page,
    "states.rst": state_pages.make_states_page,
    "initialisation.rst": state_pages.make_initialisation_page,
    "initialisation.svg": state_pages.make_initialisation_drawing,
    "statuses.svg": state_pages.make_statuses_drawing,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "doc" / "source" / "generated", metavar="DIR")
    directory = parser.parse_args(argv).output
    directory.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (directory / name).write_text(make().rstrip("\n") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
