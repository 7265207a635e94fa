"""Frozen options for a part under test, without a configuration file."""

from __future__ import annotations

from typing import Any, Protocol

from oslo_config import cfg

from volsvc.options import Options


class _DeclaresOptions(Protocol):
    def declared_options(self) -> Any: ...


def options_of(part: _DeclaresOptions, group: str = "backend", **values: Any) -> Options:
    """The options that a driver or target class declares: their defaults, and ``values`` over them.

    Values are converted as from a file.  Raises KeyError for a name that isn't declared.
    """
    declared = list(part.declared_options())
    conf = cfg.ConfigOpts()
    # Defaults may refer to it.
    conf.register_opts([cfg.HostAddressOpt("my_ip", default="127.0.0.1")])
    conf.register_opts(declared, group=group)
    unknown = set(values) - {opt.dest for opt in declared}
    if unknown:
        raise KeyError(f"not declared by {part}: {sorted(unknown)}")
    for name, value in values.items():
        if value is not None:
            conf.set_override(name, value, group=group)
    # After the values are there: it looks for those that are required.
    conf([], project="volsvc", default_config_files=[], default_config_dirs=[])
    return Options({opt.dest: conf[group][opt.dest] for opt in declared}, group=group)
