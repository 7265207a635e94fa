"""Daemons that are reloaded: the same as those that heal."""

from tests.functional.healing.conftest import make, start

__all__ = ["make", "start"]
