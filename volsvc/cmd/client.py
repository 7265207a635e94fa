"""volsvc: what python-cinderclient lacks, over the REST API."""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

import volsvc
from volsvc.cmd import reset_commands, tables

DEFAULT_ENDPOINT = "http://127.0.0.1:8776/v3/demo"
OPERATION_COLUMNS = ("id", "action", "resource_id", "state", "progress", "created_at", "error")
TIMEOUT_S = 30.0


class RequestFailed(Exception):
    """The API answered with an error, or not at all; the text is for the user."""

    def __init__(self, message: str, *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing


class Client:
    """A few GETs and POSTs; no session, no state."""

    def __init__(self, endpoint: str, token: str) -> None:
        """``endpoint`` may have ``USER:PASSWORD@`` before its host, as cinderclient's may; it is shown without."""
        self._endpoint, user = _without_user(endpoint.rstrip("/"))
        self._headers = {"X-Auth-Token": token, "Content-Type": "application/json", "Accept": "application/json"}
        if user is not None:
            self._headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"

    def call(self, method: str, path: str, body: Any = None, *, timeout_s: float = TIMEOUT_S) -> Any:
        """Raises ``RequestFailed`` with what the API said."""
        request = urllib.request.Request(  # noqa: S310 - the endpoint is the user's own
            self._endpoint + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers=self._headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310
                text = response.read()
        except urllib.error.HTTPError as error:
            raise RequestFailed(_message(error), is_missing=error.code == 404) from error
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise RequestFailed(f"{self._endpoint} does not answer: {reason}; is volsvc-api running?") from error
        return json.loads(text) if text else None


def _without_user(endpoint: str) -> tuple[str, str | None]:
    """The URL without its user, and ``USER:PASSWORD`` with what was percent-encoded in them."""
    parts = urllib.parse.urlsplit(endpoint)
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl(), urllib.parse.unquote(user) if at else None


def _message(error: urllib.error.HTTPError) -> str:
    try:
        body = json.loads(error.read())
        return str(next(iter(body.values()))["message"])
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return f"HTTP {error.code} {error.reason}"


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    client = Client(args.endpoint, args.token)
    command: Callable[[Client, argparse.Namespace], int] = args.command
    try:
        code = command(client, args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return tables.end_unread()
    except RequestFailed as error:
        print(f"volsvc: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="volsvc", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {volsvc.__version__}")
    parser.add_argument(
        "--endpoint",
        default=os.environ.get("CINDER_ENDPOINT", DEFAULT_ENDPOINT),
        help="URL with the project; under http_basic with USER:PASSWORD@ before the host "
        f"(default: $CINDER_ENDPOINT, else {DEFAULT_ENDPOINT})",
    )
    parser.add_argument(
        "--token",
        default=os.environ.get("OS_TOKEN", "notused"),
        help="token; under noauth USER:PROJECT or nothing (default: $OS_TOKEN)",
    )
    groups = parser.add_subparsers(required=True, metavar="GROUP")
    operation = groups.add_parser("operation", help="what was asked for and how it goes").add_subparsers(
        required=True, metavar="COMMAND"
    )
    listing = operation.add_parser("list", help="operations, newest first")
    listing.add_argument("--all-projects", action="store_true", help="of every project (admin)")
    listing.add_argument("--state", help="only those in this state")
    listing.add_argument("--limit", type=int, default=50, metavar="N")
    listing.set_defaults(command=operation_list)
    showing = operation.add_parser("show", help="one operation, whole")
    watching = operation.add_parser("watch", help="follow one operation to its end; exit code 0 when it is done")
    cancelling = operation.add_parser("cancel", help="ask an operation to stop")
    for sub, command in ((showing, operation_show), (watching, operation_watch), (cancelling, operation_cancel)):
        sub.add_argument("id")
        sub.set_defaults(command=command)
    for sub in (listing, showing):
        sub.add_argument("-f", "--format", choices=tables.FORMATS, default="table")
    reset_commands.add_groups(groups)
    return parser


def operation_list(client: Client, args: argparse.Namespace) -> int:
    query = f"?limit={args.limit}" + ("&all_tenants=1" if args.all_projects else "")
    if args.state:
        query += f"&state={args.state}"
    rows = client.call("GET", f"/operations{query}")["operations"]
    if args.format == "table":
        for row in rows:
            percent = row["progress"]["percent"]
            row["progress"] = None if percent is None else f"{percent}%"
    tables.print_rows(rows, OPERATION_COLUMNS, args.format)
    return 0


def operation_show(client: Client, args: argparse.Namespace) -> int:
    tables.print_record(_get(client, args.id), args.format)
    return 0


def operation_cancel(client: Client, args: argparse.Namespace) -> int:
    client.call("POST", f"/operations/{args.id}/action", {"os-cancel": {}})
    print(f"operation {args.id} was asked to stop; 'volsvc operation watch {args.id}' shows how it ends")
    return 0


def operation_watch(client: Client, args: argparse.Namespace) -> int:
    """Poll until it has ended; a bar on a terminal, a line for each change elsewhere."""
    is_terminal = sys.stdout.isatty()
    shown = None
    pause_s = 0.1
    while True:
        operation = _get(client, args.id)
        line = f"{operation['action']} {operation['state']} {_bar(operation)}".rstrip()
        if is_terminal:
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif line != shown:
            print(line, flush=True)
        shown = line
        if operation["state"] not in ("queued", "running"):
            break
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 1.0)
    if is_terminal:
        print()
    if operation["state"] != "done":
        print(f"volsvc: {operation['error'] or operation['state']}", file=sys.stderr)
        return 1
    return 0


def _get(client: Client, operation_id: str) -> dict[str, Any]:
    operation: dict[str, Any] = client.call("GET", f"/operations/{operation_id}")["operation"]
    return operation


def _bar(operation: dict[str, Any], width: int = 30) -> str:
    progress = operation["progress"]
    percent, total = progress["percent"], progress["total_bytes"]
    if percent is None:
        return ""
    filled = width * percent // 100
    size = f" of {total / 1024**3:.1f} GiB" if total else ""
    left_s = progress.get("seconds_left")
    left = "" if left_s is None else f", about {_duration(left_s)} left"
    return f"[{'#' * filled}{'.' * (width - filled)}] {percent}%{size}{left}"


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(main())
