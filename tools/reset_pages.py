"""The page of resets: what each asks of the storage and makes of the rest, from the table that the service runs on."""

from __future__ import annotations

from collections.abc import Mapping

from rst import document, list_table, literal, section

from volsvc import inspection, models, resets
from volsvc.ports import Situation
from volsvc.resets import Ask, Fate, Target

INTRO = """\
Printed from the table that the service runs on (``volsvc/resets.py``). A reset may start from every status, because
whoever resets is stuck somewhere; what keeps it from lying is what is asked of the storage first.
:doc:`/admin-reset` has the examples.
"""
ASKS = """\
Where the storage is asked, its daemon must be up, and the record is written only when the storage has done it.
``"force": "ignore"`` asks and goes on whatever it says; ``"force": "skip"`` asks nobody. The other rows write the
record at once, in the API. Each reset that names a status cancels what is recorded for the volume and has not ended.
"""
STUCK = """\
A status that says that something goes on is stuck when no operation is open that would change it.
``volsvc-manage volume stuck`` lists those, with the reset that makes them usable again; ``--apply`` does it.
"""


def make_resets_page() -> str:
    volumes = _targets("status", resets.VOLUME_TARGETS) + _targets("attach_status", resets.ATTACH_TARGETS)
    header = ("Reset to", "Storage is asked to", "Attachments")
    migration = ", ".join(map(literal, resets.MIGRATION_STATUSES))
    return "\n".join(
        (
            document("Resets", INTRO),
            section("Volumes", f"{ASKS}\n{list_table(header, volumes, (34, 33, 33))}"),
            f"``migration_status`` is one of {migration}; it is only written.\n",
            section("Snapshots", _short_table(resets.SNAPSHOT_TARGETS)),
            section("Backups", _short_table(resets.BACKUP_TARGETS)),
            section("Stuck", f"{STUCK}\n{list_table(('What is stuck', 'Reset to'), _stuck(), (65, 35))}"),
        )
    )


_ASKS = {
    Ask.NOTHING: "-",
    Ask.SEVER: "sever every connection, of recorded attachments and of others",
    Ask.CONNECT: "connect every attachment again",
    Ask.LOOK: "say that it is there",
}
_FATES = {
    Fate.KEPT: "stay",
    Fate.DELETED: "are deleted",
    Fate.ATTACHED: "become ``attached``; without one that a client has connected: 409",
}


def _targets(name: str, table: Mapping[str, Target]) -> list[tuple[str, ...]]:
    return [
        (f"{literal(name)} {literal(str(word))}", _ASKS[target.asks], _FATES[target.attachments])
        for word, target in table.items()
    ]


def _short_table(table: Mapping[str, Target]) -> str:
    rows = [row[:2] for row in _targets("status", table)]
    return list_table(("Reset to", "Storage is asked to"), rows, (50, 50))


def _stuck() -> list[tuple[str, str]]:
    rows = []
    for status in sorted(resets.GOING_ON):
        situation = Situation(models.Volume("", 1, status, "", ""))
        rows.append((f"a volume {literal(status)}", inspection.mend_of(situation)))
    attached = models.Attachment("", "", "attached", "", connection_info={"driver_volume_type": "nbd"})
    for words, attachments in (
        ("with one that is connected", (attached,)),
        ("without one", ()),
    ):
        status = "attaching" if attachments else "in-use"
        situation = Situation(models.Volume("", 1, status, "", ""), attachments)
        rows.append((f"a volume whose attachments don't explain its status, {words}", inspection.mend_of(situation)))
    for status in sorted(resets.SNAPSHOT_GOING_ON):
        snapshot = models.Snapshot("", "", 1, status, "", "")
        rows.append((f"a snapshot {literal(status)}", inspection.mend_of(Situation(snapshot))))
    for status in sorted(resets.BACKUP_GOING_ON):
        backup = models.Backup("", "", 1, status, "", "")
        rows.append((f"a backup {literal(status)}", inspection.mend_of(Situation(backup))))
    return [(what, literal(str(mend))) for what, mend in rows]
