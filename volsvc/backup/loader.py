"""Finding and building the backup driver, with errors that say what to mend."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import BackupDriver, BackupDriverContext
from volsvc.driver_loader import find_class
from volsvc.options import Options

DRIVERS = "volsvc.backup_drivers"

#: Names that an operator's cinder.conf has, and the drivers of ours that read the same options.
CINDER_NAMES = {
    "cinder.backup.drivers.posix.PosixBackupDriver": "posix",
    "cinder.backup.drivers.s3.S3BackupDriver": "s3",
}


class BackupConfig(Protocol):
    """What building needs of the backup service's settings (``settings.BackupSettings``)."""

    @property
    def options(self) -> Options: ...

    @property
    def where(self) -> str: ...

    def freeze(self, declared: Sequence[cfg.Opt]) -> Options: ...


@dataclass(frozen=True, eq=False)
class BackupBlueprint:
    """All that a backup driver is built from, so that a reload can tell whether anything of it changed."""

    name: str
    host: str
    driver_class: type[BackupDriver]
    driver_options: Options
    state_path: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BackupBlueprint) and all(
            getattr(self, field.name) == getattr(other, field.name) for field in dataclasses.fields(self)
        )

    def changed_options(self, other: BackupBlueprint) -> list[str]:
        """Names of the options whose values differ, the class's included."""
        names = set(self.driver_options.changed_names(other.driver_options))
        if (self.name, self.driver_class) != (other.name, other.driver_class):
            names.add("backup_driver")
        return sorted(names)

    def build(self) -> BackupDriver:
        """A new driver; may raise whatever its constructor raises."""
        return self.driver_class(
            BackupDriverContext(host=self.host, options=self.driver_options, state_path=self.state_path, name=self.name)
        )


def load_backup_driver(config: BackupConfig, *, host: str, state_path: str) -> BackupBlueprint:
    """Find the class and read its options.

    Raises children of ``UnrecoverableDriverError``; a wrong configuration with its file and option.
    """
    options = config.options
    where = f"{config.where}: [DEFAULT] backup_driver"
    name = CINDER_NAMES.get(options.backup_driver, options.backup_driver)
    driver_class = find_class(DRIVERS, name, where)
    if not issubclass(driver_class, BackupDriver):
        raise exc.DriverConfigurationError(
            reason=f"{where} {name!r} is not a child of volsvc.backup.drivers.base.BackupDriver"
        )
    if not driver_class.supported and not options.enable_unsupported_driver:
        raise exc.DriverNotSupported(
            driver=name,
            reason="its author doesn't support it any more; enable_unsupported_driver = True uses it all the same",
        )
    return BackupBlueprint(
        name=name,
        host=host,
        driver_class=driver_class,
        driver_options=config.freeze(driver_class.declared_options()),
        state_path=state_path,
    )
