"""The root: the one object that makes a backup, with all that is needed to find the rest.

    magic, version, lengths, key id | JSON, compressed | hash of everything before

JSON, so that somebody with nothing but the page that describes the format can read what a
backup is of.  ``needs`` lists what a reader must know to restore rightly; an older program
refuses a backup with a word there that it doesn't know.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from volsvc import exceptions as exc
from volsvc.backup.format.codec import Codec
from volsvc.backup.format.hashing import DIGEST_BYTES, Hasher
from volsvc.backup.format.pack import Location

VERSION = 1
KNOWN_NEEDS: frozenset[str] = frozenset()
_MAGIC = b"VOLSVCRT"
_HEADER = struct.Struct("<8sHxxII16s")
_MAX_RAW_BYTES = 1024**3


class PageEntry(NamedTuple):
    """A page of the manifest: its hash, where it is stored, its length when expanded."""

    digest: bytes
    location: Location
    raw_bytes: int


@dataclass(frozen=True)
class Root:
    """``packs``: every pack this backup needs, with its size; ``pages``: by number, those with any entry.

    ``metadata`` is the caller's (what volume this was, its name and type, ...).  ``chunks``:
    how many are not zeros, ``data_bytes`` their length, ``stored_bytes`` the size of all packs.
    """

    backup_id: str
    created_at: str
    volume_bytes: int
    chunk_bytes: int
    page_chunks: int
    chunks: int = 0
    data_bytes: int = 0
    stored_bytes: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    packs: Mapping[str, int] = field(default_factory=dict)
    pages: Mapping[int, PageEntry] = field(default_factory=dict)

    @property
    def page_bytes(self) -> int:
        return self.chunk_bytes * self.page_chunks

    @property
    def page_count(self) -> int:
        return -(-self.volume_bytes // self.page_bytes)


def encode_root(root: Root, hasher: Hasher) -> bytes:
    names = sorted(root.packs)
    number = {name: at for at, name in enumerate(names)}
    content = asdict(root) | {
        "packs": [[name, root.packs[name]] for name in names],
        "pages": [
            [page, entry.digest.hex(), number[entry.location.pack], *entry.location[1:], entry.raw_bytes]
            for page, entry in sorted(root.pages.items())
        ],
    }
    raw = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    body = bytes(Codec().compress(raw))
    head = _HEADER.pack(_MAGIC, VERSION, len(body), len(raw), hasher.key_id)
    return head + body + hasher.digest(head + body)


def decode_root(data: bytes, hasher: Hasher, what: str) -> Root:
    """Raises ``BackupDamaged`` and ``BackupNotReadable``."""
    if len(data) < _HEADER.size + DIGEST_BYTES or not data.startswith(_MAGIC):
        raise exc.BackupDamaged(what=what, reason="it does not begin as a root")
    _, version, length, raw_bytes, key_id = _HEADER.unpack_from(data)
    if version != VERSION:
        raise exc.BackupNotReadable(what=what, reason=f"its format is version {version}, this program knows {VERSION}")
    if len(data) != _HEADER.size + length + DIGEST_BYTES or raw_bytes > _MAX_RAW_BYTES:
        raise exc.BackupDamaged(what=what, reason="it was truncated or changed")
    hasher.require(key_id, what)
    if hasher.digest(data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise exc.BackupDamaged(what=what, reason="its hash is wrong")
    raw = Codec().expand(data[_HEADER.size : -DIGEST_BYTES], raw_bytes, what)
    try:
        return _from_json(json.loads(bytes(raw)), what)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise exc.BackupDamaged(what=what, reason=f"its content makes no sense ({exc.describe(error)})") from error


def _from_json(content: dict[str, Any], what: str) -> Root:
    unknown = set(content["needs"]) - KNOWN_NEEDS
    if unknown:
        raise exc.BackupNotReadable(what=what, reason=f"it needs a newer program: {', '.join(sorted(unknown))}")
    names = [name for name, _ in content["packs"]]
    pages = {
        page: PageEntry(bytes.fromhex(digest), Location(names[pack], offset, length), raw_bytes)
        for page, digest, pack, offset, length, raw_bytes in content["pages"]
    }
    known = {item.name: content[item.name] for item in fields(Root)}
    return Root(**known | {"packs": dict(content["packs"]), "pages": pages, "needs": tuple(content["needs"])})
