"""Choosing a backend for a new volume from what the backends published.

Pure functions over service records.  The rules are those of Cinder's scheduler with its
default filters (availability zone, capacity, capabilities) and its capacity weigher; the claim
itself is made by the store in the transaction that records the volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import CapacityClaim


@dataclass(frozen=True, slots=True)
class Wish:
    """What a new volume asks of its backend."""

    size_gb: int
    extra_specs: Mapping[str, str]
    availability_zone: str | None = None
    is_multiattach: bool = False
    only_host: str | None = None  # host@backend of the source, when it is made from one


def choose(services: Iterable[models.Service], wish: Wish) -> list[tuple[models.Service, CapacityClaim]]:
    """The backends that can take the volume, best first, each with the claim to make.

    Raises ``NoBackendReady`` when none is up or fits the type, ``CapacityExceeded`` when
    only room is lacking; both say what each backend said.
    """
    refusals: list[str] = []
    fitting: list[tuple[models.Service, CapacityClaim]] = []
    lacks_only_room = True
    for service in services:
        if not service.serves_volumes or wish.only_host not in (None, service.host):
            continue
        refusal = _why_not(service, wish)
        if refusal is None:
            refusal = _why_no_room(service, wish.size_gb)
        else:
            lacks_only_room = False
        if refusal is None:
            fitting.append((service, CapacityClaim(service.host, wish.size_gb, limit_gb(service.capabilities))))
        else:
            refusals.append(f"{service.host}: {refusal}")
    if fitting:
        return sorted(fitting, key=lambda pair: (-_virtual_free_gb(pair[0]), pair[0].host))
    if not refusals:
        raise exc.NoBackendReady(
            reason=f"the backend {wish.only_host} of the source is not enabled any more"
            if wish.only_host
            else "no volume service has reported yet; is volsvc-volume running?"
        )
    if lacks_only_room:
        raise exc.CapacityExceeded(
            reason=f"No backend has room for {wish.size_gb} GiB ({'; '.join(refusals)}); ask for less, "
            "or delete what isn't needed"
        )
    raise exc.NoBackendReady(reason="; ".join(refusals))


def explain_down(service: models.Service) -> str:
    """Why a service isn't up, as an operator would say it."""
    if service.state != "ready":
        detail = f" ({service.step}: {service.reason})" if service.reason else ""
        return f"it is {service.state}{detail}"
    if service.heartbeat_at is None:
        return "it has never reported"
    return f"its last heartbeat was at {service.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC; is its daemon running?"


def limit_gb(capabilities: Mapping[str, Any]) -> float | None:
    """How much a backend may promise in all; None when it doesn't say."""
    total = capabilities.get("total_capacity_gb")
    if not isinstance(total, int | float):
        return None
    if capabilities.get("thin_provisioning_support"):
        return float(total) * float(capabilities.get("max_over_subscription_ratio") or 1.0)
    return float(total) - _reserved_gb(capabilities, float(total))


def _why_not(service: models.Service, wish: Wish) -> str | None:
    if service.is_disabled:
        return f"disabled ({service.disabled_reason or 'no reason given'})"
    if not service.is_up:
        return explain_down(service)
    if wish.availability_zone and wish.availability_zone != service.availability_zone:
        return f"is in the availability zone {service.availability_zone}, not {wish.availability_zone}"
    if wish.is_multiattach and not service.capabilities.get("multiattach"):
        return "does not attach a volume more than once"
    for key, wanted in wish.extra_specs.items():
        name = key.removeprefix("capabilities:")
        if ":" in name or name == "multiattach":
            continue  # other scopes are for drivers, not for placement
        if not matches(service.capabilities.get(name), wanted):
            return f"has {name}={service.capabilities.get(name)!r}, the type asks for {wanted!r}"
    return None


def _why_no_room(service: models.Service, size_gb: int) -> str | None:
    limit = limit_gb(service.capabilities)
    if limit is not None and service.allocated_gb + size_gb > limit:
        return f"{service.allocated_gb} GiB of {limit:.1f} GiB are promised already"
    free = service.capabilities.get("free_capacity_gb")
    total = service.capabilities.get("total_capacity_gb")
    if not isinstance(free, int | float) or not isinstance(total, int | float):
        return None
    usable = float(free) - _reserved_gb(service.capabilities, float(total))
    if service.capabilities.get("thin_provisioning_support"):
        usable *= float(service.capabilities.get("max_over_subscription_ratio") or 1.0)
    return None if usable >= size_gb else f"{max(0.0, usable):.1f} GiB can be used"


def _reserved_gb(capabilities: Mapping[str, Any], total: float) -> float:
    return math.floor(total * float(capabilities.get("reserved_percentage") or 0) / 100)


def _virtual_free_gb(service: models.Service) -> float:
    limit = limit_gb(service.capabilities)
    return math.inf if limit is None else limit - service.allocated_gb


def matches(actual: Any, wanted: str) -> bool:
    """Cinder's extra-spec operators; a plain word must be equal, and ``=`` means at least."""
    if isinstance(actual, list | tuple):
        return any(matches(item, wanted) for item in actual)
    words = wanted.split()
    text = "" if actual is None else str(actual)
    if not words:
        return text == wanted
    operator, rest = words[0], words[1:]
    if operator == "<is>":
        return bool(rest) and (text.lower() in ("true", "1", "yes")) == (rest[0].lower() in ("true", "1", "yes"))
    if operator == "<in>":
        return " ".join(rest) in text
    if operator == "<or>":
        return text in [word for word in rest if word != "<or>"]
    if operator in _TEXT_OPERATORS:
        return _TEXT_OPERATORS[operator](text, " ".join(rest))
    if operator in _NUMBER_OPERATORS:
        try:
            return _NUMBER_OPERATORS[operator](float(text), float(rest[0]))
        except (ValueError, IndexError):
            return False
    return text.lower() == wanted.lower() if isinstance(actual, bool) else text == wanted


_TEXT_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "s==": lambda a, b: a == b,
    "s!=": lambda a, b: a != b,
    "s<": lambda a, b: a < b,
    "s<=": lambda a, b: a <= b,
    "s>": lambda a, b: a > b,
    "s>=": lambda a, b: a >= b,
}
_NUMBER_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
}


def find_service(services: Sequence[models.Service], host: str) -> models.Service | None:
    """The service record of a volume's ``host@backend#pool``."""
    backend = models.backend_of(host)
    return next((s for s in services if s.host == backend), None)
