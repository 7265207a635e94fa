#!/usr/bin/env python3
"""Measure full backup, verify and restore of a VM-like image, beside restic in the same run.

    python bench/backup.py [--image PATH] [--directory DIR] [--rounds 3] [--cold]

Prints one table: wall and CPU seconds, peak memory, stored bytes, and ratios to restic when it
is installed (``apt-get install restic``).  "volsvc" is the engine alone, "service" what a user of a
running volsvc-all gets: request, connection, engine, and the polling client's last look.  Tools take
turns, round by round, and the fastest round of each counts, because other work on a machine only
ever makes a run slower.  Each step of the first two is a process of its own, so that CPU and memory
are its own; the service's peak has all of the daemon in it.  ``--cold``: drop the page cache before
each step (root).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

BACKUP_ID = "b0000000-0000-4000-8000-000000000001"
MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True)
class Measured:
    wall_s: float
    cpu_s: float
    peak_mib: float


def run(arguments: Sequence[str], environment: dict[str, str] | None = None) -> Measured:
    """Run a process to its end and measure it alone."""
    begun = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return Measured(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def tree_bytes(path: pathlib.Path) -> int:
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


class Volsvc:
    name = "volsvc"

    def __init__(self, directory: pathlib.Path, image: pathlib.Path) -> None:
        self.repository = directory / "volsvc"
        self._image = image
        self._restored = directory / "restored.img"

    def prepare(self) -> None:
        shutil.rmtree(self.repository, ignore_errors=True)
        self.repository.mkdir(mode=0o700)

    def _job(self, name: str, *paths: pathlib.Path) -> Measured:
        return run([sys.executable, __file__, "--job", name, str(self.repository), *map(str, paths)])

    def steps(self) -> dict[str, Callable[[], Measured]]:
        return {
            "backup": lambda: self._job("backup", self._image),
            "verify": lambda: self._job("verify"),
            "restore": lambda: self._job("restore", self._restored),
        }

    def restored(self) -> pathlib.Path:
        return self._restored


class Restic:
    name = "restic"

    def __init__(self, directory: pathlib.Path, image: pathlib.Path) -> None:
        self.repository = directory / "restic"
        self._image = image
        self._target = directory / "restic-restored"
        self._environment = {"RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": str(self.repository)}
        self._environment["RESTIC_CACHE_DIR"] = str(directory / "restic-cache")

    def prepare(self) -> None:
        shutil.rmtree(self.repository, ignore_errors=True)
        run(["restic", "-q", "init", "--repository-version", "2"], self._environment)

    def _restic(self, *arguments: str) -> Measured:
        return run(["restic", "-q", *arguments], self._environment)

    def steps(self) -> dict[str, Callable[[], Measured]]:
        def restore() -> Measured:
            measured = self._restic("restore", "latest", "--target", str(self._target))
            begun = time.perf_counter()
            with open(self.restored(), "rb") as file:
                os.fsync(file.fileno())
            return Measured(measured.wall_s + time.perf_counter() - begun, measured.cpu_s, measured.peak_mib)

        return {
            "backup": lambda: self._restic("backup", str(self._image)),
            "verify": lambda: self._restic("check", "--read-data"),
            "restore": restore,
        }

    def restored(self) -> pathlib.Path:
        return self._target / self._image.relative_to("/")


class Service:
    """A volsvc-all with the image as a volume that nobody has attached."""

    name = "service"

    def __init__(self, directory: pathlib.Path, image: pathlib.Path) -> None:
        from volsvc.testing.daemon import Daemon

        self._image = image
        (directory / "s").mkdir()
        self._daemon = Daemon(directory / "s", options={"host": "bench"})
        self.repository = self._daemon.state / "backup"
        self._cinder: Any = None
        self._volume_id = self._backup_id = self._restored_id = ""

    def prepare(self) -> None:
        from volsvc.testing.daemon import wait_until

        if self._cinder is None:
            self._daemon.start().wait_ready()
            self._cinder = self._daemon.cinder()
            self._volume_id = self._cinder.volumes.create(-(-self._image.stat().st_size // GIB)).id
            self._wait(self._cinder.volumes, self._volume_id)
            copy = ["cp", "--sparse=always", str(self._image), str(self._daemon.volumes / f"volume-{self._volume_id}")]
            subprocess.run(copy, check=True)
            os.truncate(copy[-1], -(-self._image.stat().st_size // GIB) * GIB)
        for manager in (self._cinder.backups, self._cinder.volumes):
            for item in manager.list():
                if item.id != self._volume_id:
                    item.delete()
        wait_until(lambda: not self._cinder.backups.list() and len(self._cinder.volumes.list()) == 1, "the last round")

    def steps(self) -> dict[str, Callable[[], Measured]]:
        def backup() -> None:
            self._backup_id = self._cinder.backups.create(self._volume_id).id
            self._wait(self._cinder.backups, self._backup_id)

        def restore() -> None:
            self._restored_id = self._cinder.restores.restore(self._backup_id).volume_id
            self._wait(self._cinder.volumes, self._restored_id)

        return {"backup": lambda: self._measured(backup), "restore": lambda: self._measured(restore)}

    def _measured(self, work: Callable[[], None]) -> Measured:
        proc = pathlib.Path(f"/proc/{self._daemon.pid}")
        (proc / "clear_refs").write_text("5")  # lets the peak begin anew, proc(5)
        cpu_before, begun = self._cpu_s(proc), time.perf_counter()
        work()
        wall_s = time.perf_counter() - begun
        peak = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmHWM"))
        return Measured(wall_s, self._cpu_s(proc) - cpu_before, int(peak.split()[1]) / 1024)

    @staticmethod
    def _cpu_s(proc: pathlib.Path) -> float:
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _wait(manager: Any, item_id: str) -> None:
        from volsvc.testing.daemon import wait_until

        wait_until(lambda: manager.get(item_id).status == "available", f"{item_id} to be available", 300.0)

    def restored(self) -> pathlib.Path:
        return self._daemon.volumes / f"volume-{self._restored_id}"

    def end(self) -> None:
        self._daemon.end()


def do_job(name: str, repository: str, path: str = "") -> None:
    """One step of ours, in the process that is measured."""
    import uuid

    from volsvc.backup.drivers.base import BackupDriverContext
    from volsvc.backup.drivers.posix import PosixBackupDriver
    from volsvc.drivers.base import NoWork
    from volsvc.options import Options

    store = PosixBackupDriver(BackupDriverContext("bench", Options({"backup_posix_path": repository}), repository))
    store.do_setup()
    if store.read_identity() is None:
        store.write_identity(str(uuid.uuid4()))
    if name == "backup":
        from volsvc.backup.engine.create import CreateRequest, create_backup
        from volsvc.backup.file_blocks import FileSource

        with FileSource(path) as source:
            create_backup(store, CreateRequest(BACKUP_ID, "bench"), source, NoWork())
    elif name == "verify":
        from volsvc.backup.engine.verify import verify_backup

        verify_backup(store, BACKUP_ID, NoWork())
    else:
        from volsvc.backup.engine.reading import load_root
        from volsvc.backup.engine.restore import restore_backup
        from volsvc.backup.file_blocks import FileSink
        from volsvc.backup.format.hashing import PLAIN

        with open(path, "wb") as file:
            file.truncate(load_root(store, BACKUP_ID, PLAIN).volume_bytes)
        with FileSink(path) as sink:
            restore_backup(store, BACKUP_ID, sink, NoWork(), is_blank=True)


Tool = Volsvc | Restic | Service


def drop_caches() -> None:
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("1")


def measure(tools: Sequence[Tool], image: pathlib.Path, rounds: int, *, is_cold: bool) -> None:
    best: dict[tuple[str, str], Measured] = {}
    stored: dict[str, int] = {}
    for _ in range(rounds):
        for tool in tools:
            tool.prepare()
            os.sync()
            for step, work in tool.steps().items():
                if is_cold:
                    drop_caches()
                measured = work()
                key = (tool.name, step)
                best[key] = min(best.get(key, measured), measured, key=lambda m: m.wall_s)
            stored[tool.name] = tree_bytes(tool.repository)
            subprocess.run(["cmp", "-n", str(image.stat().st_size), str(image), str(tool.restored())], check=True)
            tool.restored().unlink()
    print_table(tools, best, stored, image.stat().st_size)


def print_table(
    tools: Sequence[Tool], best: dict[tuple[str, str], Measured], stored: dict[str, int], size: int
) -> None:
    print(f"{'step':<9}{'tool':<9}{'wall s':>8}{'MB/s':>8}{'CPU s':>8}{'peak MiB':>10}{'stored MiB':>12}")
    for step in ("backup", "verify", "restore"):
        for tool in tools:
            if (tool.name, step) not in best:
                continue
            found = best[tool.name, step]
            kept = f"{stored[tool.name] / MIB:.0f}" if step == "backup" else ""
            print(
                f"{step:<9}{tool.name:<9}{found.wall_s:>8.2f}{size / 1e6 / found.wall_s:>8.0f}{found.cpu_s:>8.2f}"
                f"{found.peak_mib:>10.0f}{kept:>12}"
            )
    if "restic" in stored:
        ratios = {
            step: (
                best["restic", step].wall_s / best["volsvc", step].wall_s,
                best["restic", step].cpu_s / best["volsvc", step].cpu_s,
            )
            for step in ("backup", "verify", "restore")
        }
        for step, (wall, cpu) in ratios.items():
            print(f"{step}: {wall:.1f} times as fast as restic, with {cpu:.1f} times less CPU")
        print(f"stored: {stored['volsvc'] / stored['restic']:.2f} of restic's bytes")


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        do_job(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=pathlib.Path, help="an image made before; otherwise one is made")
    parser.add_argument("--directory", type=pathlib.Path, help="where to work; needs some 8 GiB")
    parser.add_argument("--size-mib", type=int, default=3072)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--json", action="store_true", help="print what the image is made of, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="bench-backup-") as name:
        directory = pathlib.Path(name)
        image = arguments.image.resolve() if arguments.image else directory / "vm.img"
        if not arguments.image:
            from vm_image import make_image

            made = make_image(image, arguments.size_mib)
            if arguments.json:
                print(json.dumps(made))
        tools: list[Tool] = [Volsvc(directory, image)]
        if shutil.which("restic"):
            tools.append(Restic(directory, image))
        else:
            print("restic is not installed; apt-get install restic", file=sys.stderr)
        service = Service(directory, image)
        try:
            measure([*tools, service], image, arguments.rounds, is_cold=arguments.cold)
        finally:
            service.end()


if __name__ == "__main__":
    main()
