"""Requests on attachments: reserve, connect, complete, disconnect.

Connecting and disconnecting answer with their result, so these requests wait for the
operation's end; see ``RequestBase._await`` for what happens when it doesn't come.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Guards, Intent, Page, Query
from volsvc.volume_api.base import LOG, RequestBase, new_id, scope_of, scoped

MODES = ("rw", "ro")
PATIENCE_S = 3.0


class AttachmentRequests(RequestBase):
    def create_attachment(
        self,
        context: models.RequestContext,
        volume_id: str,
        *,
        instance_id: str | None = None,
        connector: Mapping[str, Any] | None = None,
        mode: str | None = None,
    ) -> models.Attachment:
        """Reserve a volume, and with a connector connect it at once.

        Raises ``StatusConflict``, ``InvalidVolume`` for a second attachment of a volume that isn't
        multiattach, ``ServiceDown`` and ``BackendBusy`` (nothing is left recorded then), or what the driver raised.
        """
        volume = self._get_volume(context, volume_id)
        chosen_mode = check_mode(mode or (connector or {}).get("mode"))
        attachment = models.Attachment(
            id=new_id(),
            volume_id=volume_id,
            status="reserved",
            project_id=volume.project_id,
            instance_id=instance_id,
            attach_mode=chosen_mode,
            connector=dict(connector or {}),
            mountpoint=(connector or {}).get("mountpoint"),
            attached_host=(connector or {}).get("host"),
        )
        intent = Intent(
            action="attachment_create" if connector else "attachment_reserve",
            context=context,
            resource_id=attachment.id,
            second_id=volume_id,
            host=models.backend_of(volume.host or "") if connector else None,
            insert=attachment,
            guards=Guards(single_attachment=None if volume.is_multiattach else volume_id),
        )
        if connector:
            self._connect(volume.host, intent)
        else:
            self._submit(intent)
        return self._store.get_attachment(attachment.id)

    def update_attachment(
        self, context: models.RequestContext, attachment_id: str, connector: Mapping[str, Any]
    ) -> models.Attachment:
        """Connect a reserved attachment for ``connector``; raises like ``create_attachment``."""
        attachment = self.get_attachment(context, attachment_id)
        if not connector:
            raise exc.InvalidInput(reason="connector is empty; it must say at least which host connects.")
        volume = self._store.get_volume(attachment.volume_id)
        self._connect(
            volume.host,
            Intent(
                action="attachment_connect",
                context=context,
                resource_id=attachment_id,
                second_id=attachment.volume_id,
                host=models.backend_of(volume.host or ""),
                changes={
                    "connector": dict(connector),
                    "attach_mode": check_mode(connector.get("mode") or attachment.attach_mode),
                    "mountpoint": connector.get("mountpoint"),
                    "attached_host": connector.get("host"),
                },
            ),
        )
        return self._store.get_attachment(attachment_id)

    def complete_attachment(self, context: models.RequestContext, attachment_id: str) -> None:
        """The client says that it is connected: attached, and the volume is in use."""
        attachment = self.get_attachment(context, attachment_id)
        if attachment.status != "attached" and not attachment.connection_info:
            raise exc.InvalidAttachment(
                reason=f"attachment {attachment_id} is {attachment.status} and has no connection; "
                "update it with a connector first."
            )
        self._submit(
            Intent(
                action="attachment_complete",
                context=context,
                resource_id=attachment_id,
                second_id=attachment.volume_id,
            )
        )

    def delete_attachment(self, context: models.RequestContext, attachment_id: str) -> list[models.Attachment]:
        """Disconnect and return the attachments that the volume still has.

        When the backend can't be asked now the detach stays recorded, happens when the backend
        is back, and the attachment is still among those returned.
        """
        attachment = self.get_attachment(context, attachment_id)
        is_connected = attachment.status != "reserved"
        volume = self._store.get_volume(attachment.volume_id)
        operation = self._submit(
            Intent(
                action="attachment_disconnect" if is_connected else "attachment_release",
                context=context,
                resource_id=attachment_id,
                second_id=attachment.volume_id,
                host=models.backend_of(volume.host or "") if is_connected else None,
            )
        )[0]
        if is_connected:
            try:
                self._require_up(volume.host)
                with self._waiting_place(volume.host):
                    self._await(operation, take_back=False)
            except (exc.ServiceDown, exc.OperationTimeout, exc.BackendBusy) as error:
                LOG.warning("attachment %s: detached later, by operation %s: %s", attachment_id, operation.id, error)
        return self._store.attachments_of([attachment.volume_id]).get(attachment.volume_id, [])

    def _connect(self, host: str | None, intent: Intent) -> None:
        """Record, and wait for the end; nothing is left recorded when it can't begin."""
        self._require_up(host)
        with self._waiting_place(host):
            self._await(self._submit(intent, rings=False)[0], take_back=True)

    def _waiting_place(self, host: str | None) -> contextlib.AbstractContextManager[None]:
        """A short wait: others make room within that unless the backend hangs."""
        backend = models.backend_of(host or "")
        return self._waiting_room.place("attach", backend, self._settings.max_attaching, patience_s=PATIENCE_S)

    def get_attachment(self, context: models.RequestContext, attachment_id: str) -> models.Attachment:
        return self._store.get_attachment(attachment_id, project_id=scope_of(context))

    def list_attachments(
        self, context: models.RequestContext, query: Query, with_count: bool = False
    ) -> Page[models.Attachment]:
        return self._store.list_attachments(scoped(context, query), with_count=with_count)

    def attachments_of(
        self, context: models.RequestContext, volume_ids: list[str]
    ) -> dict[str, list[models.Attachment]]:
        return self._store.attachments_of(volume_ids)


def check_mode(mode: Any) -> str:
    if mode is None or mode == "null":
        return "rw"
    if mode not in MODES:
        raise exc.InvalidInput(reason=f"attachment mode {mode!r} is not one of: rw, ro.")
    return str(mode)
