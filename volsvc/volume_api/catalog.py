"""Requests on what is not a volume: types, services, pools, operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Page, Query
from volsvc.volume_api.base import RequestBase, new_id, scope_of, scoped

DEFAULT_TYPE = "__DEFAULT__"


class CatalogRequests(RequestBase):
    # -- volume types --------------------------------------------------------------

    def list_types(self, context: models.RequestContext, query: Query) -> Page[models.VolumeType]:
        return self._store.list_volume_types(query)

    def get_type(self, context: models.RequestContext, id_or_name: str) -> models.VolumeType:
        return self._store.get_volume_type(id_or_name)

    def default_type(self, context: models.RequestContext) -> models.VolumeType:
        return self._store.get_volume_type(DEFAULT_TYPE)

    def create_type(
        self,
        context: models.RequestContext,
        *,
        name: str,
        description: str | None = None,
        is_public: bool = True,
        extra_specs: Mapping[str, str] | None = None,
    ) -> models.VolumeType:
        """Raises ``VolumeTypeExists`` for a name that is taken."""
        if not name.strip():
            raise exc.InvalidInput(reason="Volume type name can not be empty.")
        return self._store.create_volume_type(
            models.VolumeType(
                id=new_id(), name=name.strip(), description=description, is_public=is_public,
                extra_specs=dict(extra_specs or {}),
            )
        )  # fmt: skip

    def update_type(
        self, context: models.RequestContext, type_id: str, changes: Mapping[str, Any]
    ) -> models.VolumeType:
        return self._store.update_volume_type(type_id, changes)

    def delete_type(self, context: models.RequestContext, type_id: str) -> None:
        """Raises ``VolumeTypeInUse`` while volumes have it; the default type stays."""
        if self._store.get_volume_type(type_id).name == DEFAULT_TYPE:
            raise exc.InvalidVolumeType(reason="the default volume type can't be deleted.")
        self._store.delete_volume_type(type_id)

    def set_extra_specs(
        self, context: models.RequestContext, type_id: str, specs: Mapping[str, str]
    ) -> models.VolumeType:
        """Add or change extra specs; the others stay."""
        current = self._store.get_volume_type(type_id)
        return self._store.update_volume_type(type_id, {"extra_specs": {**current.extra_specs, **specs}})

    def delete_extra_spec(self, context: models.RequestContext, type_id: str, key: str) -> None:
        current = dict(self._store.get_volume_type(type_id).extra_specs)
        if key not in current:
            raise exc.MetadataNotFound(id=key)
        del current[key]
        self._store.update_volume_type(type_id, {"extra_specs": current})

    # -- services and pools -----------------------------------------------------------

    def list_services(self, context: models.RequestContext) -> list[models.Service]:
        return self._store.list_services()

    def set_service_enabled(
        self, context: models.RequestContext, host: str, binary: str, enabled: bool, reason: str | None = None
    ) -> models.Service:
        """A disabled service gets no new volumes; those it has go on."""
        for service in self._store.list_services():
            if service.host == host and service.binary == binary:
                return self._store.update_service(
                    service.id, {"is_disabled": not enabled, "disabled_reason": None if enabled else reason}
                )
        raise exc.ServiceNotFound(id=f"{binary} on {host}")

    def pools(self, context: models.RequestContext) -> list[models.Service]:
        """The backends that have published capabilities: each is one pool."""
        return [found for found in self._store.list_services() if found.serves_volumes and found.capabilities]

    # -- operations -----------------------------------------------------------------------

    def get_operation(self, context: models.RequestContext, operation_id: str) -> models.Operation:
        operation = self._store.get_operation(operation_id)
        scope = scope_of(context)
        if scope is not None and operation.project_id != scope:
            raise exc.OperationNotFound(id=operation_id)
        return operation

    def list_operations(self, context: models.RequestContext, query: Query) -> Page[models.Operation]:
        return self._store.list_operations(scoped(context, query))

    def cancel_operation(self, context: models.RequestContext, operation_id: str) -> models.Operation:
        """Ask for a cancel: a queued one ends at once, a running one at its next step."""
        operation = self.get_operation(context, operation_id)
        cancelled = self._store.request_cancel(operation.id)
        if cancelled.host and cancelled.is_open:
            self._doorbell.ring(cancelled.host)
        return cancelled
