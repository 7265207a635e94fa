"""Volume types as Cinder shows them."""

from __future__ import annotations

from typing import Any

from volsvc import models
from volsvc.api.call import Call

# What users may see of a type's extra specs (cinder/policies/type_extra_specs.py).
VISIBLE_TO_USERS = frozenset({"RESKEY:availability_zones", "multiattach", "replication_enabled"})


class VolumeTypeView:
    def __init__(self, call: Call) -> None:
        self._shows_specs = call.allows("volume_extension:access_types_extra_specs")
        self._shows_qos = call.allows("volume_extension:access_types_qos_specs_id")
        self._shows_all_specs = call.allows("volume_extension:types_extra_specs:read_sensitive")

    def detail(self, volume_type: models.VolumeType) -> dict[str, Any]:
        body: dict[str, Any] = {
            "id": volume_type.id,
            "name": volume_type.name,
            "is_public": volume_type.is_public,
            "os-volume-type-access:is_public": volume_type.is_public,
            "description": volume_type.description,
        }
        if self._shows_specs:
            body["extra_specs"] = self.extra_specs(volume_type)
        if self._shows_qos:
            body["qos_specs_id"] = None
        return body

    def extra_specs(self, volume_type: models.VolumeType) -> dict[str, str]:
        """Those that the caller may see."""
        specs = volume_type.extra_specs
        if self._shows_all_specs:
            return dict(specs)
        return {key: value for key, value in specs.items() if key in VISIBLE_TO_USERS}
