"""Options of a daemon as a whole, from [DEFAULT]."""

from __future__ import annotations

import socket

from oslo_config import cfg

OPTS = [
    cfg.HostAddressOpt(
        "host",
        default=socket.gethostname(),
        sample_default="the machine's name",
        help="Name of this node in the records: a volume's host is HOST@BACKEND#POOL. Keep it for as long as volumes "
        "exist. A reload can't change it.",
    ),
    cfg.StrOpt(
        "state_path",
        sample_default="/var/lib/volsvc for root, else ~/.volsvc/state",
        help="Directory of everything this service keeps on this machine; created with mode 0700. "
        "A reload can't change it.",
    ),
    cfg.StrOpt(
        "runtime_path",
        sample_default="$state_path/run",
        help="Short directory for sockets (a socket's whole path has at most 107 bytes). Exporters' sockets in it must "
        "survive a restart of the daemon. A reload can't change it.",
    ),
    cfg.HostAddressOpt(
        "my_ip",
        sample_default="the address of the default route",
        help="Address of this host towards others; other options refer to it as $my_ip. A reload applies it.",
    ),
    cfg.ListOpt(
        "enabled_backends",
        default=["file"],
        help="Names of the groups that configure the backends to serve. The name 'file' without a group of its own is "
        "the file driver with its defaults. A reload applies it.",
    ),
    cfg.IntOpt(
        "report_interval",
        default=10,
        min=1,
        help="Seconds between two heartbeats. A reload applies it.",
    ),
    cfg.IntOpt(
        "service_down_time",
        default=60,
        min=2,
        help="Seconds after its last heartbeat at which a service counts as down. Must be more than report_interval. "
        "A reload applies it.",
    ),
    cfg.IntOpt(
        "backend_stats_polling_interval",
        default=60,
        min=1,
        help="Seconds between two publications of a backend's capabilities; a backend that is not initialised is "
        "initialised again then. A reload applies it.",
    ),
    cfg.IntOpt(
        "reinit_driver_count",
        default=3,
        min=0,
        help="Further attempts to initialise a driver after the first one failed with an error that may pass, one at "
        "each backend_stats_polling_interval. 0 means no limit. A backend that was ready once since the start is tried "
        "without a limit. A reload applies it.",
    ),
    cfg.IntOpt(
        "driver_init_timeout",
        default=60,
        min=1,
        help="Seconds after which an attempt to initialise a driver is shown as hanging, and reading the stats of a "
        "ready one has failed. It can't be ended in a thread: nothing runs beside it, and its late result is used. "
        "A reload applies it.",
    ),
    cfg.IntOpt(
        "graceful_shutdown_timeout",
        default=60,
        min=1,
        help="Seconds that SIGTERM leaves to running operations; what is not done by then goes on at the next start. "
        "A reload applies it.",
    ),
    cfg.IntOpt(
        "operation_workers",
        default=8,
        min=1,
        max=256,
        help="Operations that one backend runs at a time, each in a thread. A reload applies it.",
    ),
    cfg.IntOpt(
        "operation_sweep_interval",
        default=5,
        min=1,
        help="Seconds between two looks at the database for work that nobody rang for. A reload applies it.",
    ),
    cfg.IntOpt(
        "operation_max_attempts",
        default=5,
        min=1,
        help="Starts of one operation that end with the daemon killed, after which it fails. A reload applies it.",
    ),
    cfg.IntOpt(
        "operation_queue_timeout",
        default=3600,
        min=0,
        help="Seconds that a recorded operation waits for a backend that is not ready. Then a create ends in 'error' "
        "and anything else leaves the volume as it was, with the reason in the operation. 0 means for ever. "
        "A reload applies it.",
    ),
    cfg.IntOpt(
        "operation_retention_days",
        default=30,
        min=0,
        help="Days for which ended operations are kept as history. 0 means for ever. A reload applies it.",
    ),
    cfg.IntOpt(
        "backend_loss_threshold",
        default=3,
        min=1,
        help="Failures in a row to read a ready backend's stats that mark it as lost. A reload applies it.",
    ),
    cfg.StrOpt(
        "storage_availability_zone",
        default="nova",
        help="Availability zone of this node and of volumes created without one. A reload applies it.",
    ),
    cfg.StrOpt(
        "volume_name_template",
        default="volume-%s",
        help="Name of a volume on the storage. Only the default is supported; here so that Cinder's files are read.",
    ),
    cfg.IntOpt(
        "rpc_response_timeout",
        default=60,
        min=1,
        help="Seconds that a request which answers with a result (attach, detach) waits for it. A reload applies it.",
    ),
    cfg.IntOpt(
        "reset_detach_timeout",
        default=20,
        min=1,
        help="Seconds that a driver may take to sever the connections of one attachment, or to answer an inspection, "
        "before a reset of the volume gives up. All of a reset takes at most four fifths of rpc_response_timeout. "
        "A reload applies it.",
    ),
    cfg.StrOpt(
        "transport_url",
        sample_default="unix://$runtime_path/rpc",
        secret=True,
        help="Where the daemons reach each other: unix:// and a directory on one machine, rabbit://USER:PASSWORD@HOST/ "
        "for many. A reload applies it.",
    ),
]
