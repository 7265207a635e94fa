"""The schema's version: what it is, whether this program can live with it, and how to bring it up to date.

Migrations only add, and what they add has a default in the database (a program of the release
before doesn't write it), so a program also runs on the schema of the release after its own: a cluster
is upgraded by one ``db sync`` first and its daemons one by one afterwards.  Revisions are numbers
in sequence, which is how a program knows that a revision it has never heard of is the next one.

A daemon only checks; alembic is imported by ``sync`` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from volsvc import exceptions as exc
from volsvc.db.engine import READ_ONLY
from volsvc.db.transactions import Transactions, translate

# Every revision that this program knows, oldest first, and what it brought.
REVISIONS: dict[str, str] = {
    "0001": "volumes, snapshots, attachments, types, services, operations",
    "0002": "backups",
}
NEEDED = max(REVISIONS)
# The oldest revision that this program's statements work on.
OLDEST_ACCEPTED = NEEDED

_VERSION_TABLE = "alembic_version"
# Any number will do as long as nobody else locks it.
_POSTGRESQL_LOCK = 0x766F6C73


def current(engine: Engine) -> str | None:
    """The revision of the database's schema, None when it has none.  Raises ``StoreUnavailable``."""
    with _translated(), engine.connect().execution_options(**{READ_ONLY: True}) as connection:
        if not sa.inspect(connection).has_table(_VERSION_TABLE):
            return None
        return connection.execute(sa.text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar_one_or_none()  # noqa: S608 - a constant


def check(engine: Engine, *, sync_command: str = "volsvc-manage db sync") -> None:
    """Raises ``SchemaMismatch`` unless this program can work on the schema, ``StoreUnavailable``."""
    found = current(engine)
    if found is not None and _is_accepted(found):
        return
    url = engine.url.render_as_string(hide_password=True)
    if found is not None and found.isdigit() and int(found) > int(NEEDED):
        raise exc.SchemaMismatch(
            f"The database at {url} has schema {found}, this program knows {NEEDED} and works up to the next one; "
            "upgrade this program",
        )
    raise exc.SchemaMismatch(url=url, found=found or "none", needed=NEEDED, command=sync_command)


def _is_accepted(found: str) -> bool:
    return found.isdigit() and int(OLDEST_ACCEPTED) <= int(found) <= int(NEEDED) + 1


def sync(engine: Engine) -> str:
    """Bring the schema up to this program's, and return its revision.

    May be repeated, and run by several at once: one does it, the others find it done.  A newer
    schema is left as it is.  Raises ``StoreUnavailable``.
    """
    found = current(engine)
    if found is not None and found.isdigit() and int(found) >= int(NEEDED):
        return found
    Transactions(engine).write(_upgrade)
    return current(engine) or ""


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRESQL_LOCK)))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        translated = translate(error)
        if translated is None:
            raise
        raise translated from error
