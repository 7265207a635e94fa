"""Is a backup there and whole?  Quickly, by its root and a listing; or by reading every byte."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import BackupDriver
from volsvc.backup.engine.reading import load_index, load_page, load_root, read_piece
from volsvc.backup.engine.threads import Channel, Crew
from volsvc.backup.format import names
from volsvc.backup.format.codec import Codec
from volsvc.backup.format.hashing import PLAIN, Hasher
from volsvc.backup.format.pack import Location, PackHeader, check_pack
from volsvc.backup.format.page import PAGE_CHUNKS
from volsvc.backup.format.root import Root
from volsvc.drivers.base import Work

_CACHED_PACKS = 32


@dataclass(frozen=True)
class Verified:
    """What was looked at: packs, chunks, and bytes read from the store."""

    packs: int
    chunks: int
    stored_bytes: int


def check_backup(store: BackupDriver, backup_id: str, hasher: Hasher = PLAIN) -> Root:
    """The root of a backup whose packs are all listed with the right size; reads nothing else.

    Raises ``BackupNotFound``, ``BackupDamaged`` naming what is missing, ``BackupNotReadable``,
    and what the store raises.
    """
    store.check_identity()
    root = load_root(store, backup_id, hasher)
    missing = dict(root.packs)
    prefixes = {name.rpartition("/")[0] + "/" for name in root.packs} | {names.data_prefix(backup_id)}
    for prefix in prefixes:
        for page in store.list(prefix):
            for item in page:
                if missing.get(item.name) == item.size_bytes:
                    del missing[item.name]
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise exc.BackupDamaged(
            what=f"backup {root.backup_id}",
            reason=f"{len(missing)} of its {len(root.packs)} packs are missing or have another size: {some}",
        )
    return root


def verify_backup(
    store: BackupDriver, backup_id: str, work: Work, *, hasher: Hasher = PLAIN, workers: int = 2
) -> Verified:
    """Read every byte of a backup and check it; a flipped bit or a missing one is found.

    Raises as ``check_backup`` does, naming the first damage, and what ``work`` raises.  Repeatable.
    """
    root = check_backup(store, backup_id, hasher)
    done = [0] * workers

    def tick() -> None:
        work.checkpoint(sum(done), root.stored_bytes)

    with Crew("verify", workers, tick) as crew:
        packs: Channel[tuple[str, int]] = crew.channel(workers)

        def worker(number: int) -> Callable[[], None]:
            def check() -> None:
                codec = Codec()
                while (found := packs.get()) is not None:
                    name, size = found
                    header, _ = check_pack(read_piece(store, name, 0, size, name), hasher, codec, name)
                    _check_header(header, root, name)
                    done[number] += size

            return check

        working = [crew.start(worker(number)) for number in range(workers)]
        for pack in root.packs.items():
            crew.put(packs, pack)
        packs.close()
        crew.join(*working)
        chunks = _check_pages(store, root, hasher, crew.tick)
    work.checkpoint(root.stored_bytes, root.stored_bytes)
    return Verified(len(root.packs), chunks, root.stored_bytes)


def _check_header(header: PackHeader, root: Root, name: str) -> None:
    if f"/{header.backup_id}/" not in name or header.chunk_bytes != root.chunk_bytes:
        raise exc.BackupDamaged(what=name, reason=f"it is a pack of backup {header.backup_id} and has another's name")


def _check_pages(store: BackupDriver, root: Root, hasher: Hasher, tick: Callable[[], None]) -> int:
    """Compare what the manifest says of each chunk with what its pack says of itself."""
    codec = Codec()

    @functools.lru_cache(_CACHED_PACKS)
    def contents(pack: str) -> Mapping[tuple[int, int], bytes]:
        index = load_index(store, pack, root.packs[pack], hasher)[1]
        return {(stored.offset, stored.length): stored.digest for stored in index.stored}

    chunks = 0
    for location, digest, what in _manifest(store, root, hasher, codec):
        if contents(location.pack).get((location.offset, location.length)) != digest:
            raise exc.BackupDamaged(what=what, reason=f"the manifest and {location.pack} contradict each other")
        chunks += 1
        tick()
    if chunks != root.chunks:
        raise exc.BackupDamaged(
            what=f"backup {root.backup_id}", reason=f"its manifest has {chunks} chunks and its root says {root.chunks}"
        )
    return chunks


def _manifest(store: BackupDriver, root: Root, hasher: Hasher, codec: Codec) -> Iterator[tuple[Location, bytes, str]]:
    for page in sorted(root.pages):
        if page >= root.page_count:
            raise exc.BackupDamaged(what=f"backup {root.backup_id}", reason=f"page {page} lies behind the volume's end")
        for position, entry in load_page(store, root, page, hasher, codec).items():
            what = f"chunk {page * PAGE_CHUNKS + position} of backup {root.backup_id}"
            yield entry.location, entry.digest, what
