"""On what kind of file system a folder lies."""

from __future__ import annotations

import os
import re
from pathlib import Path

NETWORKED = frozenset({
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "cvmfs", "davfs", "fhgfs", "gfs", "gfs2",
    "glusterfs", "gpfs", "lustre", "mfs", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs",
    "pvfs2", "smb2", "smb3", "smbfs", "vboxsf", "wekafs",
})  # fmt: skip
"""Types that several machines may write to; ``fuse.NAME`` counts as NAME."""
NETWORKED_FUSE = frozenset({
    "sshfs", "s3fs", "gcsfuse", "goofys", "rclone", "juicefs", "blobfuse", "blobfuse2", "mount-s3",
    "moosefs", "davfs2", "curlftpfs", "smbnetfs", "ceph-fuse", "quobyte",
})  # fmt: skip
MOUNTS = "/proc/self/mountinfo"


def file_system_of(folder: Path) -> str | None:
    """Return the type of the file system on which a folder lies or would lie; None if nobody says.

    Parameters
    ----------
    folder : Path
        Need not exist.
    """
    try:
        lines = Path(MOUNTS).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = os.path.realpath(folder)
    best, kind = "", None
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        is_above = place == point or place.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(best):  # of several at one point, the last is seen
            best, kind = point, right.split(" ")[0]
    return kind


def is_networked(kind: str | None) -> bool:
    """Tell whether other machines may write to a file system of this type.

    Examples
    --------
    >>> is_networked("nfs4"), is_networked("fuse.sshfs"), is_networked("ext4")
    (True, True, False)
    """
    if kind is None:
        return False
    name = kind.removeprefix("fuse.")
    return name in NETWORKED or (name != kind and name in NETWORKED_FUSE)
