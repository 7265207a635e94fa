"""Which file system a directory is on.

SQLite's write-ahead log needs shared memory and locks that network file systems don't keep:
two hosts, or a lost lease, end in a broken database.  So such a place is refused by name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

# As the kernel names them in mountinfo; "fuse.x" is the FUSE file system x.
NETWORK_TYPES = frozenset(
    {
        "9p", "afs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4",
        "ocfs2", "orangefs", "smb3", "smbfs", "beegfs", "gpfs",
        "fuse.ceph", "fuse.ceph-fuse", "fuse.curlftpfs", "fuse.davfs", "fuse.gcsfuse", "fuse.glusterfs",
        "fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs",
    }
)  # fmt: skip

_OCTAL = re.compile(r"\\([0-7]{3})")


def find_type(path: str | os.PathLike[str], *, mountinfo: str | os.PathLike[str] = "/proc/self/mountinfo") -> str:
    """The type of the file system that holds ``path``; "" where the kernel doesn't tell.

    ``mountinfo`` has the format of proc(5).  May be repeated.
    """
    wanted = os.path.realpath(path)
    best_point, best_type = "", ""
    try:
        lines = Path(mountinfo).read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        columns = fields.split()
        if len(columns) < 5 or not rest:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), columns[4])
        is_inside = point == "/" or wanted == point or wanted.startswith(point + "/")
        # The last of equally long ones hides those mounted below it.
        if is_inside and len(point) >= len(best_point):
            best_point, best_type = point, rest.split()[0]
    return best_type


def is_network(path: str | os.PathLike[str], *, mountinfo: str | os.PathLike[str] = "/proc/self/mountinfo") -> bool:
    """Whether ``path`` is on a file system that SQLite must not use."""
    return find_type(path, mountinfo=mountinfo) in NETWORK_TYPES
