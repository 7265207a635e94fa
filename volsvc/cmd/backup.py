"""volsvc-backup: the backup service of this host."""

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
    from volsvc.backup_part import BackupPart

    return [BackupPart(foundations)]


def build_parser() -> argparse.ArgumentParser:
    return daemon.build_parser("Back up volumes to the store of this host's backup_driver, and restore them.")


def main(argv: Sequence[str] | None = None) -> int:
    return daemon.run(build_parser(), build_parts, argv)


if __name__ == "__main__":
    sys.exit(main())
