"""Options of the backup service, from [DEFAULT]; the drivers' own stand there too, as Cinder's do."""

from __future__ import annotations

from oslo_config import cfg

OPTS = [
    cfg.StrOpt(
        "backup_driver",
        default="posix",
        help="Where backups are kept: a name that an installed package offers (volsvc.backup_drivers: posix, s3, fake) "
        "or a class as package.module.Class. Cinder's class names of its posix and S3 drivers mean ours. "
        "A reload applies it.",
    ),
    cfg.BoolOpt(
        "enable_unsupported_driver",
        default=False,
        help="Initialise the backup driver although its author doesn't support it any more. (For a volume driver this "
        "stands in its backend's group.) A reload applies it.",
    ),
    cfg.BoolOpt(
        "backup_periodic_initialization",
        default=False,
        help="Go on trying to initialise a backup driver that failed at the start, at each periodic_interval, until "
        "reinit_driver_count is used up. Without it one failure at the start is the last, until a reload, "
        "'volsvc-manage service reinit' or a restart. A store that was ready and is lost is tried again either way. "
        "A reload applies it.",
    ),
    cfg.IntOpt(
        "backup_initialization_timeout",
        default=60,
        min=1,
        help="Seconds after which an attempt to initialise the backup driver is shown as hanging, and a check of a "
        "ready one has failed. It can't be ended in a thread: nothing runs beside it, and its late result is used. "
        "A reload applies it.",
    ),
    cfg.IntOpt(
        "periodic_interval",
        default=60,
        min=1,
        help="Seconds between two checks of the backup store, each published with the room it has; a driver that is "
        "not initialised is initialised again then. A reload applies it.",
    ),
    cfg.IntOpt(
        "backup_max_operations",
        default=4,
        min=0,
        max=256,
        help="Backups, restores and deletions that this service runs at a time, the others wait. One alone goes as "
        "fast as the disk and takes some 110 MiB of memory, so more of them mostly share the disk. 0 means as many as "
        "256. A reload applies it.",
    ),
]
