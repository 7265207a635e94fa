"""Options of the ``unix://`` transport, from [oslo_messaging_unix].

Everything else about messaging is oslo.messaging's own: ``transport_url`` and the groups of
its other drivers.  Each option here may also stand in the URL's query, for one transport.
"""

from __future__ import annotations

from oslo_config import cfg, types

GROUP = "oslo_messaging_unix"

OPTS = [
    cfg.StrOpt(
        "directory_mode",
        default="0700",
        regex=r"^0?7[0-7]0$",
        help="Permissions of the socket directory, in octal. The owner always has all; 0710 lets the group's members "
        "reach the sockets too. Others get nothing. A reload applies it.",
    ),
    cfg.StrOpt(
        "directory_group",
        help="Group of the socket directory and of the sockets, by name or number. Without it the group is left as it "
        "is. A reload applies it.",
    ),
    cfg.ListOpt(
        "allowed_uids",
        item_type=types.Integer(min=0),
        default=[],
        help="User ids, besides this process's own and root, whose processes may connect to us and whose servers we "
        "talk to. The kernel vouches for them. A reload applies it.",
    ),
    cfg.IntOpt(
        "max_frame_bytes",
        default=4 * 1024 * 1024,
        min=4096,
        max=256 * 1024 * 1024,
        help="Largest message in bytes, either way. A larger one is refused before it is sent. A reload applies it.",
    ),
    cfg.IntOpt(
        "max_connections",
        default=256,
        min=2,
        help="Connections that one server holds at a time. Beyond it the one idle longest is closed; if none is idle "
        "the new one is refused. A reload applies it.",
    ),
    cfg.IntOpt(
        "max_pending",
        default=1024,
        min=1,
        help="Messages that one server has accepted and not finished. Beyond it the server reads no more until some "
        "are finished, and its clients wait. A reload applies it.",
    ),
    cfg.IntOpt(
        "max_idle_connections",
        default=16,
        min=0,
        help="Connections to one server that a client keeps open for the next message. A reload applies it.",
    ),
    cfg.FloatOpt(
        "handoff_timeout",
        default=5.0,
        min=0.1,
        help="Seconds that a client waits until a server has taken a message that expects no reply, and that either "
        "side waits for the other to read. A reload applies it.",
    ),
]
