"""File systems on which SQLite's log does not work are known by the table of mounts."""

from __future__ import annotations

import pytest

from sae_features.store import file_systems
from sae_features.store.file_systems import file_system_of, is_networked

TABLE = """\
22 1 0:21 / / rw - ext4 /dev/vda rw
23 22 0:22 / /home rw,relatime shared:1 - nfs4 server:/home rw
24 22 0:23 / /home/me/local rw - xfs /dev/vdb rw
25 22 0:24 / /with\\040space rw - fuse.sshfs me@there:/ rw
26 22 0:25 / /twice rw - ext4 /dev/vdc rw
27 22 0:26 / /twice rw master:3 propagate_from:2 - lustre pool rw
a line of something else
"""


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    monkeypatch.setattr(file_systems, "MOUNTS", str(table))
    return table


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/homes/a", "ext4"),
        ("/home", "nfs4"),
        ("/home/me/not/yet/there", "nfs4"),
        ("/home/me/local/store", "xfs"),
        ("/with space/store", "fuse.sshfs"),
        ("/twice/store", "lustre"),
    ],
)
def test_the_longest_mount_counts(mounts, folder, kind):
    assert file_system_of(folder) == kind


def test_a_link_is_followed(mounts, tmp_path):
    (tmp_path / "link").symlink_to("/twice")
    assert file_system_of(tmp_path / "link" / "store") == "lustre"


def test_where_there_is_no_table(mounts):
    mounts.unlink()
    assert file_system_of("/home") is None


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "lustre", "9p", "fuse.sshfs", "fuse.glusterfs"]
)
def test_networked(kind):
    assert is_networked(kind)


@pytest.mark.parametrize(
    "kind", [None, "ext4", "tmpfs", "overlay", "btrfs", "zfs", "fuse.mergerfs", "fuse"]
)
def test_local(kind):
    assert not is_networked(kind)
