"""Giving a backup service the blocks of a volume or a snapshot, and taking them back.

These operations stand aside: they change no status and wait for nobody, because the operation that
reads (of the backup service, named in their arguments) has the volume already.  What a reader was
given ends with that operation at the latest: here when it ended meanwhile, else at the backend's
next initialisation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers.base import VolumeDriver
from volsvc.drivers.readers import Reader, Source
from volsvc.operation_control import OperationControl, Result
from volsvc.ports import Store

LOG = logging.getLogger(__name__)

Action = Callable[[models.Operation, VolumeDriver, OperationControl], Result]


class BlockAccess:
    """The handlers of one backend, by action.

    ``args`` of a connect: ``reader`` (the id of the operation that reads), ``mode`` ("ro" or "rw"), ``connector``
    (what the reader says of itself, ``"local": False`` among it); its result: ``connection_info``, which
    holds secrets.  ``args`` of a disconnect: ``reader``.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.actions: dict[str, Action] = {
            "volume_connect": self.connect_volume,
            "snapshot_connect": self.connect_snapshot,
            "volume_disconnect": self.disconnect,
            "snapshot_disconnect": self.disconnect,
        }

    def connect_volume(self, operation: models.Operation, driver: VolumeDriver, control: OperationControl) -> Result:
        """Refused while clients are connected: what they write is in no point in time."""
        volume = self._store.get_volume(operation.resource_id)
        attachments = self._store.attachments_of([volume.id]).get(volume.id, [])
        if any(attachment.connection_info for attachment in attachments):
            raise exc.InvalidVolume(reason=f"volume {volume.id} is attached; read a snapshot of it, or detach it first")
        return self._connect(operation, volume, driver, control)

    def connect_snapshot(self, operation: models.Operation, driver: VolumeDriver, control: OperationControl) -> Result:
        return self._connect(operation, self._store.get_snapshot(operation.resource_id), driver, control)

    def disconnect(self, operation: models.Operation, driver: VolumeDriver, control: OperationControl) -> Result:
        """The volume or snapshot may be gone by now."""
        driver.close_blocks(_reader_of(operation).id)
        return Result()

    def _connect(
        self, operation: models.Operation, source: Source, driver: VolumeDriver, control: OperationControl
    ) -> Result:
        reader = _reader_of(operation)
        self._require_open(reader)
        try:
            info = driver.open_blocks(source, reader)
            # It may have ended while this was made, after it had everything closed.
            self._require_open(reader)
        except exc.BackendUnavailable:
            raise
        except Exception:
            # What is half open must not outlive its reader; a superseded handler leaves it to its successor.
            if control.is_current():
                _close(driver, reader.id)
            raise
        LOG.info("%s: opened for reader %s (%s)", source.id, reader.id, info["driver_volume_type"])
        return Result(result={"connection_info": dict(info)})

    def _require_open(self, reader: Reader) -> None:
        if not _is_open(self._store, reader.id):
            raise exc.Conflict(reason=f"the operation {reader.id}, for which blocks were to be read, has ended")


def close_stale_readers(store: Store, driver: VolumeDriver) -> None:
    """Take back what readers were given whose operations have ended.

    A failure is logged: the next initialisation tries again.  Raises ``BackendUnavailable``, ``StoreUnavailable``.
    """
    for reader_id in sorted(driver.list_readers()):
        if not _is_open(store, reader_id):
            LOG.info("reader %s: ended what was left of it", reader_id)
            _close(driver, reader_id)


def _close(driver: VolumeDriver, reader_id: str) -> None:
    try:
        driver.close_blocks(reader_id)
    except exc.BackendUnavailable:
        raise
    except Exception:
        LOG.exception("reader %s: what it was given was not ended; the next initialisation tries again", reader_id)


def _is_open(store: Store, operation_id: str) -> bool:
    try:
        return store.get_operation(operation_id).is_open
    except exc.OperationNotFound:
        return False


def _reader_of(operation: models.Operation) -> Reader:
    args = operation.args
    try:
        return Reader(str(args["reader"]), args.get("mode", "ro") != "rw", dict(args.get("connector") or {}))
    except (KeyError, TypeError, ValueError) as error:
        raise exc.InvalidInput(reason=f"{operation.action} needs the reader's operation in its arguments") from error
