"""Who holds a socket or a file of this host open, as the kernel tells it.

A target asks this to say which clients are connected, whatever the records say.  Sockets are asked
for through sock_diag(7), which answers any user; the process behind one is named when this user may
look into it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

_DIAG_FAMILY = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP, linux/netlink.h
_ERROR, _DONE = 2, 3
_SHOW_NAME, _SHOW_PEER = 0x1, 0x4  # linux/unix_diag.h
_NAME, _PEER = 0, 2
_ESTABLISHED = 1
_TIMEOUT_S = 5.0


def of_socket(path: str) -> tuple[str, ...] | None:
    """Addresses of those connected to the unix socket at ``path``; None when the kernel doesn't tell."""
    try:
        peers = [peer for state, name, peer in _unix_sockets() if name == os.fsencode(path) and state == _ESTABLISHED]
    except (OSError, struct.error):
        return None
    if not peers:
        return ()
    owners = _owners_of_sockets({inode for inode in peers if inode})
    return tuple(sorted(f"unix:{owners.get(inode or 0, 'of a process that this user may not see')}" for inode in peers))


def of_file(path: str) -> tuple[str, ...]:
    """The other processes that have the file at ``path`` open, as far as this user may see them."""
    try:
        wanted = os.stat(path)
    except FileNotFoundError:
        return ()
    found = set()
    for pid, descriptor in _descriptors():
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(descriptor), wanted):
                found.add(f"local:{_name_of(pid)}")
    return tuple(sorted(found))


def _unix_sockets() -> Iterator[tuple[int, bytes, int | None]]:
    """(state, name, inode of the peer) of every unix socket of this network namespace."""
    body = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 1 << _ESTABLISHED, 0, _SHOW_NAME | _SHOW_PEER, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _DIAG_FAMILY) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        netlink.send(struct.pack("=IHHII", 16 + len(body), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + body)
        while True:
            data = netlink.recv(1 << 18)
            at = 0
            while at < len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", data, at + 16)[0], "sock_diag refused")
                yield _parse(data[at : at + length])
                at += (length + 3) & ~3


def _parse(message: bytes) -> tuple[int, bytes, int | None]:
    state = message[18]
    name, peer = b"", None
    at = 32  # past nlmsghdr and unix_diag_msg
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        value = message[at + 4 : at + length]
        if kind == _NAME:
            name = value.rstrip(b"\0")
        elif kind == _PEER:
            peer = struct.unpack("=I", value)[0]
        at += max(4, (length + 3) & ~3)
    return state, name, peer


def _owners_of_sockets(inodes: set[int]) -> dict[int, str]:
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, str] = {}
    for pid, descriptor in _descriptors():
        with contextlib.suppress(OSError):
            inode = wanted.get(os.readlink(descriptor))
            if inode is not None:
                found[inode] = _name_of(pid)
                if len(found) == len(wanted):
                    break
    return found


def _descriptors() -> Iterator[tuple[int, str]]:
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                for number in os.listdir(f"/proc/{entry}/fd"):
                    yield int(entry), f"/proc/{entry}/fd/{number}"


def _name_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return f"pid {pid} ({file.read().strip()})"
    except OSError:
        return f"pid {pid}"
