"""Finding and building a backend's driver and target, with errors that say what to mend.

A name is looked up among the entry points of installed packages; a dotted path is imported as
Cinder's ``volume_driver`` is.  What goes wrong here can't pass by itself, so everything raised
is an ``UnrecoverableDriverError``: authors of drivers get that without trying.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc.conf import backend as backend_conf
from volsvc.driver_libraries import missing_library
from volsvc.drivers.base import DriverContext, VolumeDriver
from volsvc.options import Options
from volsvc.targets.base import BaseTarget, TargetContext

DRIVERS = "volsvc.volume_drivers"
TARGETS = "volsvc.targets"

#: Classes found by entry point.  Looking through all that is installed takes longer than the rest of an
#: attempt to initialise, and a class that was imported stays what it is until the process ends.
_found: dict[tuple[str, str], type[Any]] = {}


class BackendConfig(Protocol):
    """What building needs of a backend's settings (``settings.BackendSettings``)."""

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> str: ...

    def freeze(self, declared: Sequence[cfg.Opt]) -> Options: ...


def find_class(group: str, name: str, option: str) -> type[Any]:
    """The class that ``name`` means; ``option`` is what gave the name, for messages.

    Raises ``MissingDriverLibrary`` when an import fails on a library, ``DriverConfigurationError``
    when there is no such module or class.
    """
    found = _found.get((group, name))
    if found is not None:
        return found
    importlib.invalidate_caches()
    for entry in importlib.metadata.entry_points(group=group, name=name):
        loaded: type[Any] = _import(entry.load, f"{option} = {name}", entry.value.partition(":")[0])
        _found[(group, name)] = loaded
        return loaded
    if "." not in name:
        known = ", ".join(sorted({entry.name for entry in importlib.metadata.entry_points(group=group)}))
        raise exc.DriverConfigurationError(
            reason=f"{option} is {name!r}; it must be one of {known}, or a class as package.module.Class"
        )
    module_name, _, class_name = name.rpartition(".")
    module = _import(lambda: importlib.import_module(module_name), f"{option} = {name}", module_name)
    named = getattr(module, class_name, None)
    if not isinstance(named, type):
        raise exc.DriverConfigurationError(reason=f"{option} is {name!r}, but {module_name} has no class {class_name}")
    return named


def _import(load: Callable[[], Any], what: str, module_name: str) -> Any:
    try:
        return load()
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if module_name == missing or module_name.startswith(missing + "."):
            raise exc.DriverConfigurationError(reason=f"{what}: there is no module {missing}") from error
        raise missing_library(error, what) from error
    except ImportError as error:
        raise missing_library(error, what) from error
    except AttributeError as error:
        raise exc.DriverConfigurationError(reason=f"{what}: {exc.describe(error)}") from error
    except Exception as error:
        raise exc.DriverConfigurationError(
            reason=f"{what}: importing {module_name} failed: {exc.describe(error)}"
        ) from error


@dataclass(frozen=True, eq=False)
class DriverBlueprint:
    """All that a driver is built from, so that a reload can tell whether anything of it changed."""

    backend: str
    host: str
    driver_class: type[VolumeDriver]
    target_class: type[BaseTarget]
    driver_options: Options
    target_options: Options
    state_path: str
    runtime_path: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DriverBlueprint) and all(
            getattr(self, field.name) == getattr(other, field.name) for field in dataclasses.fields(self)
        )

    def changed_options(self, other: DriverBlueprint) -> list[str]:
        """Names of the options whose values differ, the classes' included."""
        names = set(self.driver_options.changed_names(other.driver_options))
        names |= set(self.target_options.changed_names(other.target_options))
        if self.driver_class is not other.driver_class:
            names.add("volume_driver")
        if self.target_class is not other.target_class:
            names.add("target_helper")
        return sorted(names)

    def build(self) -> VolumeDriver:
        """A new driver with a new target; may raise whatever their constructors raise."""
        target = self.target_class(TargetContext(self.backend, self.host, self.target_options, self.runtime_path))
        return self.driver_class(
            DriverContext(
                backend=self.backend,
                host=self.host,
                options=self.driver_options,
                state_path=self.state_path,
                runtime_path=self.runtime_path,
                target=target,
            )
        )


def load_driver(backend: BackendConfig, *, host: str, state_path: str, runtime_path: str) -> DriverBlueprint:
    """Find a backend's classes and read their options.

    Raises children of ``UnrecoverableDriverError``; a wrong configuration with its file and group.
    """
    where = f"{backend.where}: [{backend.name}]"
    options = backend.freeze(backend_conf.OPTS)
    driver_class = _find_driver_class(options, where)
    target_class = find_class(TARGETS, options.target_helper, f"{where} target_helper")
    return DriverBlueprint(
        backend=backend.name,
        host=host,
        driver_class=driver_class,
        target_class=target_class,
        driver_options=backend.freeze(driver_class.declared_options()),
        target_options=backend.freeze(target_class.declared_options()),
        state_path=state_path,
        runtime_path=runtime_path,
    )


def _find_driver_class(options: Options, where: str) -> type[VolumeDriver]:
    driver_class = find_class(DRIVERS, options.volume_driver, f"{where} volume_driver")
    if not issubclass(driver_class, VolumeDriver):
        raise exc.DriverConfigurationError(
            reason=f"{where} volume_driver {options.volume_driver!r} is not a child of volsvc.drivers.base.VolumeDriver"
        )
    if not driver_class.supported and not options.enable_unsupported_driver:
        raise exc.DriverNotSupported(
            driver=options.volume_driver,
            reason="its author doesn't support it any more; enable_unsupported_driver = True uses it all the same",
        )
    return driver_class
