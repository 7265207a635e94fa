"""A user of backups, and what a store and a volume hold, read behind the service's back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import random
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from tests.functional.backup import scripted_drivers
from tests.functional.user import DEADLINE_S, MIB, User, fill, is_passing
from volsvc.backup.drivers.base import MARKER_NAME, BackupDriver, BackupDriverContext
from volsvc.backup.drivers.posix import PosixBackupDriver
from volsvc.backup.engine.scan import scan
from volsvc.backup.engine.verify import verify_backup
from volsvc.backup.format import names
from volsvc.drivers.base import NoWork
from volsvc.testing.daemon import Daemon, exporters_under, wait_until
from volsvc.testing.snapshots import options_of

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
#: So that what the tests wait for is done soon.
QUICK = {"periodic_interval": 1, "backend_stats_polling_interval": 1, "operation_sweep_interval": 1}
_BLOCK = 4096


class BackupUser(User):
    """One project that backs its volumes up."""

    # -- what a user does -------------------------------------------------------------------

    def filled(self, seed: int, size_gb: int = 1, mib: int = 4) -> Any:
        """An available volume with random bytes in several places."""
        volume = self.create(size_gb)
        connection = self.connect(volume)
        fill(connection, random_blocks(seed, size_gb, mib))
        self.disconnect(connection)
        return self.wait_volume(volume.id)

    def back_up(self, volume: Any, **fields: Any) -> Any:
        """A backup that is available."""
        return self.wait_backup(self.cinder.backups.create(volume.id, **fields).id)

    def restore(self, backup: Any, volume: Any = None) -> Any:
        """A new volume, or the one given, with a backup's bytes."""
        restore = self.cinder.restores.restore(backup.id, volume and volume.id)
        return self.wait_volume(restore.volume_id)

    # -- waiting and looking --------------------------------------------------------------------

    def wait_backup(self, backup_id: str, status: str = "available", timeout_s: float = DEADLINE_S) -> Any:
        return self._wait(self.cinder.backups, backup_id, status, timeout_s)

    def wait_backups_gone(self, *backups: Any, timeout_s: float = DEADLINE_S) -> None:
        ids = {backup.id for backup in backups}

        def look() -> bool:
            left = [row for row in self.backups() if row["id"] in ids]
            assert not [row for row in left if row["status"].startswith("error")], left
            return not left

        wait_until(look, f"{len(ids)} backups to be gone", timeout_s)

    def wait_operation(self, resource_id: str, action: str, state: str = "done") -> dict[str, Any]:
        """The newest operation of that action when it is in that state."""

        def look() -> dict[str, Any] | None:
            found = [o for o in self.operations(resource_id) if o["action"] == action]
            return found[0] if found and found[0]["state"] == state else None

        return wait_until(look, f"{action} of {resource_id} to be {state}", DEADLINE_S)

    def backups(self) -> list[dict[str, Any]]:
        """Every project's."""
        found: list[dict[str, Any]] = self.get("/backups/detail?all_tenants=1")["backups"]
        return found

    def fail_reason(self, backup_id: str) -> str:
        return str(self.get(f"/backups/{backup_id}")["backup"]["fail_reason"])

    def lose_record(self, backup: Any) -> None:
        """As a database does that an older copy is put in place of."""
        with contextlib.closing(sqlite3.connect(self.daemon.state / "volsvc.sqlite", timeout=30)) as database, database:
            assert database.execute("DELETE FROM backups WHERE id = ?", (backup.id,)).rowcount == 1

    def service(self, binary: str = "cinder-backup") -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.get(f"/os-services?binary={binary}")["services"]
        assert len(rows) == 1, rows
        return rows[0]

    def wait_service(self, state: str, reason: str = "", timeout_s: float = 30.0) -> dict[str, Any]:
        """Until the backup service is up or down, with these words in its reason."""

        def look() -> dict[str, Any] | None:
            row = self.service()
            return row if row["state"] == state and reason in str(row["volsvc:init_summary"]) else None

        try:
            return wait_until(look, f"the backup service to be {state} ({reason})", timeout_s)
        except TimeoutError as error:
            raise AssertionError(f"{error}; it is {self.service()}") from None

    def digest(self, volume: Any) -> str:
        return digest(self.file_of(volume))

    # -- nothing is left ---------------------------------------------------------------------------

    def require_nothing_lent(self) -> None:
        """No operation is open, and nothing is left of what backups and restores were lent."""
        self.wait_idle()
        state = self.state()
        temporary = [s["name"] for s in state.snapshots.values() if str(s["name"]).startswith("backup_snapshot_")]
        assert not temporary
        assert not state.stuck()
        assert not [row for row in self.backups() if is_passing(row["status"])]
        attached = {a["volume_id"] for a in state.attachments.values() if a["status"] != "reserved"}
        assert len(exporters_under(self.daemon.root)) == len(attached)
        assert not list_files(self.daemon.root / "run" / "backup"), "sockets and keys of a bridge"
        assert not list_files(self.daemon.state / "backup-journals")
        leftovers = {name for name in state.files if name.startswith(".part")}
        assert not leftovers

    def require_store(self, path: pathlib.Path) -> None:
        """The store has every stored backup of the records, each whole, and nothing else."""
        require_store(path, {row["id"] for row in self.backups() if row["status"] == "available"})


# -- the store ---------------------------------------------------------------------------------------


def open_store(path: pathlib.Path) -> PosixBackupDriver:
    options = options_of(PosixBackupDriver, backup_posix_path=str(path))
    driver = PosixBackupDriver(BackupDriverContext("test", options, str(path)))
    assert driver.read_identity() is not None
    return driver


def require_store(path: pathlib.Path, expected: Iterable[str]) -> None:
    """What ``expected`` names is there, whole by its last byte; no other object or file is."""
    require_objects(open_store(path), expected)
    # A check of the service has one there for a moment.
    wait_until(lambda: not list_files(path / ".part"), "no unfinished file to be in the store", 10)


def require_objects(driver: BackupDriver, expected: Iterable[str]) -> None:
    """The same, of any store."""
    found = {item.backup_id: item for item in scan(driver)}
    assert not [item for item in found.values() if item.root is None], "an unfinished or damaged backup"
    assert set(found) == set(expected)
    needed = {MARKER_NAME}
    for backup_id, item in found.items():
        verify_backup(driver, backup_id, NoWork())
        assert item.root is not None
        needed |= {names.root(backup_id), names.started(backup_id), *item.root.packs}
    stored = {item.name for page in driver.list("") for item in page}
    assert stored - needed == set(), "objects that no backup needs"
    assert needed - stored <= {names.started(backup_id) for backup_id in found}


# -- bytes --------------------------------------------------------------------------------------------


def random_blocks(seed: int, size_gb: int, mib: int) -> Mapping[int, bytes]:
    """A MiB each, at chunk borders and across them, the volume's first and last bytes too."""
    rng = random.Random(seed)
    last = size_gb * 1024 * MIB - MIB
    places = [0, last, *(rng.randrange(MIB, last - MIB, 512) for _ in range(mib - 2))]
    return {at: rng.randbytes(MIB) for at in places[:mib]}


def digest(path: str) -> str:
    """Of a sparse file's length and bytes; holes and zeros are the same."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        found.update(str(end).encode())
        for at in _data_blocks(file.fileno(), end):
            data = os.pread(file.fileno(), _BLOCK, at)
            if data.count(0) != len(data):
                found.update(at.to_bytes(8, "big") + data)
    return found.hexdigest()


def _data_blocks(fd: int, end: int) -> Iterable[int]:
    at = 0
    while at < end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield from range(start // _BLOCK * _BLOCK, at, _BLOCK)


def list_files(path: pathlib.Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir())


# -- requests and daemons -------------------------------------------------------------------------------------------


def refused(user: BackupUser, status: int, path: str, body: Any, method: str = "POST") -> str:
    """The message of a refusal with that status; nothing was recorded."""
    before = user.backups(), user.state()
    found, answer = user.call(method, path, body)
    assert found == status, answer
    assert (user.backups(), user.state()) == before
    [fault] = answer.values()
    return str(fault["message"])


class ScriptedBackups:
    """A daemon's configuration with a volume driver and a store that wait or fail as the test says."""

    def __init__(self, daemon: Daemon, **options: Any) -> None:
        self.daemon = daemon
        self.store = daemon.state / "backup"
        self.script = daemon.root / "script.json"
        backend = {"volume_driver": scripted_drivers.VOLUMES, "volumes_script": self.script}
        default = {
            **QUICK,
            "enabled_backends": "file",
            "backup_driver": scripted_drivers.STORE,
            "store_script": self.script,
            "operation_max_attempts": 100,
            **options,
        }
        daemon.configure(default, {"file": backend})
        daemon.environment = {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        self.write({})

    def write(self, rules: Mapping[str, Mapping[str, Any]]) -> None:
        new = self.script.with_suffix(".new")
        new.write_text(json.dumps(rules))
        new.replace(self.script)

    def calls(self, method: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return int(json.loads(pathlib.Path(f"{self.script}.counts").read_text()).get(method, 0))
        return 0

    def hang(self, method: str, call: int = 1, when: str = "before") -> int:
        """Have the ``call``-th call of ``method`` from now on hang; returns its number."""
        number = self.calls(method) + call
        self.write({method: {"hang": True, "skip": number - 1, "when": when}})
        return number

    def wait_call(self, method: str, number: int) -> None:
        wait_until(lambda: self.calls(method) >= number, f"call {number} of {method}")
