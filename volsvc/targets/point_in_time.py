"""Copying an exported volume as it is at one instant, while its clients go on writing.

A copy-before-write filter is put between the exports and the file (one drained instant, the
point in time); a write then first saves the old block to a scratch file, and a mirror job
copies what the filter shows of that instant to the destination.  Two properties led here:

- The guest comes first.  When old blocks can't be saved (no room), the filter gives up the
  snapshot and lets the write through; ``blockdev-backup`` would fail the guest's write.
- The result is as sparse as the source: the mirror punches holes where ``blockdev-backup``
  would allocate zeros.

Everything in the exporter has a fixed name, so what a killed service left is recognised and
taken down, and the lock on the exporter's ``copy`` file says whether its owner still lives.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from volsvc import exceptions as exc
from volsvc.drivers.base import Work
from volsvc.drivers.storage_errors import translated
from volsvc.targets.file_locks import locked, try_lock
from volsvc.targets.qmp import Qmp, QmpUnreachable
from volsvc.targets.qsd import DISK_NODE, TOP_OPTIONS, Exporter

LOG = logging.getLogger(__name__)

JOB = "copy"
FILTER_NODE = "copy-before-write"
SCRATCH_NODE = "copy-scratch"
INSTANT_NODE = "copy-instant"
DESTINATION_NODE = "copy-destination"
MIRROR_NODE = "copy-mirror"

SCRATCH_SUFFIX = ".scratch"

_WAIT_FOR_TURN_S = 24 * 3600.0
_SAVE_TIMEOUT_S = 30  # a guest's write waits no longer than this for its old block to be saved
_POLL_S = 0.02
_POLL_MAX_S = 0.25
_CANCEL_TIMEOUT_S = 60.0
_NEARLY_FULL_BYTES = 1024**2
MIRROR_SPEED_BYTES = 0  # a second; 0 is as fast as it goes


def copy_point_in_time(exporter: Exporter, destination: str, work: Work) -> None:
    """Fill the existing, empty file ``destination`` with the volume as it is at one instant.

    Copies of one volume take turns.  The destination may be longer than the volume; the rest
    stays a hole, if it is shorter than ``destination`` was it is the caller's to grow again.
    Raises ``StorageFull``, ``DriverError``, and what ``work.checkpoint`` raises; the exporter
    is then as before, except after ``OperationSuperseded``, when nothing is touched.
    """
    what = f"copying volume {exporter.volume_id}"
    try:
        with locked(exporter.paths.copy_lock, _WAIT_FOR_TURN_S, what, lambda: work.checkpoint(0, 0)):
            _copy(exporter, destination, work)
    except (QmpUnreachable, FileNotFoundError) as error:
        raise exc.DriverError(reason=f"the exporter of volume {exporter.volume_id} ended during a copy") from error


def end_abandoned_copy(exporter: Exporter) -> bool:
    """Take down what a killed service left of a copy; False while a living one owns it.

    Does nothing without an exporter; repeatable.
    """
    if not exporter.is_alive:
        return True
    try:
        fd = try_lock(exporter.paths.copy_lock)
    except FileNotFoundError:
        return True
    if fd is None:
        return False
    try:
        with exporter.locked(), exporter.connect() as qmp:
            take_down(qmp)
    finally:
        os.close(fd)
    return True


def _copy(exporter: Exporter, destination: str, work: Work) -> None:
    try:
        with exporter.locked(), exporter.connect() as qmp:
            take_down(qmp)
            _set_up(qmp, destination)
        _follow(exporter, destination, work)
    except exc.OperationSuperseded:
        raise
    except BaseException:
        _take_down_quietly(exporter)
        raise
    with exporter.locked(), exporter.connect() as qmp:
        take_down(qmp)


def _set_up(qmp: Qmp, destination: str) -> None:
    size = node_size(qmp, DISK_NODE)
    directory = os.path.dirname(destination)
    with translated("prepare a copy of an attached volume", directory):
        # A mirror's two sides must be of one length.
        os.truncate(destination, size)
    _add_scratch(qmp, destination + SCRATCH_SUFFIX, size)
    qmp.execute("blockdev-add", **_file_node(DESTINATION_NODE, destination))
    qmp.execute(
        "blockdev-add",
        driver="copy-before-write",
        node_name=FILTER_NODE,
        file=DISK_NODE,
        target=SCRATCH_NODE,
        on_cbw_error="break-snapshot",
        cbw_timeout=_SAVE_TIMEOUT_S,
    )
    qmp.execute("blockdev-reopen", options=[{**TOP_OPTIONS, "file": FILTER_NODE}])
    # Only now: a filter that is read from bars all writers but its own.
    qmp.execute("blockdev-add", driver="snapshot-access", node_name=INSTANT_NODE, file=FILTER_NODE)
    qmp.execute(
        "blockdev-mirror",
        job_id=JOB,
        device=INSTANT_NODE,
        target=DESTINATION_NODE,
        sync="full",
        speed=MIRROR_SPEED_BYTES,
        filter_node_name=MIRROR_NODE,
        on_source_error="report",
        on_target_error="report",
        auto_dismiss=False,
    )


def _add_scratch(qmp: Qmp, path: str, size: int) -> None:
    """Open a scratch file in the exporter; it has no name, so it goes when the exporter closes it."""
    with translated("prepare a copy of an attached volume", os.path.dirname(path)):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
    try:
        qmp.execute("blockdev-add", **_file_node(SCRATCH_NODE, path))
    finally:
        os.unlink(path)


def _file_node(name: str, path: str) -> dict[str, Any]:
    return {
        "driver": "file",
        "node_name": name,
        "filename": path,
        "locking": "off",
        "discard": "unmap",
        "detect_zeroes": "unmap",
        "auto_read_only": False,
    }


def _follow(exporter: Exporter, destination: str, work: Work) -> None:
    """Report the job's progress until everything is copied, then let it end."""
    pause = _POLL_S
    while True:
        with exporter.locked(), exporter.connect() as qmp:
            job = _job(qmp)
            if job is None or job["status"] == "concluded":
                break
            if job["status"] == "ready":
                # Nothing writes to an instant, so a mirror of it that is ready has all of it;
                # an unforced cancel then means: finish, and don't switch over to the copy.
                qmp.execute("block-job-cancel", device=JOB)
        work.checkpoint(job["current-progress"], job["total-progress"])
        time.sleep(pause)
        pause = min(pause * 1.5, _POLL_MAX_S)
    error = "the job is gone" if job is None else job.get("error")
    if error:
        raise _failure(exporter, destination, error)


def _failure(exporter: Exporter, destination: str, error: str) -> exc.DriverError:
    directory = os.path.dirname(destination)
    found = os.statvfs(directory)
    what = f"copy the attached volume {exporter.volume_id} in {directory}"
    if "No space left" in error or found.f_bavail * found.f_frsize < _NEARLY_FULL_BYTES:
        return exc.StorageFull(reason=f"no room to {what} ({error}); its clients were not disturbed")
    return exc.DriverError(reason=f"can't {what}: {error}")


def _take_down_quietly(exporter: Exporter) -> None:
    """After a failure: the first error is the one to report, and the next copy clears up again."""
    try:
        with exporter.locked(), exporter.connect() as qmp:
            take_down(qmp)
    except (exc.DriverError, OSError) as error:
        LOG.warning("volume %s: an unfinished copy could not be taken down: %s", exporter.volume_id, error)


def take_down(qmp: Qmp) -> None:
    """Bring the exporter back to exports on the file alone, from any stage of a copy.  Repeatable."""
    _end_job(qmp)
    nodes = node_names(qmp)
    if INSTANT_NODE in nodes:
        qmp.execute("blockdev-del", node_name=INSTANT_NODE)
    if FILTER_NODE in nodes:
        qmp.execute("blockdev-reopen", options=[{**TOP_OPTIONS, "file": DISK_NODE}])
    for name in (FILTER_NODE, SCRATCH_NODE, DESTINATION_NODE):
        if name in nodes:
            qmp.execute("blockdev-del", node_name=name)


def _end_job(qmp: Qmp) -> None:
    deadline = time.monotonic() + _CANCEL_TIMEOUT_S
    asked = False
    while (job := _job(qmp)) is not None:
        if job["status"] == "concluded":
            qmp.execute("job-dismiss", id=JOB)
            return
        if not asked:
            qmp.execute("block-job-cancel", device=JOB, force=True)
            asked = True
        if time.monotonic() > deadline:
            raise exc.DriverError(reason=f"a copy in the exporter did not stop within {_CANCEL_TIMEOUT_S:g} s")
        time.sleep(_POLL_S / 4)


def _job(qmp: Qmp) -> dict[str, Any] | None:
    found: dict[str, Any] | None = next((job for job in qmp.execute("query-jobs") if job["id"] == JOB), None)
    return found


def node_names(qmp: Qmp) -> frozenset[str]:
    """The exporter's block nodes."""
    return frozenset(node["node-name"] for node in qmp.execute("query-named-block-nodes", flat=True))


def node_size(qmp: Qmp, name: str) -> int:
    """Length in bytes of a node as the exporter knows it."""
    nodes = qmp.execute("query-named-block-nodes", flat=True)
    return int(next(node["image"]["virtual-size"] for node in nodes if node["node-name"] == name))
