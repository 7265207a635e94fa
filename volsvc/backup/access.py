"""From a connection_info, as a volume's daemon gives it, to blocks that the engine reads or writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from volsvc import exceptions as exc
from volsvc.backup.blocks import BlockSink, BlockSource
from volsvc.backup.file_blocks import FileSink, FileSource
from volsvc.backup.nbd_blocks import NbdSink, NbdSource
from volsvc.drivers.readers import LOCAL, NBD_TLS

if TYPE_CHECKING:
    from volsvc.backup.fake_blocks import FakeBlocks

#: A blip of the network passes; an exporter that is gone becomes an error after it.
RECONNECT_S = 10

_File = TypeVar("_File", FileSource, FileSink)

#: The types of connections that are known here, and what their data must say.
_NEEDED = {
    LOCAL: frozenset({"device_path", "device", "inode"}),
    NBD_TLS: frozenset({"host", "port", "export", "psk_identity", "psk_key", "access_mode"}),
    "nbd": frozenset({"uri"}),
    "fake": frozenset({"store", "reader", "access_mode"}),
}


def open_source(connection_info: Mapping[str, Any], directory: str, *, reconnect_s: int = RECONNECT_S) -> BlockSource:
    """Open a volume or snapshot for reading; close it when done.

    ``directory``: private to this service and short, for the sockets and keys of bridges to other hosts.
    ``reconnect_s``: how long reads and writes wait for a connection to another host that broke, seconds.
    Raises ``NotThisHost`` when the path it names isn't that file here: ask for a connection again, with
    ``"local": False`` in the connector.  Raises ``VolumeAccessError`` when it can't be reached, and
    ``MissingDriverLibrary`` without the program that bridges to another host.
    """
    kind, data = _take_apart(connection_info)
    if kind == LOCAL:
        return _opened_here(FileSource, data)
    if kind == NBD_TLS:
        from volsvc.backup.bridge import BridgedSource

        return BridgedSource(data, directory, reconnect_s=reconnect_s)
    if kind == "nbd":
        return NbdSource(data["uri"])
    if kind == "fake":
        return _fake(data)
    raise _unknown(kind)


def open_sink(connection_info: Mapping[str, Any], directory: str, *, reconnect_s: int = RECONNECT_S) -> BlockSink:
    """Open a volume for writing; the rest as ``open_source``."""
    kind, data = _take_apart(connection_info)
    if data.get("access_mode") == "ro":
        raise exc.VolumeAccessError(reason="the connection is for reading only")
    if kind == LOCAL:
        return _opened_here(FileSink, data)
    if kind == NBD_TLS:
        from volsvc.backup.bridge import BridgedSink

        return BridgedSink(data, directory, reconnect_s=reconnect_s)
    if kind == "nbd":
        return NbdSink(data["uri"])
    if kind == "fake":
        return _fake(data)
    raise _unknown(kind)


def _take_apart(connection_info: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    try:
        kind, data = connection_info["driver_volume_type"], connection_info["data"]
        missing = sorted(_NEEDED.get(kind, frozenset()) - set(data))
    except (KeyError, TypeError) as error:
        raise exc.VolumeAccessError(reason=f"the volume's daemon gave no connection_info: {error!r}") from error
    if missing:
        raise exc.VolumeAccessError(
            reason=f"the volume's daemon gave a connection ({kind}) without {', '.join(missing)}; upgrade it"
        )
    return kind, data


def _opened_here(opener: type[_File], data: Mapping[str, Any]) -> _File:
    """The file at the path, if it is the one that was meant."""
    path = data["device_path"]
    try:
        found = opener(path)
    except exc.VolumeAccessError as error:
        raise exc.NotThisHost(path=path, reason=str(error)) from error
    if found.identity != (data["device"], data["inode"]):
        found.close()
        raise exc.NotThisHost(path=path, reason="what has this path here is another file")
    return found


def _fake(data: Mapping[str, Any]) -> FakeBlocks:
    from volsvc.backup.fake_blocks import FakeBlocks

    return FakeBlocks(data)


def _unknown(kind: str) -> exc.VolumeAccessError:
    return exc.VolumeAccessError(
        reason=f"this program can't open a connection of type {kind!r}; it knows {', '.join(sorted(_NEEDED))}"
    )
