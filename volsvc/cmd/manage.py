"""volsvc-manage: the host's administrator, directly on the database; works while the API is down."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from volsvc import exceptions as exc
from volsvc.cmd import daemon, tables
from volsvc.cmd.backup_commands import backup_scan
from volsvc.cmd.stuck_commands import volume_stuck

if TYPE_CHECKING:
    from volsvc import models
    from volsvc.db.store import SqlStore
    from volsvc.settings import Settings

Command = Callable[["Settings", argparse.Namespace], int]

SERVICE_COLUMNS = ("binary", "host", "status", "heartbeat", "allocated_gb", "config", "state")
OPERATION_COLUMNS = ("id", "action", "resource_id", "state", "progress", "attempts", "created_at", "error")


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    from volsvc import settings

    try:
        loaded = settings.load(args.config_file, args.config_dir)
        command: Command = args.command
        code = command(loaded, args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return tables.end_unread()
    except (exc.VolsvcError, OSError) as error:
        print(f"volsvc-manage: {exc.describe(error)}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="volsvc-manage", description=__doc__)
    daemon.add_config_arguments(parser)
    groups = parser.add_subparsers(required=True, metavar="GROUP")

    db = groups.add_parser("db", help="the database's schema").add_subparsers(required=True, metavar="COMMAND")
    _command(db, "sync", db_sync, "bring the schema to this program's version; may be repeated")
    _command(db, "version", db_version, "print the schema's version and the one this program needs")

    service = groups.add_parser("service", help="daemons and backends").add_subparsers(required=True, metavar="COMMAND")
    whose = "HOST@BACKEND, or HOST for its backup service"
    forget = _command(
        service,
        "forget-storage",
        service_forget_storage,
        "let a backend without volumes, or a backup service without backups, begin on another storage",
    )
    forget.add_argument("host", metavar="HOST[@BACKEND]", help=whose)
    forget.add_argument(
        "--lost",
        action="store_true",
        help="a backup service's store will never be there again: give its backups up, they become errors that can be "
        "deleted",
    )
    reinit = _command(
        service, "reinit", service_reinit, "have a driver that is not ready try now, and say how it ended"
    )
    reinit.add_argument("host", metavar="HOST[@BACKEND]", help=whose)
    reinit.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="wait so long (default 60)")
    _with_format(_command(service, "list", service_list, "every service with its state and the reason for it"))

    operation = groups.add_parser("operation", help="what was asked for and how it went").add_subparsers(
        required=True, metavar="COMMAND"
    )
    listing = _with_format(_command(operation, "list", operation_list, "operations, newest first"))
    listing.add_argument("--all", action="store_true", help="ended ones too")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="at most N (default 50)")
    showing = _with_format(_command(operation, "show", operation_show, "one operation, whole"))
    showing.add_argument("id")

    volume = groups.add_parser("volume", help="what is stuck").add_subparsers(required=True, metavar="COMMAND")
    stuck = _with_format(
        _command(
            volume,
            "stuck",
            volume_stuck,
            "volumes, snapshots and backups whose status waits for an operation that isn't there, and the reset that "
            "mends each",
        )
    )
    stuck.add_argument("--apply", action="store_true", help="do those resets; what asks the storage needs its daemon")

    backup = groups.add_parser("backup", help="what the backup store holds").add_subparsers(
        required=True, metavar="COMMAND"
    )
    scanning = _with_format(
        _command(
            backup,
            "scan",
            backup_scan,
            "the backups of the configured store, asked of the store alone, with what the database knows of each",
        )
    )
    scanning.add_argument(
        "--import", dest="do_import", action="store_true", help="record those that the database doesn't know"
    )

    config = groups.add_parser("config", help="the configuration").add_subparsers(required=True, metavar="COMMAND")
    check = _command(config, "check", config_check, "read the files as a daemon would and say what is wrong")
    check.add_argument("--diff", metavar="HOST", help="also what differs from what that daemon runs on now")
    check.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="wait so long for its answer")

    reload = _command(groups, "reload", reload_daemons, "have daemons read their configuration anew, as SIGHUP does")
    reload.add_argument("host", nargs="?", metavar="HOST", help="only that node, or HOST@BACKEND (default: all)")
    reload.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="wait so long (default 120)")
    return parser


def _command(group: Any, name: str, command: Command, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = group.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    return parser


def _with_format(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("-f", "--format", choices=tables.FORMATS, default="table", help="default: table")
    return parser


# -- db ----------------------------------------------------------------------------------


def db_sync(settings: Settings, args: argparse.Namespace) -> int:
    from volsvc.db import migrate
    from volsvc.foundations import make_engine, prepare_directories

    prepare_directories(settings)
    engine = make_engine(settings)
    before = migrate.current(engine)
    migrate.sync(engine)
    after = migrate.current(engine)
    print(f"schema {after}" + ("" if before == after else f" (was {before or 'empty'})"))
    return 0


def db_version(settings: Settings, args: argparse.Namespace) -> int:
    from volsvc.db import migrate
    from volsvc.foundations import make_engine, require_database, sync_command

    require_database(settings)
    engine = make_engine(settings)
    print(f"schema {migrate.current(engine) or 'empty'}")
    migrate.check(engine, sync_command=sync_command(settings))
    return 0


# -- services and operations -----------------------------------------------------------------


def _store(settings: Settings) -> SqlStore:
    from volsvc.foundations import open_store

    return open_store(settings)


def service_list(settings: Settings, args: argparse.Namespace) -> int:
    from volsvc.service_words import describe_service

    rows = []
    for service in _store(settings).list_services():
        row = dataclasses.asdict(service)
        row["status"] = "up" if service.is_up else "down"
        row["heartbeat"] = service.heartbeat_at
        row["config"] = service.config_digest if not service.config_error else f"refused: {service.config_error}"
        if args.format == "table":
            row["state"] = describe_service(service)
        rows.append(row)
    tables.print_rows(rows, SERVICE_COLUMNS, args.format)
    return 0


def service_forget_storage(settings: Settings, args: argparse.Namespace) -> int:
    from volsvc.admin import AdminRequests

    given_up = AdminRequests(_store(settings)).forget_storage(args.host, is_lost=args.lost)
    if args.lost:
        print(f"{args.host}: {given_up} backups are errors now and can be deleted")
    print(f"{args.host}: the next attempt takes the storage that it finds; 'service reinit' makes one now")
    return 0


def service_reinit(settings: Settings, args: argparse.Namespace) -> int:
    from volsvc.admin import AdminRequests

    print(f"{args.host}: {AdminRequests(_store(settings)).reinit(args.host, args.timeout)}")
    return 0


def operation_list(settings: Settings, args: argparse.Namespace) -> int:
    from volsvc.ports import Query

    filters: dict[str, Any] = {} if args.all else {"state": ["queued", "running"]}
    page = _store(settings).list_operations(Query(filters=filters, limit=args.limit))
    tables.print_rows([_operation_row(operation) for operation in page.items], OPERATION_COLUMNS, args.format)
    return 0


def operation_show(settings: Settings, args: argparse.Namespace) -> int:
    tables.print_record(_operation_row(_store(settings).get_operation(args.id)), args.format)
    return 0


def _operation_row(operation: models.Operation) -> dict[str, Any]:
    row = dataclasses.asdict(operation) | {"result": dict(operation.shown_result)}
    total = operation.progress_total
    row["progress"] = f"{operation.progress_done * 100 // total}%" if total else None
    return row


def reload_daemons(settings: Settings, args: argparse.Namespace) -> int:
    from volsvc.admin import AdminRequests

    ended = AdminRequests(_store(settings)).reload(args.host, args.timeout)
    for host, refusal in ended.items():
        print(f"{host}: {'the new settings serve' if refusal is None else f'refused: {refusal}'}")
    return 1 if any(ended.values()) else 0


# -- config -------------------------------------------------------------------------------------


def config_check(settings: Settings, args: argparse.Namespace) -> int:
    """Everything a daemon would read: also what the drivers, the API and the logs are built from."""
    for warning in settings.warnings:
        print(f"warning: {warning}")
    failed = False
    for what, check in _checks(settings):
        try:
            check()
        except exc.VolsvcError as error:
            failed = True
            print(f"{what}: {exc.describe(error)}", file=sys.stderr)
    if not failed:
        names = ", ".join(backend.name for backend in settings.backends)
        files = ", ".join(settings.files) or "no file, the defaults"
        print(f"the configuration is good ({files}): host {settings.host}, backends {names}")
    if args.diff and not failed:
        _print_differences(settings, args)
    return 1 if failed else 0


def _checks(settings: Settings) -> Iterator[tuple[str, Callable[[], object]]]:
    """What each part reads before it touches anything, with the name it has in a complaint."""
    from volsvc import logs
    from volsvc.api import auth
    from volsvc.api.policies import Policy
    from volsvc.backup.loader import load_backup_driver
    from volsvc.driver_loader import load_driver

    state_path, runtime_path = settings.service.state_path, settings.service.runtime_path
    for backend in settings.backends:
        host = f"{settings.host}@{backend.name}"
        yield (
            f"[{backend.name}]",
            functools.partial(load_driver, backend, host=host, state_path=state_path, runtime_path=runtime_path),
        )
    yield "backups", functools.partial(load_backup_driver, settings.backup, host=settings.host, state_path=state_path)
    yield "logs", functools.partial(logs.read_options, settings.files, settings.dirs)
    yield "API", functools.partial(auth.check_listen_is_safe, settings.api)
    yield "API", functools.partial(auth.build_authenticator, settings.api)
    yield "policy", functools.partial(Policy, settings.policy_file)


def _print_differences(settings: Settings, args: argparse.Namespace) -> None:
    from volsvc.admin import AdminRequests

    salt = secrets.token_hex(8)
    running = AdminRequests(_store(settings)).describe(args.diff, salt, args.timeout)
    wanted = settings.describe(salt)
    rows = [
        {"option": name, "running": running.get(name), "file": wanted.get(name)}
        for name in sorted(set(running) | set(wanted))
        if running.get(name) != wanted.get(name)
    ]
    if rows:
        tables.print_rows(rows, ("option", "running", "file"), "table")
    else:
        print(f"the daemon of {args.diff} runs on the same settings")


if __name__ == "__main__":
    sys.exit(main())
