"""Fetching the parts of a backup from its store, each checked before it is used."""

from __future__ import annotations

from volsvc import exceptions as exc
from volsvc.backup.drivers.base import BackupDriver
from volsvc.backup.format import names
from volsvc.backup.format.codec import Codec
from volsvc.backup.format.hashing import Hasher
from volsvc.backup.format.pack import (
    FOOTER_BYTES,
    HEADER_BYTES,
    PackHeader,
    PackIndex,
    decode_footer,
    decode_index,
)
from volsvc.backup.format.page import Entry, decode_page
from volsvc.backup.format.root import PageEntry, Root, decode_root

#: Read at once from the end of a pack: the whole index of a usual one.
_TAIL_BYTES = 64 * 1024


def load_root(store: BackupDriver, backup_id: str, hasher: Hasher) -> Root:
    """The root of a whole backup.

    Raises ``BackupNotFound``, ``BackupDamaged``, ``BackupNotReadable``, and what the store raises.
    """
    backup_id = names.check_backup_id(backup_id)
    try:
        data = store.get(names.root(backup_id))
    except exc.BackupObjectMissing as error:
        raise exc.BackupNotFound(id=backup_id) from error
    root = decode_root(data, hasher, f"backup {backup_id}")
    if root.backup_id != backup_id:
        raise exc.BackupDamaged(what=f"backup {backup_id}", reason=f"its root is that of backup {root.backup_id}")
    return root


def load_page(store: BackupDriver, root: Root, page: int, hasher: Hasher, codec: Codec) -> dict[int, Entry]:
    """The entries of a page by position; none for a page of zeros.  Raises ``BackupDamaged``."""
    found = root.pages.get(page)
    if found is None:
        return {}
    what = f"page {page} of backup {root.backup_id}"
    entries = decode_page(_expand_page(store, found, hasher, codec, what), what)
    for entry in entries.values():
        if entry.location.pack not in root.packs:
            raise exc.BackupDamaged(what=what, reason=f"it names a pack {entry.location.pack} that the root doesn't")
    return entries


def _expand_page(store: BackupDriver, found: PageEntry, hasher: Hasher, codec: Codec, what: str) -> bytes | memoryview:
    data = read_piece(store, found.location.pack, found.location.offset, found.location.length, what)
    raw = codec.expand(data, found.raw_bytes, what)
    if hasher.digest(raw) != found.digest:
        raise exc.BackupDamaged(what=what, reason="its hash is wrong")
    return raw


def read_piece(store: BackupDriver, pack: str, offset: int, length: int, what: str) -> bytes:
    """Exactly ``length`` bytes of a pack.  Raises ``BackupDamaged`` when it has no such bytes."""
    try:
        data = store.get_range(pack, offset, length)
    except exc.BackupObjectMissing as error:
        raise exc.BackupDamaged(what=what, reason=f"its pack {pack} is gone") from error
    if len(data) != length:
        raise exc.BackupDamaged(what=what, reason=f"its pack {pack} is too short")
    return data


def load_index(store: BackupDriver, pack: str, pack_bytes: int, hasher: Hasher) -> tuple[PackHeader, PackIndex]:
    """What a pack of that size says of itself; its pieces are not read.  Raises ``BackupDamaged``."""
    if pack_bytes < HEADER_BYTES + FOOTER_BYTES:
        raise exc.BackupDamaged(what=pack, reason="it is too short")
    tail_at = max(0, pack_bytes - _TAIL_BYTES)
    tail = read_piece(store, pack, tail_at, pack_bytes - tail_at, pack)
    footer = tail[-FOOTER_BYTES:]
    at, length = decode_footer(footer, pack_bytes, pack)
    if at < tail_at:
        index = read_piece(store, pack, at, length, pack)
    else:
        index = tail[at - tail_at : at - tail_at + length]
    header = tail[:HEADER_BYTES] if tail_at == 0 else read_piece(store, pack, 0, HEADER_BYTES, pack)
    return decode_index(header, index, footer, hasher, pack)
