"""Zip files of tensors: what they declare is compared with what is there, before it is used.

Readers of zip files differ in what they take on trust.  Here only those files pass in which all of them
find the same: one directory at the end, and members that stand where, and are as large as, it says.
"""

from __future__ import annotations

import struct
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from sae_features.errors import SAEFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MAX_MEMBERS = 4096
MAX_DIRECTORY = 2**20
END = struct.Struct("<4s4H2LH")
END_64_PLACE = struct.Struct("<4sLQL")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCAL = struct.Struct("<4s5H3L2H")
REPEATED = (struct.Struct("<4s3L"), struct.Struct("<4sL2Q"))
"""Checksum and sizes after a member that was written before they were known."""
MAX_16, MAX_32 = 0xFFFF, 0xFFFFFFFF


class Directory(NamedTuple):
    """What the end of a zip file says of its directory."""

    members: int
    size: int
    start: int
    """Counted from where the zip file starts."""


class _Local(NamedTuple):
    """What stands before the content of a member."""

    signature: bytes
    version: int
    flags: int
    method: int
    time: int
    date: int
    checksum: int
    packed_size: int
    size: int
    name_size: int
    extra_size: int


class Member(NamedTuple):
    """A member, and where its content starts in the file."""

    info: zipfile.ZipInfo
    start: int


def read_members(path: Path, *, start: int = 0, compressed: bool = False) -> dict[str, Member]:
    """Return the members of a zip file by name.

    Parameters
    ----------
    path : Path
    start : int, default=0
        Bytes before the zip file.
    compressed : bool, default=False
        Whether members may be; they may double in size, since weights gain little more.

    Raises
    ------
    SAEFormatError
        If the file is damaged, says two things of one member, or promises more than it could hold.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        directory = _read_directory(path, stream, size - start)
        with damage_named(path), zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        names = [info.filename for info in infos]
        if len(infos) != directory.members or len({name.lower() for name in names}) != len(names):
            message = f"{path}: got members of the same name, or {len(infos)} for {directory.members}"
            raise SAEFormatError(f"{message}; expected each once.")
        declared = sum(info.file_size for info in infos)
        if declared > (2 if compressed else 1) * size:
            message = f"{path}: got members that declare {declared} bytes in a file of {size}"
            raise SAEFormatError(f"{message}; expected no more than it can hold.")
        return _locate(path, stream, infos, start, start + directory.start, compressed=compressed)


def read_member(path: Path, name: str) -> bytes:
    """Return the content of a member, its checksum compared."""
    with damage_named(path), zipfile.ZipFile(path) as archive:
        return archive.read(name)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file leads to into one error."""
    try:
        yield
    except SAEFormatError:
        raise
    except Exception as error:
        message = f"{path}: not a whole file: {type(error).__name__}: {error!s:.200}. Get it again."
        raise SAEFormatError(message) from error


def _read_directory(path: Path, stream: BinaryIO, size: int) -> Directory:
    stream.seek(max(0, stream.seek(0, 2) - END.size - END_64_PLACE.size - END_64.size))
    tail = stream.read()
    if size < END.size or tail[-END.size :][:4] != b"PK\5\6":
        message = (
            f"{path}: not a whole file: a zip file ends with its directory, and this one does not. "
            "Get it again."
        )
        raise SAEFormatError(message)
    _, disk, other_disk, here, members, directory_size, start, comment = END.unpack(tail[-END.size :])
    end = size - END.size
    plain, found = (members, directory_size, start), Directory(members, directory_size, start)
    place = tail[: -END.size][-END_64_PLACE.size :]
    if place[:4] == b"PK\6\7" and len(tail) >= END.size + END_64_PLACE.size + END_64.size:
        end = size - len(tail)
        record = END_64.unpack(tail[: END_64.size])
        found = Directory(*record[7:])
        is_same = all(
            short in (long, limit)
            for short, long, limit in zip(plain, found, (MAX_16, MAX_32, MAX_32), strict=True)
        )
        is_there = END_64_PLACE.unpack(place)[2] == end and record[0] == b"PK\6\6"
        if not (is_same and is_there and record[6] == found.members):
            raise SAEFormatError(f"{path}: got a zip file with two directories; expected one.")
    is_one = (disk, other_disk, here, comment) == (0, 0, members, 0)
    if not is_one or found.start + found.size != end:
        message = f"{path}: got a zip file whose directory does not end where it says; expected it last."
        raise SAEFormatError(message)
    if found.members > MAX_MEMBERS or found.size > MAX_DIRECTORY:
        message = f"{path}: got {found.members} members in a directory of {found.size} bytes"
        raise SAEFormatError(f"{message}; expected at most {MAX_MEMBERS} in {MAX_DIRECTORY}.")
    return found


def _locate(
    path: Path,
    stream: BinaryIO,
    infos: list[zipfile.ZipInfo],
    start: int,
    end: int,
    *,
    compressed: bool,
) -> dict[str, Member]:
    """Return members with the places of their contents, none of which meets another."""
    methods = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} if compressed else {zipfile.ZIP_STORED}
    members: dict[str, Member] = {}
    free_from = start
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.compress_type not in methods or info.flag_bits & 1:
            raise SAEFormatError(f"{path}: got compressed or encrypted members; expected plain ones.")
        _check_end(path, stream, members, free_from, info.header_offset)
        local = _Local(*LOCAL.unpack(_read_at(path, stream, info.header_offset, LOCAL.size)))
        name = stream.read(local.name_size)
        content = info.header_offset + LOCAL.size + local.name_size + local.extra_size
        free_from = content + info.compress_size
        if not _is_same(info, local, name):
            message = (
                f"{path}: got a member {info.filename[:100]!r} that is not where, or what, the "
                "directory says. Get the file again."
            )
            raise SAEFormatError(message)
        members[info.filename] = Member(info, content)
    _check_end(path, stream, members, free_from, end)
    return members


def _read_at(path: Path, stream: BinaryIO, place: int, size: int) -> bytes:
    stream.seek(place)
    content = stream.read(size)
    if len(content) != size:
        raise SAEFormatError(f"{path}: not a whole file: it ends in a member. Get it again.")
    return content


def _check_end(
    path: Path, stream: BinaryIO, members: Mapping[str, Member], start: int, end: int
) -> None:
    """Raise if there is anything after the last of these members but its sizes, repeated."""
    if start == end:
        return
    last = list(members.values())[-1] if members else None
    form = {form.size: form for form in REPEATED}.get(end - start)
    if last is not None and form is not None:
        repeated = (b"PK\7\10", last.info.CRC, last.info.compress_size, last.info.file_size)
        if form.unpack(_read_at(path, stream, start, form.size)) == repeated:
            return
    message = f"{path}: got members that overlap, or something between them"
    raise SAEFormatError(f"{message}; expected one after the other.")


def _is_same(info: zipfile.ZipInfo, local: _Local, name: bytes) -> bool:
    """Tell whether a member's own header says what the directory does."""
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    is_named = name == info.orig_filename.encode(encoding) and info.orig_filename == info.filename
    flags = (local.flags & 0x801, info.flag_bits & 0x801)  # encryption, and the encoding of names
    sizes = (local.packed_size, local.size)
    # They may stand after the content instead, or in the extra field.
    has_sizes = bool(local.flags & 8) or MAX_32 in sizes or sizes == (info.compress_size, info.file_size)
    is_whole = info.compress_size == info.file_size or info.compress_type != zipfile.ZIP_STORED
    is_kind = (local.signature, local.method) == (b"PK\3\4", info.compress_type)
    return is_named and is_kind and flags[0] == flags[1] and has_sizes and is_whole
