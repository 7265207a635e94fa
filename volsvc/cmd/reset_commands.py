"""volsvc volume, snapshot and backup: resetting a status, and what record and storage say."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.parse
from typing import TYPE_CHECKING, Any

from volsvc.cmd import tables

if TYPE_CHECKING:
    from volsvc.cmd.client import Client

#: A reset answers when the storage has; rpc_response_timeout is the service's limit on that.
RESET_TIMEOUT_S = 600.0


def add_groups(groups: Any) -> None:
    """Add the commands to the parser of ``volsvc``."""
    volume = groups.add_parser("volume", help="what a volume's storage says; resets").add_subparsers(
        required=True, metavar="COMMAND"
    )
    inspect = volume.add_parser(
        "inspect",
        help="what record, attachments and storage say; exit code 0 when they agree",
        description="Show what the record, the attachments and the storage each say of a volume, and where they "
        "disagree. Exit code 0 when the storage was asked and all agree, else 1.",
    )
    inspect.add_argument("volume", help="id or name")
    inspect.add_argument("-f", "--format", choices=tables.FORMATS, default="table")
    inspect.set_defaults(command=volume_inspect)
    reset = volume.add_parser(
        "reset",
        help="set a status, after the storage was brought to it",
        description="Set a volume's status. Before 'available' every connection is severed on the storage, before "
        "'in-use' every attachment is connected again; if that fails nothing is changed.",
    )
    reset.add_argument("volume", help="id or name")
    reset.add_argument("--state", help="the status (default: available, when nothing else is given)")
    reset.add_argument("--attach-status", choices=("attached", "detached"))
    reset.add_argument("--reset-migration-status", action="store_true", help="clear it")
    _add_common(reset)
    reset.set_defaults(command=volume_reset)
    snapshot = groups.add_parser("snapshot", help="resets of snapshots").add_subparsers(
        required=True, metavar="COMMAND"
    )
    reset = snapshot.add_parser("reset", help="set a status, after the storage was asked for the snapshot")
    reset.add_argument("snapshot", help="id or name")
    reset.add_argument("--state", default="available", help="the status (default: available)")
    _add_common(reset)
    reset.set_defaults(command=snapshot_reset)

    backup = groups.add_parser("backup", help="resets of backups").add_subparsers(required=True, metavar="COMMAND")
    reset = backup.add_parser("reset", help="set a status, after the store was asked for the backup")
    reset.add_argument("backup", help="id or name")
    reset.add_argument("--state", default="available", help="the status (default: available)")
    _add_common(reset)
    reset.set_defaults(command=backup_reset)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force",
        choices=("ignore", "skip"),
        help="ignore: ask the storage and go on whatever it says; skip: only write the record",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, in order, and do nothing")
    parser.add_argument("-f", "--format", choices=tables.FORMATS, default="table", help="of the dry run")


def volume_inspect(client: Client, args: argparse.Namespace) -> int:
    volume_id = _find(client, "volumes", args.volume)
    report = client.call("GET", f"/volumes/{volume_id}/inspect", timeout_s=RESET_TIMEOUT_S)["inspection"]
    if args.format == "json":
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        _print_report(report)
    return 0 if report["storage"] is not None and not report["disagreements"] else 1


def volume_reset(client: Client, args: argparse.Namespace) -> int:
    body: dict[str, Any] = {}
    if args.attach_status:
        body["attach_status"] = args.attach_status
    if args.reset_migration_status:
        body["migration_status"] = "none"
    if args.state or not body:
        body["status"] = args.state or "available"
    volume_id = _find(client, "volumes", args.volume)
    return _reset(client, args, f"/volumes/{volume_id}", body)


def snapshot_reset(client: Client, args: argparse.Namespace) -> int:
    snapshot_id = _find(client, "snapshots", args.snapshot)
    return _reset(client, args, f"/snapshots/{snapshot_id}", {"status": args.state})


def backup_reset(client: Client, args: argparse.Namespace) -> int:
    backup_id = _find(client, "backups", args.backup)
    return _reset(client, args, f"/backups/{backup_id}", {"status": args.state})


def _reset(client: Client, args: argparse.Namespace, path: str, body: dict[str, Any]) -> int:
    words = ", ".join(f"{name} {value}" for name, value in body.items())
    if args.force:
        body["force"] = args.force
    if args.dry_run:
        body["dry_run"] = True
    answer = client.call("POST", f"{path}/action", {"os-reset_status": body}, timeout_s=RESET_TIMEOUT_S)
    if not args.dry_run:
        print(f"{path.rpartition('/')[2]} was reset: {words}")
        return 0
    plan = answer["dry_run"]
    if args.format == "json":
        json.dump(plan, sys.stdout, indent=2)
        print()
    else:
        for number, step in enumerate(plan["steps"], 1):
            print(f"{number}. {_step(step)}")
        _print_report(plan["inspection"])
    return 1 if any(step["step"] == "refused" for step in plan["steps"]) else 0


def _step(step: dict[str, Any]) -> str:
    rest = {key: value for key, value in step.items() if key not in ("step", "call") and value not in (None, [])}
    details = ", ".join(f"{key} {_value(value)}" for key, value in rest.items())
    return f"{step['step']} {step.get('call', '')} {details}".replace("  ", " ").strip()


def _print_report(report: dict[str, Any]) -> None:
    storage = report["storage"]
    rows = [("record", key, _value(value)) for key, value in report["volume"].items() if value is not None]
    for attachment in report["attachments"]:
        rows.append(("attachment", attachment["id"], _value({k: v for k, v in attachment.items() if k != "id"})))
    if storage is not None:
        rows.extend(("storage", key, _value(value)) for key, value in storage.items())
    elif report["storage_error"]:
        rows.append(("storage", "not asked", report["storage_error"]))
    for operation in report["open_operations"]:
        rows.append(("operation", operation["id"], f"{operation['action']} {operation['state']}"))
    tables.print_rows(
        [dict(zip(("who", "what", "says"), row, strict=True)) for row in rows], ("who", "what", "says"), "table"
    )
    for disagreement in report["disagreements"]:
        print(f"disagreement: {disagreement}")


def _value(value: Any) -> str:
    if value is None:
        return "it can't tell"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(found)}" for key, found in value.items() if found is not None)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _find(client: Client, collection: str, id_or_name: str) -> str:
    """The id; a name must be of one thing only."""
    from volsvc.cmd.client import RequestFailed

    quoted = urllib.parse.quote(id_or_name, safe="")
    try:
        found = client.call("GET", f"/{collection}/{quoted}")
        return str(next(iter(found.values()))["id"])
    except RequestFailed as error:
        if not error.is_missing:
            raise
    rows = client.call("GET", f"/{collection}?all_tenants=1&name={quoted}")[collection]
    named = [row["id"] for row in rows if row["name"] == id_or_name]
    if len(named) != 1:
        what = f"{len(named)} {collection} are called" if named else f"there is no {collection[:-1]}"
        raise RequestFailed(f"{what} {id_or_name!r}" + (f": {', '.join(named)}" if named else ""))
    return str(named[0])
