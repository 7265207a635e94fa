"""volsvc-api: the REST API."""

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
    from volsvc.api_part import ApiPart

    return [ApiPart(foundations)]


def build_parser() -> argparse.ArgumentParser:
    return daemon.build_parser("Serve the block storage REST API (v3).")


def main(argv: Sequence[str] | None = None) -> int:
    return daemon.run(build_parser(), build_parts, argv)


if __name__ == "__main__":
    sys.exit(main())
