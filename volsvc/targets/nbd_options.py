"""Options of the NBD target, in a backend's group."""

from __future__ import annotations

from oslo_config import cfg

OPTS = [
    cfg.StrOpt(
        "nbd_socket_directory",
        sample_default="$runtime_path/nbd",
        help="Directory of the sockets that clients connect to; give one outside the private runtime_path when another "
        "user's hypervisor has to reach them. A reload applies it to volumes attached afterwards.",
    ),
    cfg.StrOpt(
        "nbd_socket_directory_mode",
        default="0700",
        regex=r"^0?[0-7]{3}$",
        help="Mode of nbd_socket_directory, octal. A reload applies it.",
    ),
    cfg.StrOpt(
        "nbd_socket_mode",
        default="0600",
        regex=r"^0?[0-7]{3}$",
        help="Mode of each socket, octal; a client needs write permission. A reload applies it to later attachments.",
    ),
    cfg.StrOpt(
        "nbd_socket_group",
        help="Group of nbd_socket_directory and of the sockets; unset leaves the service's own. A reload applies it.",
    ),
    cfg.StrOpt(
        "nbd_aio",
        default="auto",
        choices=["auto", "io_uring", "threads"],
        help="How exporters reach the disk; 'auto' takes io_uring where the kernel allows it. "
        "A reload applies it to exporters started afterwards.",
    ),
    cfg.HostAddressOpt(
        "target_ip_address",
        default="$my_ip",
        help="Address of this host at which a backup service on another host reads and writes volumes, by NBD over TCP "
        "with TLS and a key for each reader. Nothing listens while there is no such reader. "
        "A reload applies it to readers that come afterwards.",
    ),
    cfg.StrOpt(
        "nbd_remote_ports",
        sample_default="any that is free",
        help="TCP ports for such readers, as FIRST-LAST, one for each at a time; for firewalls. "
        "A reload applies it to readers that come afterwards.",
    ),
]
