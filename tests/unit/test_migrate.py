"""The schema's version: checked by daemons, brought up to date by one command, also by several at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc.db import migrate, schema
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.ports import Query


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "volsvc.sqlite"


@pytest.fixture
def engine(database: Path) -> Iterator[sa.Engine]:
    engine = create_engine(f"sqlite:///{database}", is_synchronous=False)
    migrate.sync(engine)
    yield engine
    engine.dispose()


def set_revision(engine: sa.Engine, revision: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :new"), {"new": revision})


def test_the_migrations_make_the_schema_that_the_store_uses(engine: sa.Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_the_known_revisions_are_those_that_there_are(engine: sa.Engine) -> None:
    from alembic.script import ScriptDirectory

    found = [script.revision for script in ScriptDirectory(str(migrations_path())).walk_revisions()]
    assert sorted(found) == list(migrate.REVISIONS)
    assert migrate.current(engine) == migrate.NEEDED == found[0]


def migrations_path() -> Path:
    return Path(migrate.__file__).with_name("migrations")


def test_a_database_without_a_schema_is_refused_with_the_command(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/new.sqlite")
    assert migrate.current(engine) is None
    with pytest.raises(exc.SchemaMismatch, match="volsvc-manage db sync"):
        migrate.check(engine)
    assert migrate.sync(engine) == migrate.NEEDED
    migrate.check(engine)
    engine.dispose()


def test_the_next_release_s_schema_is_accepted_and_others_are_not(engine: sa.Engine) -> None:
    needed = int(migrate.NEEDED)
    for revision, words in (
        (needed, None),
        (needed + 1, None),
        (needed + 2, "upgrade this program"),
        (needed - 1, "db sync"),
        ("abc", "db sync"),
    ):
        set_revision(engine, f"{revision:04}" if isinstance(revision, int) else revision)
        if words is None:
            migrate.check(engine)
        else:
            with pytest.raises(exc.SchemaMismatch, match=words):
                migrate.check(engine)


def test_sync_leaves_a_newer_schema_and_an_up_to_date_one_as_they_are(engine: sa.Engine) -> None:
    default_type = SqlStore(engine).get_volume_type("__DEFAULT__")
    assert migrate.sync(engine) == migrate.NEEDED
    assert SqlStore(engine).get_volume_type("__DEFAULT__") == default_type
    newer = f"{int(migrate.NEEDED) + 1:04}"
    set_revision(engine, newer)
    assert migrate.sync(engine) == newer


def test_several_that_sync_a_new_database_at_once_make_one_schema(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    program = (
        "import sys\nfrom volsvc.db import migrate\nfrom volsvc.db.engine import create_engine\n"
        "engine = create_engine(sys.argv[1])\nsys.stdin.readline()\nmigrate.sync(engine)\nmigrate.check(engine)\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, f"sqlite:///{path}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    results = [child.communicate("go\n", timeout=60)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], results
    store = SqlStore(create_engine(f"sqlite:///{path}"))
    assert [item.name for item in store.list_volume_types(Query()).items] == ["__DEFAULT__"]


def test_a_daemon_does_not_load_alembic(database: Path, engine: sa.Engine) -> None:
    program = (
        "import sys\nfrom volsvc.db import migrate, store\nfrom volsvc.db.engine import create_engine\n"
        "engine = create_engine(sys.argv[1])\nmigrate.check(engine)\nstore.SqlStore(engine).list_services()\n"
        "print(sorted(name for name in ('alembic', 'sqlalchemy.orm') if name in sys.modules))\n"
    )
    arguments = [sys.executable, "-c", program, f"sqlite:///{database}"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
