"""volsvc-volume: serves the backends of this host."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from volsvc.cmd import daemon

if TYPE_CHECKING:
    from volsvc.foundations import Foundations
    from volsvc.service import Part


def build_parts(foundations: Foundations, args: argparse.Namespace) -> list[Part]:
    from volsvc.volume_part import VolumePart

    return [VolumePart(foundations, args.backend)]


def build_parser() -> argparse.ArgumentParser:
    parser = daemon.build_parser("Serve the storage backends of this host.")
    parser.add_argument("--backend", metavar="NAME", help="serve this one of enabled_backends alone")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return daemon.run(build_parser(), build_parts, argv)


if __name__ == "__main__":
    sys.exit(main())
