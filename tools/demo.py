"""The main job, step by step, on the embedded default, with real clients and checksums.

Starts ``volsvc-all`` in a private directory, does what a user would do with python-cinderclient
and NBD clients, prints each step with the time it took, and removes the directory.  Exit code 0
only if every checksum held and nothing was left over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from volsvc.testing.daemon import Daemon, wait_until
from volsvc.testing.nbd_client import NbdClient

MIB = 1024**2
GIB = 1024**3
IMAGE_BYTES = 64 * MIB
STAMPS_AT = 256 * MIB  # where the writer works while the snapshot is taken
STAMP_GAP = 512 * MIB  # two far-apart blocks, always stamped in this order
BULK_AT, BULK_BYTES = 300 * MIB, 400 * MIB  # data that makes the copy take a while
CONNECTOR = {"host": "demo", "ip": "127.0.0.1", "initiator": "demo", "os_type": "linux", "platform": "x86_64"}
DEADLINE_S = 120.0


class DemoFailed(Exception):
    """Something did not hold; the text says what."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise DemoFailed(what)


@contextlib.contextmanager
def step(text: str) -> Iterator[list[str]]:
    """Print a step, what the block notes about it, and how long it took."""
    print(f"  {text} ...", end="", flush=True)
    notes: list[str] = []
    started = time.monotonic()
    yield notes
    took = time.monotonic() - started
    print(f" {took * 1000:.0f} ms" + (f"  ({'; '.join(notes)})" if notes else ""), flush=True)


def main() -> int:
    root = pathlib.Path(tempfile.mkdtemp(prefix="volsvc-demo-"))
    daemon = Daemon(root, options={"host": "demo"})
    started = time.monotonic()
    print(f"volsvc on the embedded default in {root}")
    try:
        run(daemon, root)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            print("\nstopped by Ctrl-C")
        else:
            print(f"\nFAILED: {error}", file=sys.stderr)
            if daemon.log.exists():
                print("the last of the service's log:", file=sys.stderr)
                print("\n".join(daemon.log.read_text().splitlines()[-30:]), file=sys.stderr)
        if not isinstance(error, DemoFailed | TimeoutError | KeyboardInterrupt):
            raise
        return 1
    finally:
        daemon.end()
    print(f"everything held; {time.monotonic() - started:.1f} s in all")
    return 0


def run(daemon: Daemon, root: pathlib.Path) -> None:
    image = root / "image"
    with step("start volsvc-all (API, volumes, backups, SQLite)") as notes:
        daemon.start()
        cinder = daemon.cinder()
        wait_until(
            lambda: {"cinder-volume", "cinder-backup"} <= {s.binary for s in cinder.services.list() if s.state == "up"},
            "the services to be ready",
        )
        notes.append(daemon.url)
    store = daemon.state / "backup"
    before = {path: list_files(path) for path in (daemon.volumes, store)}

    with step("create a volume of 1 GiB"):
        volume = cinder.volumes.create(1, name="demo")
        wait_for_status(cinder.volumes, volume.id, "available")
    with step("attach it"):
        attachment, uri = attach(cinder, volume.id)
    with step("write an ext4 file system image over NBD (qemu-img)") as notes:
        make_image(image)
        write_image(image, uri)
        digest = hashlib.sha256(image.read_bytes()).hexdigest()
        check(read_digest(uri, 0, IMAGE_BYTES) == digest, "what was written does not read back")
        notes.append(f"sha256 {digest[:12]}")
    with step("fill 400 MiB more with random bytes"):
        bulk_digest = write_random(uri, BULK_AT, BULK_BYTES)

    with step("snapshot it while a client writes") as notes, StampWriter(uri) as writer:
        wait_until(lambda: writer.count > 100, "the writer to write")
        snapshot = cinder.volume_snapshots.create(volume.id, name="demo-snapshot", force=True)
        wait_for_status(cinder.volume_snapshots, snapshot.id, "available")
        written_at = writer.count
        wait_until(lambda: writer.count > written_at + 100, "the writer to go on")
        notes.append(f"{writer.count} stamps written meanwhile, no error")

    with step("overwrite the volume"):
        write_random(uri, 0, IMAGE_BYTES)
        check(read_digest(uri, 0, IMAGE_BYTES) != digest, "overwriting changed nothing")
    with step("create a second volume from the snapshot and compare") as notes:
        copy = cinder.volumes.create(1, name="demo-copy", snapshot_id=snapshot.id)
        wait_for_status(cinder.volumes, copy.id, "available")
        copy_attachment, copy_uri = attach(cinder, copy.id)
        check(read_digest(copy_uri, 0, IMAGE_BYTES) == digest, "the copy does not hold the old bytes")
        first, second = read_stamps(copy_uri)
        check(0 <= first - second <= 1, f"the snapshot is no point in time: stamps {first} and {second}")
        notes.append(f"sha256 {digest[:12]} held; stamps {first} and {second}: one point in time")

    with step("grow it to 2 GiB while it is attached") as notes:
        cinder.volumes.extend(volume.id, 2)
        wait_for_status(cinder.volumes, volume.id, "in-use")
        size = wait_until(lambda: reconnected_size(uri, 2 * GIB), "a reconnecting client to see the new size")
        notes.append(f"a client that reconnects sees {size // GIB} GiB")

    with step("kill -9 the service in the middle of a copy, start it again, see the copy finished") as notes:
        clone = cinder.volumes.create(1, name="demo-clone", snapshot_id=snapshot.id)
        caught = kill_in_copy(daemon, clone.id)
        with NbdClient.from_uri(uri) as nbd:
            nbd.write(0, b"still here")
        daemon.start()
        cinder = daemon.cinder()
        wait_for_status(cinder.volumes, clone.id, "available")
        clone_attachment, clone_uri = attach(cinder, clone.id)
        check(read_digest(clone_uri, 0, IMAGE_BYTES) == digest, "the finished copy is not the snapshot")
        check(read_digest(clone_uri, BULK_AT, BULK_BYTES) == bulk_digest, "the finished copy is not the snapshot")
        notes.append(f"{caught}; attached clients went on; checksums held")

    new_digest = read_digest(uri, 0, IMAGE_BYTES)
    with step("back it up while a client writes") as notes, StampWriter(uri) as writer:
        wait_until(lambda: writer.count > 100, "the writer to write")
        backup = cinder.backups.create(volume.id, name="demo-backup", force=True)
        wait_for_status(cinder.backups, backup.id, "available")
        stored = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
        notes.append(f"{stored / MIB:.0f} MiB stored; {writer.count} stamps written meanwhile, no error")

    with step("detach and delete every volume"):
        for attached in (attachment, copy_attachment, clone_attachment):
            cinder.attachments.delete(attached)
        cinder.volume_snapshots.delete(snapshot.id)
        wait_until(lambda: not cinder.volume_snapshots.list(), "the snapshot to be deleted")
        for volume_id in (volume.id, copy.id, clone.id):
            cinder.volumes.delete(volume_id)
        wait_until(lambda: not cinder.volumes.list(), "the volumes to be deleted")
    with step("restore the backup to a new volume and compare") as notes:
        restored_id = cinder.restores.restore(backup.id).volume_id
        wait_for_status(cinder.volumes, restored_id, "available")
        attachment, uri = attach(cinder, restored_id)
        check(read_digest(uri, 0, IMAGE_BYTES) == new_digest, "the restored volume does not hold the image's bytes")
        check(read_digest(uri, BULK_AT, BULK_BYTES) == bulk_digest, "the restored volume does not hold the bytes")
        first, second = read_stamps(uri)
        check(0 <= first - second <= 1, f"the backup is no point in time: stamps {first} and {second}")
        notes.append(f"sha256 {new_digest[:12]} and {bulk_digest[:12]} held; stamps {first} and {second}")
    with step("delete the restored volume and the backup"):
        cinder.attachments.delete(attachment)
        cinder.volumes.delete(restored_id)
        cinder.backups.delete(backup.id)
        wait_until(lambda: not cinder.volumes.list() and not cinder.backups.list(), "both to be deleted")
    for path, files in before.items():
        left = sorted(set(list_files(path)) - set(files))
        check(not left, f"left over in {path}: {left}")
        print(f"  {path.name} is as empty as before: {files}")
    with step("stop the service"):
        check(daemon.stop() == 0, "the service did not stop with exit code 0")


def wait_for_status(manager: Any, item_id: str, wanted: str) -> None:
    def look() -> bool:
        item = manager.get(item_id)
        check(not item.status.startswith("error"), f"{item_id} is {item.status}")
        return bool(item.status == wanted)

    wait_until(look, f"{item_id} to be {wanted}")


def attach(cinder: Any, volume_id: str) -> tuple[str, str]:
    """Attach as an initiator would: the attachment's id and the NBD address."""
    created = cinder.attachments.create(volume_id, CONNECTOR)
    attachment_id, info = created["id"], created["connection_info"]
    cinder.attachments.complete(attachment_id)
    return attachment_id, info["uri"]


def make_image(path: pathlib.Path) -> None:
    """A real ext4 file system with this project's own files in it."""
    content = pathlib.Path(__file__).resolve().parent.parent / "volsvc"
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    command = ["mkfs.ext4", "-q", "-F", "-d", str(content), str(path)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def write_image(path: pathlib.Path, uri: str) -> None:
    """Write the image to the start of the volume with qemu's own NBD client."""
    subprocess.run(
        ["qemu-io", "-f", "raw", "-c", f"write -q -s {path} 0 {IMAGE_BYTES}", "-c", "flush", uri],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def write_random(uri: str, offset: int, length: int) -> str:
    digest = hashlib.sha256()
    with NbdClient.from_uri(uri) as nbd:
        for at in range(0, length, 16 * MIB):
            data = os.urandom(min(16 * MIB, length - at))
            digest.update(data)
            nbd.write(offset + at, data)
        nbd.flush()
    return digest.hexdigest()


def read_digest(uri: str, offset: int, length: int) -> str:
    digest = hashlib.sha256()
    with NbdClient.from_uri(uri) as nbd:
        for at in range(0, length, 16 * MIB):
            digest.update(nbd.read(offset + at, min(16 * MIB, length - at)))
    return digest.hexdigest()


def read_stamps(uri: str) -> tuple[int, int]:
    """What ``StampWriter`` wrote first and second when these bytes were taken."""
    with NbdClient.from_uri(uri) as nbd:
        first, second = (int.from_bytes(nbd.read(at, 8), "big") for at in (STAMPS_AT, STAMPS_AT + STAMP_GAP))
    return first, second


def list_files(path: pathlib.Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def reconnected_size(uri: str, at_least: int) -> int:
    with NbdClient.from_uri(uri) as nbd:
        return nbd.size_bytes if nbd.size_bytes >= at_least else 0


def kill_in_copy(daemon: Daemon, volume_id: str) -> str:
    """kill -9 as soon as a part of the copy is on the disk."""

    def part_bytes() -> int:
        return sum(part.stat().st_blocks * 512 for part in daemon.volumes.glob(".part-*") if part.exists())

    deadline = time.monotonic() + DEADLINE_S
    while (done := part_bytes()) < 16 * MIB:
        if (daemon.volumes / f"volume-{volume_id}").exists():
            break
        check(time.monotonic() < deadline, "the copy did not begin")
    daemon.kill()
    return (
        f"killed with {done / MIB:.0f} MiB copied"
        if done >= 16 * MIB
        else "the copy was instant, killed right after it"
    )


class StampWriter:
    """Writes a counter to two far-apart blocks, always in the same order, until it is left."""

    def __init__(self, uri: str) -> None:
        self.count = 0
        self._uri = uri
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="stamp-writer")

    def __enter__(self) -> StampWriter:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        check(self._error is None, f"the writing client got an error: {self._error}")

    def _write(self) -> None:
        try:
            with NbdClient.from_uri(self._uri) as nbd:
                while not self._stop.is_set():
                    self.count += 1
                    stamp = self.count.to_bytes(8, "big")
                    nbd.write(STAMPS_AT, stamp)
                    nbd.write(STAMPS_AT + STAMP_GAP, stamp)
        except OSError as error:
            self._error = error


if __name__ == "__main__":
    sys.exit(main())
