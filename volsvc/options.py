"""Frozen snapshots of options: what a part was built from, and nothing more.

Only the loader reads oslo.config; everything else is handed one of these.  Two snapshots
compare by value, which is how a reload finds the parts that changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MASK = "***"


class Options(Mapping[str, Any]):
    """An immutable mapping of option names to converted values, readable as attributes."""

    __slots__ = ("_secrets", "_values", "group")

    def __init__(
        self, values: Mapping[str, Any], *, group: str = "DEFAULT", secrets: frozenset[str] = frozenset()
    ) -> None:
        object.__setattr__(self, "_values", {name: _freeze(value) for name, value in values.items()})
        object.__setattr__(self, "_secrets", frozenset(secrets))
        object.__setattr__(self, "group", group)

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "_values")[name]
        except KeyError:
            raise AttributeError(f"[{self.group}] has no option {name!r} in this snapshot") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("options are frozen; a change comes by a reload")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and self.group == other.group and dict(self) == dict(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Options([{self.group}] {self.masked()})"

    def is_secret(self, name: str) -> bool:
        return name in self._secrets

    def masked(self) -> dict[str, Any]:
        """The values for printing: what was declared secret is hidden."""
        return {name: MASK if name in self._secrets and value else value for name, value in self._values.items()}

    def changed_names(self, other: Options) -> list[str]:
        """Names whose values differ between the two, sorted."""
        names = set(self) | set(other)
        missing = object()
        return sorted(n for n in names if self._values.get(n, missing) != other._values.get(n, missing))

    def replace(self, **values: Any) -> Options:
        """A copy with some values replaced, for tests and for computed defaults."""
        return Options({**self._values, **values}, group=self.group, secrets=self._secrets)


def _freeze(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    if isinstance(value, dict):
        return {key: _freeze(item) for key, item in value.items()}
    return value
