"""volsvc-manage volume stuck: what waits for an operation that isn't there, and its mending."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import TYPE_CHECKING, Any

from volsvc import exceptions as exc
from volsvc.cmd import tables

if TYPE_CHECKING:
    from volsvc.settings import Settings

COLUMNS = ("type", "id", "name", "status", "since", "attachments", "mend")
_KINDS = {"Volume": "volume", "Snapshot": "snapshot", "Backup": "backup"}


def volume_stuck(settings: Settings, args: argparse.Namespace) -> int:
    """Exit code 0 when nothing is stuck, or when all of it was mended."""
    from volsvc import inspection
    from volsvc.foundations import open_store

    store = open_store(settings)
    stuck = store.list_stuck()
    rows: list[dict[str, Any]] = []
    for situation in stuck:
        resource = situation.resource
        rows.append(
            {
                "type": _KINDS[type(resource).__name__],
                "id": resource.id,
                "name": resource.name,
                "status": resource.status,
                "since": resource.updated_at or resource.created_at,
                "attachments": ", ".join(f"{a.id} {a.status}" for a in situation.attachments) or None,
                "mend": f"reset to {inspection.mend_of(situation)}",
            }
        )
    if not args.apply:
        tables.print_rows(rows, COLUMNS, args.format)
        return 1 if rows else 0
    return _mend(settings, rows)


def _mend(settings: Settings, rows: list[dict[str, Any]]) -> int:
    from volsvc import models
    from volsvc.foundations import open_store
    from volsvc.ports import NobodyRings
    from volsvc.volume_api import ApiSettings, VolumeAPI

    api = VolumeAPI(
        open_store(settings), NobodyRings(), ApiSettings(response_timeout_s=settings.service.rpc_response_timeout)
    )
    context = models.RequestContext(getpass.getuser(), "admin", is_admin=True, request_id="volsvc-manage")
    failed = 0
    for row in rows:
        status = row["mend"].removeprefix("reset to ")
        try:
            if row["type"] == "volume":
                api.reset_status(context, row["id"], status=status)
            elif row["type"] == "snapshot":
                api.reset_snapshot_status(context, row["id"], status=status)
            else:
                api.reset_backup_status(context, row["id"], status=status)
        except exc.VolsvcError as error:
            failed += 1
            print(f"{row['type']} {row['id']}: {exc.describe(error)}", file=sys.stderr)
        else:
            print(f"{row['type']} {row['id']}: was {row['status']}, reset to {status}")
    return 1 if failed else 0
