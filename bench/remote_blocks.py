#!/usr/bin/env python3
"""Measure a backup and a restore of a volume of another host beside those of the same host.

    python bench/remote_blocks.py [--image PATH] [--directory DIR] [--rounds 3] [--threads 1,2,4]

The other host is this one: NBD over TCP with TLS through loopback and the bridge, so both sides' work
is in the figures and a network is not.  Prints two tables: the engine's backup and restore of a
VM-like image, and reading and writing 1 MiB at a time.  The ways take turns, round by round, and
the fastest round of each counts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from volsvc.backup.access import open_sink, open_source
from volsvc.backup.drivers.base import BackupDriverContext
from volsvc.backup.drivers.posix import PosixBackupDriver
from volsvc.backup.engine.create import CreateRequest, create_backup
from volsvc.backup.engine.restore import restore_backup
from volsvc.drivers.base import NoWork
from volsvc.drivers.readers import Reader, local_connection
from volsvc.options import Options
from volsvc.targets.base import TargetContext
from volsvc.targets.nbd import NbdTarget
from volsvc.testing.snapshots import options_of

MIB = 1024**2
RAW_MIB = 1024
WAYS = ("same host", "other host")


class World:
    """A directory with images, a target that exports them, and a backup store."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        options = options_of(NbdTarget, target_ip_address="127.0.0.1")
        self._target = NbdTarget(TargetContext("bench", "host@bench", options, str(directory)))
        self._target.check_for_setup_error()

    @contextlib.contextmanager
    def opened(self, way: str, path: pathlib.Path, mode: str) -> Iterator[Any]:
        reader = Reader(str(uuid.uuid4()), mode == "ro", {"local": way == "same host"})
        if reader.is_local:
            info = local_connection(str(path), reader)
        else:
            info = dict(self._target.open_remotely(str(path), reader))
        opener: Callable[..., Any] = open_source if reader.is_read_only else open_sink
        try:
            with contextlib.closing(opener(info, str(self.directory / "b"))) as blocks:
                yield blocks
        finally:
            self._target.close_reader(reader.id)

    def new_store(self, name: str) -> PosixBackupDriver:
        path = self.directory / name
        path.mkdir(mode=0o700)
        store = PosixBackupDriver(BackupDriverContext("bench", Options({"backup_posix_path": str(path)}), str(path)))
        store.do_setup()
        store.write_identity(str(uuid.uuid4()))
        return store


def timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def back_up_and_restore(world: World, image: pathlib.Path, way: str, number: int) -> tuple[float, float]:
    """Seconds of each; the restored volume is compared."""
    store = world.new_store(f"store-{number}")
    backup_id = str(uuid.uuid4())
    restored = world.directory / "restored"
    with restored.open("wb") as file:
        file.truncate(image.stat().st_size)
    os.sync()

    def back_up() -> None:
        with world.opened(way, image, "ro") as source:
            create_backup(store, CreateRequest(backup_id, "bench"), source, NoWork())

    def restore() -> None:
        with world.opened(way, restored, "rw") as sink:
            restore_backup(store, backup_id, sink, NoWork(), is_blank=True)

    found = timed(back_up), timed(restore)
    subprocess.run(["cmp", str(image), str(restored)], check=True)
    restored.unlink()
    subprocess.run(["rm", "-r", str(world.directory / f"store-{number}")], check=True)
    return found


def transfer(world: World, path: pathlib.Path, way: str, mode: str, threads: int) -> float:
    """Seconds to read or write it all, with what was written synced."""
    with world.opened(way, path, mode) as blocks, ThreadPoolExecutor(threads) as pool:
        buffers = [memoryview(bytearray(MIB)) for _ in range(threads)]

        def work(worker: int) -> None:
            for number in range(worker, RAW_MIB, threads):
                if mode == "ro":
                    blocks.read_into(number * MIB, buffers[worker])
                else:
                    blocks.write(number * MIB, buffers[worker])

        def run() -> None:
            list(pool.map(work, range(threads)))
            if mode == "rw":
                blocks.sync()

        return timed(run)


def print_rows(title: str, rows: dict[str, dict[str, float]], size_bytes: int) -> None:
    print(f"{title:<24}" + "".join(f"{way + ' MB/s':>18}" for way in WAYS) + f"{'ratio':>8}")
    for name, seconds in rows.items():
        speeds = [size_bytes / 1e6 / seconds[way] for way in WAYS]
        print(f"{name:<24}" + "".join(f"{speed:>18.0f}" for speed in speeds) + f"{speeds[1] / speeds[0]:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=pathlib.Path, help="an image made before; otherwise one is made")
    parser.add_argument("--directory", type=pathlib.Path, help="where to work, a short path; needs some 8 GiB")
    parser.add_argument("--size-mib", type=int, default=3072)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2,4")
    arguments = parser.parse_args()
    threads = [int(text) for text in arguments.threads.split(",")]
    engine: dict[str, dict[str, float]] = {"backup": {}, "restore": {}}
    raw: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="rb-") as name:
        world = World(pathlib.Path(name))
        image = arguments.image.resolve() if arguments.image else world.directory / "vm.img"
        if not arguments.image:
            from vm_image import make_image

            make_image(image, arguments.size_mib)
        volume = world.directory / "raw"
        with volume.open("wb") as file:
            for _ in range(RAW_MIB):
                file.write(os.urandom(MIB))
        for number in range(arguments.rounds):
            for way in WAYS:
                seconds = back_up_and_restore(world, image, way, number)
                for step, found in zip(("backup", "restore"), seconds, strict=True):
                    engine[step][way] = min(found, engine[step].get(way, found))
                for mode, verb in (("ro", "read"), ("rw", "write")):
                    for count in threads:
                        row = raw.setdefault(f"{verb}, {count} thread{'s' if count > 1 else ''}", {})
                        found = transfer(world, volume, way, mode, count)
                        row[way] = min(found, row.get(way, found))
        print_rows("engine", engine, image.stat().st_size)
        print_rows("1 MiB at a time", raw, RAW_MIB * MIB)


if __name__ == "__main__":
    main()
