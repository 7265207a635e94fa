"""What SQLite needs of whoever opens its file."""

from __future__ import annotations

import pathlib
import sqlite3
import subprocess
import sys

import pytest
import sqlalchemy as sa

from volsvc import exceptions as exc
from volsvc.db.engine import create_engine


def test_a_second_engine_of_one_process_leaves_the_locks_of_the_first(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "db.sqlite"
    first = create_engine(f"sqlite:///{path}")
    with first.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (n INTEGER)")
    create_engine(f"sqlite:///{path}").dispose()
    # Another process that believes to be the last to leave takes the log away, under the first one's feet.
    other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM t').fetchall(); c.close()"
    subprocess.run([sys.executable, "-c", other, str(path)], check=True)
    assert pathlib.Path(f"{path}-wal").exists()
    with first.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM t")).scalar_one() == 0
    first.dispose()


def test_a_new_file_is_private_and_in_wal_mode(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "db.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    engine.dispose()
    assert path.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_directory_in_the_files_place_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "db.sqlite").mkdir()
    with pytest.raises(exc.ConfigurationError, match="regular file"):
        create_engine(f"sqlite:///{tmp_path}/db.sqlite")
