from __future__ import annotations

import pytest

from volsvc import exceptions as exc
from volsvc.api import microversions


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, 0),
        ("", 0),
        ("volume 3.0", 0),
        ("volume 3.50", 50),
        ("volume  3.71 ", 71),
        ("block-storage 3.27", 27),
        ("volume latest", 71),
        ("compute 2.1, volume 3.44", 44),
        ("compute 2.99", 0),
    ],
)
def test_a_header_names_the_microversion(header: str | None, expected: int) -> None:
    assert microversions.parse(header) == expected


@pytest.mark.parametrize("version", ["3.72", "2.0", "4.0", "3.999999"])
def test_a_version_out_of_the_range_says_the_range(version: str) -> None:
    with pytest.raises(exc.BadMicroversion, match=r"Minimum is 3\.0 and maximum is 3\.71"):
        microversions.parse(f"volume {version}")


@pytest.mark.parametrize("version", ["", "3", "3.", "three", "3.5.1", "-3.5", "3.-1"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(exc.InvalidInput):
        microversions.parse(f"volume {version}")
