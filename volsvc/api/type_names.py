"""Names of volume types for views: a volume's record has only the type's id.

Volumes are listed far more often than types are renamed, so that a name is remembered for a
few seconds; a change through this process is seen at once.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from volsvc import exceptions as exc
from volsvc import models

if TYPE_CHECKING:
    from volsvc.volume_api import VolumeAPI

REMEMBERED_S = 5.0


class TypeNames:
    def __init__(self, api: VolumeAPI, remembered_s: float = REMEMBERED_S) -> None:
        self._api = api
        self._remembered_s = remembered_s
        self._lock = threading.Lock()
        self._names: dict[str, tuple[str | None, float]] = {}

    def name_of(self, ctx: models.RequestContext, type_id: str | None) -> str | None:
        """The type's name; its id when the type is gone or hidden from this caller, as Cinder does."""
        if type_id is None:
            return None
        now = time.monotonic()
        # A type that only admins see must not show its name to others.
        key = f"{ctx.is_admin}:{type_id}"
        known = self._names.get(key)
        if known is None or known[1] < now:
            known = (self._look_up(ctx, type_id), now + self._remembered_s)
            with self._lock:
                if len(self._names) > 1000:
                    self._names.clear()
                self._names[key] = known
        return known[0] or type_id

    def forget(self) -> None:
        """A type was changed here."""
        with self._lock:
            self._names.clear()

    def _look_up(self, ctx: models.RequestContext, type_id: str) -> str | None:
        try:
            return self._api.get_type(ctx, type_id).name
        except exc.VolumeTypeNotFound:
            return None
