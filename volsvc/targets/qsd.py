"""The exporter of a volume's attachments: a qemu-storage-daemon with one file and a unix socket.

How the process is started, found and ended is ``qsd_process``'s business; what it exports is
told to it at its monitor (``nbd_exports.py``).
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from typing import Any

from volsvc import exceptions as exc
from volsvc.targets.qsd_process import BINARY, START_TIMEOUT_S, ExporterPaths, QsdProcess, one_line, run_tool

OLDEST_VERSION = (7, 1)  # copy-before-write's on-cbw-error

DISK_NODE = "disk"  # the file itself
TOP_NODE = "top"  # what exports show; its child is changed to insert filters
TOP_OPTIONS = {"driver": "raw", "node-name": TOP_NODE, "discard": "unmap"}

_IO_URING_SETUP = 425


class Exporter(QsdProcess):
    """The qemu-storage-daemon of one volume, running or not."""

    def __init__(self, volume_id: str, paths: ExporterPaths) -> None:
        super().__init__(f"volume {volume_id}", paths)
        self.volume_id = volume_id

    def start(self, image_path: str, aio: str) -> None:
        """Start it on the raw image; no export yet.  Else as ``start_with``."""
        server = {"addr": {"type": "unix", "path": self.paths.socket}}
        self.start_with([*disk_arguments(image_path, aio), f"--nbd-server={json.dumps(server)}"])


def disk_arguments(image_path: str, aio: str, *, is_read_only: bool = False) -> list[str]:
    """Arguments that open the raw image at ``image_path`` as ``TOP_NODE``."""
    disk: dict[str, Any] = {
        "driver": "file",
        "node-name": DISK_NODE,
        "filename": image_path,
        "aio": aio,
        "discard": "unmap",
        # The service decides who writes; a lock would only bar its own readers.
        "locking": "off",
        "auto-read-only": False,
        "read-only": is_read_only,
    }
    top = {**TOP_OPTIONS, "file": DISK_NODE, "read-only": is_read_only}
    return [f"--blockdev={json.dumps(disk)}", f"--blockdev={json.dumps(top)}"]


def check_installed() -> None:
    """Raise ``MissingDriverLibrary`` without the program, ``DriverNotSupported`` for one too old."""
    result = run_tool([BINARY, "--version"], START_TIMEOUT_S)
    found = re.search(r"(\d+)\.(\d+)", result.stdout)
    if result.returncode or not found:
        raise exc.DriverError(reason=f"{BINARY} --version failed: {one_line(result.stderr or result.stdout)}")
    version = int(found[1]), int(found[2])
    if version < OLDEST_VERSION:
        raise exc.DriverNotSupported(
            driver="nbd", reason=f"{BINARY} is version {found[0]}; {'.'.join(map(str, OLDEST_VERSION))} is the oldest"
        )


def has_io_uring() -> bool:
    """True when this process may use io_uring(7); containers and sysctls often forbid it."""
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(120)  # struct io_uring_params
    fd = libc.syscall(_IO_URING_SETUP, 1, parameters)
    if fd < 0:
        return False
    os.close(fd)
    return True
