"""What an earlier attempt at a backup left in the store, and what of it can be used.

Data packs are their own journal: a listing and their indexes say which chunks are stored.  All
indexes are read once to learn which packs are sound, and again one after the other as the
work comes to them, so memory doesn't grow with the volume.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import BackupDriver
from volsvc.backup.engine.dedup import ChunkIndex
from volsvc.backup.engine.reading import load_index
from volsvc.backup.format import names
from volsvc.backup.format.hashing import Hasher
from volsvc.backup.format.pack import Location, PackHeader
from volsvc.backup.format.page import PAGE_CHUNKS, Entry

LOG = logging.getLogger(__name__)


class KnownPage:
    """What is stored of one page: ``settled`` positions, and entries of those that aren't zeros."""

    def __init__(self) -> None:
        self.settled: set[int] = set()
        self.entries: dict[int, Entry] = {}


class Leftovers:
    """The sound data packs of an earlier attempt; empty for a new backup."""

    def __init__(self, store: BackupDriver, header: PackHeader, hasher: Hasher, index: ChunkIndex) -> None:
        self._store = store
        self._header = header
        self._hasher = hasher
        self._index = index
        self.packs: dict[str, int] = {}
        self._waiting: list[tuple[int, str]] = []
        self._pages: dict[int, KnownPage] = {}

    def look(self, tick: Callable[[], None]) -> None:
        """List the packs, read each one's index, delete what is of no use.  Repeatable."""
        useless = []
        for page in self._store.list(names.data_prefix(self._header.backup_id)):
            for item in page:
                first = names.first_chunk_of(item.name)
                if first is not None and self._is_sound(item.name, item.size_bytes):
                    self.packs[item.name] = item.size_bytes
                    self._waiting.append((first, item.name))
                else:
                    useless.append(item.name)
                tick()
        if useless:
            self._store.delete_many(useless)
        self._waiting.sort(reverse=True)

    def take(self, page: int) -> KnownPage:
        """What is known of ``page``; to be asked in ascending order, each page once."""
        while self._waiting and self._waiting[-1][0] < (page + 1) * PAGE_CHUNKS:
            self._load(self._waiting.pop()[1])
        for passed in [number for number in self._pages if number < page]:
            del self._pages[passed]
        return self._pages.pop(page, None) or KnownPage()

    def _is_sound(self, pack: str, pack_bytes: int) -> bool:
        try:
            header, _ = load_index(self._store, pack, pack_bytes, self._hasher)
        except (exc.BackupDamaged, exc.BackupNotReadable) as error:
            LOG.warning("%s is of no use for going on with its backup: %s", pack, error)
            return False
        return header == self._header

    def _load(self, pack: str) -> None:
        _, index = load_index(self._store, pack, self.packs[pack], self._hasher)
        lost = set()
        entries: dict[int, Entry] = {}
        for stored in index.stored:
            location = Location(pack, stored.offset, stored.length)
            entries[stored.number] = Entry(stored.digest, location)
            self._index.add(stored.digest, location)
        for reference in index.references:
            # It may name a pack that the attempt before did not live to store.
            if reference.location.pack in self.packs:
                entries[reference.number] = Entry(reference.digest, reference.location)
            else:
                lost.add(reference.number)
        for run in index.runs:
            for chunk in range(run.first, run.first + run.chunks):
                number, position = divmod(chunk, PAGE_CHUNKS)
                page = self._pages.setdefault(number, KnownPage())
                if chunk in lost or position in page.settled:
                    continue
                page.settled.add(position)
                if chunk in entries:
                    page.entries[position] = entries[chunk]


def begin(store: BackupDriver, backup_id: str, start: dict[str, Any], clear: Callable[[], None]) -> dict[str, Any]:
    """Note in the store that a backup begins, or find that note; returns it as it stands there.

    ``start`` says what decides whether an earlier attempt can be gone on with; its key
    "created_at" doesn't.  When it can't, ``clear`` deletes what that one stored.
    """
    name = names.started(backup_id)
    data = json.dumps(start, sort_keys=True).encode()
    try:
        store.put_if_absent(name, data)
        return start
    except exc.BackupObjectExists:
        found = _read_start(store.get(name))
    if found is not None and {**found, "created_at": ""} == {**json.loads(data), "created_at": ""}:
        return found
    LOG.info("backup %s begins anew: what is stored of it is of another point in time or form", backup_id)
    clear()
    store.put(name, data)
    return start


def _read_start(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
