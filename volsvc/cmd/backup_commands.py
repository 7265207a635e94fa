"""volsvc-manage backup scan: what a store holds, asked of the store alone, and what the records know of it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from volsvc import exceptions as exc
from volsvc.cmd import tables

if TYPE_CHECKING:
    from volsvc import models
    from volsvc.backup.drivers.base import BackupDriver
    from volsvc.backup.engine.scan import FoundBackup
    from volsvc.settings import Settings

COLUMNS = ("id", "state", "name", "volume_id", "size_gb", "stored_bytes", "data_timestamp", "project_id", "problem")
_UNKNOWN_VOLUME = "00000000-0000-0000-0000-000000000000"


def backup_scan(settings: Settings, args: argparse.Namespace) -> int:
    """Exit code 0 when every whole backup of the store is recorded, or was imported."""
    from volsvc.backup.engine.scan import scan
    from volsvc.backup.loader import load_backup_driver
    from volsvc.foundations import open_store

    store = open_store(settings)
    driver = load_backup_driver(settings.backup, host=settings.host, state_path=settings.service.state_path).build()
    try:
        driver.do_setup()
        driver.check()
        if driver.read_identity() is None:
            raise exc.BackendUnavailable(
                reason=f"{driver} has no marker, so no backup was ever made there; is it the right one?"
            )
        found = [(item, _find_record(store, item.backup_id)) for item in scan(driver)]
        rows = [_row(item, record) for item, record in found]
        if not args.do_import:
            tables.print_rows(rows, COLUMNS, args.format)
            return 1 if any(row["state"] == "not recorded" for row in rows) else 0
        return _import(settings, store, driver, [item for item, record in found if record is None])
    finally:
        driver.close()


def _find_record(store: Any, backup_id: str) -> models.Backup | None:
    try:
        record: models.Backup = store.get_backup(backup_id)
    except exc.BackupNotFound:
        return None
    return record


def _row(item: FoundBackup, record: models.Backup | None) -> dict[str, Any]:
    root = item.root
    noted = root.metadata if root is not None else {}
    state = "not recorded" if record is None else f"recorded, {record.status}"
    if item.problem:
        state = "not readable" if record is None else f"not readable; {state}"
    elif root is None:
        state = "unfinished" if record is None else f"unfinished; {state}"
    return {
        "id": item.backup_id,
        "state": state,
        "name": noted.get("name"),
        "volume_id": noted.get("volume_id"),
        "size_gb": None if root is None else -(-root.volume_bytes // 1024**3),
        "stored_bytes": None if root is None else root.stored_bytes,
        "data_timestamp": noted.get("data_timestamp"),
        "project_id": noted.get("project_id"),
        "problem": item.problem,
    }


def _import(settings: Settings, store: Any, driver: BackupDriver, unknown: list[FoundBackup]) -> int:
    """Record what isn't; the backup daemon looks at each before it is available."""
    failed = 0
    for item in unknown:
        if item.root is None:
            why = item.problem or "it was never finished"
            print(f"backup {item.backup_id}: not imported, {why}", file=sys.stderr)
            failed += 1 if item.problem else 0
            continue
        try:
            store.submit(_intent(settings.host, item, driver.identity))
        except exc.VolsvcError as error:
            failed += 1
            print(f"backup {item.backup_id}: {exc.describe(error)}", file=sys.stderr)
        else:
            print(f"backup {item.backup_id}: recorded; it is available when the backup service has looked at it")
    return 1 if failed else 0


def _intent(host: str, item: FoundBackup, store_uuid: str | None) -> Any:
    import datetime as dt

    from volsvc import models
    from volsvc.ports import Intent

    if item.root is None:
        raise ValueError("only a whole backup can be imported")
    noted = item.root.metadata
    context = models.RequestContext(
        user_id=str(noted.get("user_id") or "admin"),
        project_id=str(noted.get("project_id") or "admin"),
        is_admin=True,
        request_id="volsvc-manage",
    )
    taken_at = noted.get("data_timestamp")
    record = models.Backup(
        id=item.backup_id,
        volume_id=str(noted.get("volume_id") or _UNKNOWN_VOLUME),
        size_gb=-(-item.root.volume_bytes // models.GIB),
        status="creating",
        project_id=context.project_id,
        user_id=context.user_id,
        snapshot_id=noted.get("snapshot_id"),
        host=host,
        name=noted.get("name"),
        description=noted.get("description"),
        container=noted.get("container"),
        availability_zone=str(noted.get("availability_zone") or "nova"),
        store_uuid=store_uuid,
        volume_name=noted.get("volume_name"),
        data_timestamp=dt.datetime.fromisoformat(taken_at) if taken_at else None,
        metadata=dict(noted.get("metadata") or {}),
    )
    return Intent("backup_import", context, record.id, host=host, insert=record)
