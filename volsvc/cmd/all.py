"""volsvc-all: every part of the service in one process, for one machine."""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from volsvc.cmd import daemon

if TYPE_CHECKING:
    from volsvc.foundations import Foundations
    from volsvc.service import Part

HINTS = """
volsvc is ready at {url}
Try, in another terminal:
  export PATH={programs}:$PATH OS_AUTH_TYPE=noauth OS_USER_ID=demo OS_PROJECT_ID=demo CINDER_ENDPOINT={url}/v3/demo
  cinder create --name first 1
  cinder list
  volsvc operation list
  {manage} service list
Ctrl-C stops it; volumes and their exporters stay.
"""


def build_parts(foundations: Foundations, args: argparse.Namespace) -> list[Part]:
    from volsvc.api_part import ApiPart
    from volsvc.backup_part import BackupPart
    from volsvc.volume_part import VolumePart

    return [VolumePart(foundations), BackupPart(foundations), ApiPart(foundations)]


def show_hints(args: argparse.Namespace, parts: Sequence[Part]) -> None:
    from volsvc.api_part import ApiPart

    manage = ["volsvc-manage"]
    for option, paths in (("--config-file", args.config_file), ("--config-dir", args.config_dir)):
        for path in paths:
            manage += [option, os.path.abspath(path)]
    for part in parts:
        if isinstance(part, ApiPart):
            programs = shlex.quote(os.path.dirname(sys.executable))
            text = HINTS.format(url=part.server.address, programs=programs, manage=shlex.join(manage))
            print(text, flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = daemon.build_parser("Serve storage backends, backups and the REST API in one process.")
    parser.add_argument("--hints", action="store_true", help="print where it listens and commands to try")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_known_args(argv)[0]
    on_ready = functools.partial(show_hints, args) if args.hints else lambda parts: None
    return daemon.run(parser, build_parts, argv, on_ready)


if __name__ == "__main__":
    sys.exit(main())
