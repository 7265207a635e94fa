"""Cutting a method at each of its steps towards the operating system and an exporter.

``CutOs`` counts the calls that change or read storage and stops the n-th: either by an
exception after which every further step fails too, as in a process that was killed there, or
by an OSError at that one step, as from a disk.  Trying n = 1, 2, 3... until the method gets
through visits every place where it can be cut.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

from volsvc.targets.qmp import Qmp

STEPS: tuple[tuple[Any, str], ...] = (
    *(
        (os, name)
        for name in (
            "open",
            "fsync",
            "ftruncate",
            "truncate",
            "link",
            "unlink",
            "rename",
            "replace",
            "pwrite",
            "pread",
            "write",
            "copy_file_range",
            "posix_fallocate",
            "makedirs",
            "rmdir",
            "lseek",
        )
    ),
    (fcntl, "ioctl"),
    (fcntl, "flock"),
    (subprocess, "run"),
    (Qmp, "send"),
)


class Cut(BaseException):
    """The process was killed here; not an Exception, so that no handler mistakes it for a failure."""


class CutOs:
    """While entered, the ``number``-th step (from 1) of this thread is cut.

    ``error``: None kills, an errno fails that one step with it.  ``was_cut`` says whether there
    were so many steps; ``steps`` has what was called.
    """

    def __init__(self, number: int, error: int | None = None) -> None:
        self._number = number
        self._error = error
        self._thread = threading.get_ident()
        self._originals: list[tuple[Any, str, Any]] = []
        self.steps: list[str] = []
        self.was_cut = False

    def __enter__(self) -> Self:
        for module, name in STEPS:
            original = getattr(module, name)
            self._originals.append((module, name, original))
            setattr(module, name, self._wrap(name, original))
        return self

    def __exit__(self, *exc_info: object) -> None:
        for module, name, original in self._originals:
            setattr(module, name, original)

    def _wrap(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == self._thread:
                self.steps.append(name)
                if len(self.steps) == self._number or (self.was_cut and self._error is None):
                    self.was_cut = True
                    if self._error is None:
                        raise Cut(f"at step {len(self.steps)}, {name}")
                    raise OSError(self._error, f"{os.strerror(self._error)} (cut at step {len(self.steps)}, {name})")
            return original(*args, **kwargs)

        return step


def each_cut(error: int | None = None, limit: int = 500) -> Iterator[CutOs]:
    """Cuts at step 1, 2, 3... until one gets through uncut; that last one is yielded too."""
    for number in range(1, limit):
        cut = CutOs(number, error)
        yield cut
        if not cut.was_cut:
            return
    raise AssertionError(f"more than {limit} steps: the method does not end")
