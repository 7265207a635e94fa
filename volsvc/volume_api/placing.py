"""Recording a new volume on the best backend that has room for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from volsvc import exceptions as exc
from volsvc import models, placement
from volsvc.ports import Guards, Intent
from volsvc.volume_api.base import RequestBase


class PlacingBase(RequestBase):
    """What requests share that make a volume."""

    def _place(self, wish: placement.Wish, make: Callable[[models.Service, Guards], Sequence[Intent]]) -> None:
        """Record what ``make`` gives for the best backend; for the next one if that has no room any more.

        Raises ``NoBackendReady`` and ``CapacityExceeded``; nothing is recorded then.
        """
        refusal: exc.CapacityExceeded | None = None
        for service, claim in placement.choose(self._store.list_services(), wish):
            try:
                self._submit(*make(service, Guards(capacity=claim)))
            except exc.CapacityExceeded as error:
                refusal = error  # another request took the room between the look and the claim
                continue
            return
        raise refusal or exc.NoBackendReady(reason="no backend was left to try")

    def _choose_type(
        self, context: models.RequestContext, wanted: str | None, source: models.Snapshot | models.Volume | None
    ) -> models.VolumeType:
        """The type asked for, else the source's, else the default."""
        if wanted:
            chosen = self._store.get_volume_type(wanted)
            if not chosen.is_public and not context.is_admin:
                raise exc.VolumeTypeNotFound(id=wanted)
            return chosen
        if source is not None and source.volume_type_id:
            return self._store.get_volume_type(source.volume_type_id)
        return self._store.get_volume_type("__DEFAULT__")


def pool_of(service: models.Service) -> str:
    """``host@backend#pool`` of a volume that is placed on ``service``."""
    return f"{service.host}#{service.capabilities.get('pool_name') or service.host.partition('@')[2]}"


def asks_multiattach(volume_type: models.VolumeType) -> bool:
    """Whether volumes of this type can be attached more than once."""
    wanted = volume_type.extra_specs.get("multiattach")
    return wanted is not None and placement.matches(True, wanted)
