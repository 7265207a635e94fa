"""The exports of one running exporter: adding, cutting, growing.

An export's id says which attachment it is for and whether that may write, because QEMU tells
ids only.  The exporter is asked each time what it exports; the one thing kept beside it is the
list of exports that a resize has taken away and must bring back.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable

from volsvc import exceptions as exc
from volsvc import models
from volsvc.targets.point_in_time import node_size
from volsvc.targets.qmp import Qmp
from volsvc.targets.qsd import TOP_NODE

_CUT_TIMEOUT_S = 10.0
_READ_ONLY = "ro-"
_WRITABLE = "rw-"


class Exports:
    """The exports behind one connection to a monitor; hold the exporter's lock.

    ``pending_path`` names the file with the exports that a cut resize still owes.
    """

    def __init__(self, qmp: Qmp, pending_path: str) -> None:
        self._qmp = qmp
        self._pending_path = pending_path

    def __bool__(self) -> bool:
        return bool(self._present() | self._pending())

    def attachments(self) -> tuple[str, ...]:
        """Ids of the attachments that are exported."""
        return tuple(sorted(export_id[len(_READ_ONLY) :] for export_id in self._present() | self._pending()))

    def add(self, attachments: Iterable[models.Attachment]) -> None:
        """Export for these attachments too; those that are exported already aren't disturbed."""
        wanted = {_export_id(a.id, a.is_read_only) for a in attachments}
        # The same attachment with the other access mode is another export.
        self._cut(self._present() & {_export_id(a.id, not a.is_read_only) for a in attachments})
        self._add(wanted)

    def remove(self, attachment_id: str) -> None:
        """Cut this attachment's clients and end its export; repeatable."""
        going = {_READ_ONLY + attachment_id, _WRITABLE + attachment_id}
        if pending := self._pending():
            self._remember(pending - going)
        self._cut(going & self._present(is_leaving_counted=True))

    def replace(self, attachments: Iterable[models.Attachment]) -> None:
        """Export for exactly these attachments."""
        wanted = {_export_id(a.id, a.is_read_only) for a in attachments}
        self._cut(self._present() - wanted)
        self._add(wanted)
        self._remember(())

    def grow(self, size_bytes: int) -> None:
        """Make clients see that size; does nothing when they do.

        QEMU refuses to resize what is exported, so all exports go and come back within
        milliseconds.  Cut in the middle it may be repeated: what must come back is on the
        disk before the first one goes.
        """
        owed = self._pending()
        if not owed and node_size(self._qmp, TOP_NODE) >= size_bytes:
            return
        exports = self._present() | owed
        self._remember(exports)
        try:
            self._cut(self._present())
            if node_size(self._qmp, TOP_NODE) < size_bytes:
                self._qmp.execute("block_resize", node_name=TOP_NODE, size=size_bytes)
        finally:
            self._add(exports)
            self._remember(())

    def _present(self, *, is_leaving_counted: bool = False) -> set[str]:
        exports = self._qmp.execute("query-block-exports")
        return {export["id"] for export in exports if is_leaving_counted or not export["shutting-down"]}

    def _add(self, wanted: Iterable[str]) -> None:
        for export_id in sorted(set(wanted) - self._present()):
            self._qmp.execute(
                "block-export-add",
                type="nbd",
                id=export_id,
                node_name=TOP_NODE,
                name=export_id[len(_READ_ONLY) :],
                writable=not export_id.startswith(_READ_ONLY),
            )

    def _cut(self, export_ids: Iterable[str]) -> None:
        """Take exports away, their clients' connections with them, and see that they are gone."""
        going = set(export_ids)
        for export_id in sorted(going & self._present()):
            self._qmp.execute("block-export-del", id=export_id, mode="hard")
        deadline = time.monotonic() + _CUT_TIMEOUT_S
        while left := going & self._present(is_leaving_counted=True):
            if time.monotonic() > deadline:
                raise exc.DriverError(
                    reason=f"the exports {sorted(left)} did not end within {_CUT_TIMEOUT_S:g} s; "
                    "the storage does not answer"
                )
            time.sleep(0.001)

    def _pending(self) -> set[str]:
        try:
            with open(self._pending_path) as file:
                return set(json.load(file))
        except FileNotFoundError:
            return set()

    def _remember(self, exports: Iterable[str]) -> None:
        names = sorted(exports)
        if not names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._pending_path)
            return
        temporary = f"{self._pending_path}.new"
        with open(temporary, "w") as file:
            json.dump(names, file)
        os.replace(temporary, self._pending_path)


def _export_id(attachment_id: str, is_read_only: bool) -> str:
    return f"{_READ_ONLY if is_read_only else _WRITABLE}{attachment_id}"
