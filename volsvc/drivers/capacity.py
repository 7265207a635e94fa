"""How much may be promised: the options that drivers share with Cinder, and what they mean."""

from __future__ import annotations

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc.options import Options

DEFAULT_RATIO = 20.0  # Cinder's

OPTS = [
    cfg.StrOpt(
        "max_over_subscription_ratio",
        default=str(DEFAULT_RATIO),
        regex=r"^(auto|\d*\.\d+|\d+)$",
        help="How many times the capacity may be promised to thin volumes, at least 1.0; 'auto' follows how full the "
        "existing volumes are. A reload applies it.",
    ),
    cfg.IntOpt(
        "reserved_percentage",
        default=0,
        min=0,
        max=100,
        help="Percentage of the capacity that is never promised to volumes; 0 reserves nothing. A reload applies it.",
    ),
]


def check_ratio(options: Options) -> None:
    """Raise ``DriverConfigurationError`` for a ratio that promises less than there is."""
    ratio = options.max_over_subscription_ratio
    if ratio != "auto" and float(ratio) < 1:
        raise exc.DriverConfigurationError(
            reason=f"[{options.group}] max_over_subscription_ratio is {ratio}; use 1.0 or more, or 'auto'"
        )


def ratio_of(options: Options, promised_bytes: int, allocated_bytes: int) -> float:
    """The ratio now; 'auto' is one more than how many times what is allocated was promised, as in Cinder."""
    ratio = options.max_over_subscription_ratio
    if ratio != "auto":
        return float(ratio)
    return 1 + promised_bytes / allocated_bytes if allocated_bytes else DEFAULT_RATIO
