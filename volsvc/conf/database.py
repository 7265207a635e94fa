"""Options of the [database] group."""

from __future__ import annotations

from oslo_config import cfg

GROUP = "database"

OPTS = [
    cfg.StrOpt(
        "connection",
        sample_default="sqlite:///$state_path/volsvc.sqlite",
        secret=True,
        help="SQLAlchemy URL of the database. SQLite serves one machine; its file must be on a local file system. "
        "A reload applies it.",
    ),
    cfg.IntOpt("max_pool_size", default=5, min=1, help="Connections kept open. A reload applies it."),
    cfg.IntOpt(
        "max_overflow", default=50, min=0, help="Connections beyond max_pool_size in a rush. A reload applies it."
    ),
    cfg.IntOpt(
        "sqlite_busy_timeout",
        default=30,
        min=1,
        help="Seconds that a transaction waits for another one on SQLite before the request fails. "
        "A reload applies it.",
    ),
    cfg.BoolOpt(
        "sqlite_synchronous",
        default=True,
        help="On SQLite, sync the disk at each commit, so that a promise survives a power failure. "
        "A reload applies it.",
    ),
]
