"""Options of one backend, from its own group; [backend_defaults] gives what a group doesn't set."""

from __future__ import annotations

from oslo_config import cfg

DEFAULTS_GROUP = "backend_defaults"

OPTS = [
    cfg.StrOpt(
        "volume_driver",
        default="file",
        help="The driver: a name that an installed package offers (volsvc.volume_drivers: file, fake) or "
        "a class as package.module.Class. A reload applies it.",
    ),
    cfg.StrOpt(
        "target_helper",
        default="nbd",
        help="How clients reach volumes, where the driver leaves it open: a name that an installed package offers "
        "(volsvc.targets: nbd, local, fake) or a class as package.module.Class. A reload applies it.",
    ),
    cfg.StrOpt(
        "volume_backend_name",
        sample_default="the group's name",
        help="Name that a volume type's extra spec volume_backend_name asks for. Several backends may share one. "
        "A reload applies it.",
    ),
    cfg.BoolOpt(
        "enable_unsupported_driver",
        default=False,
        help="Initialise the driver although its author doesn't support it any more. A reload applies it.",
    ),
]
