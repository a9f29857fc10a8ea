"""Zip files, arrays and pickles put together by hand, so that they may say anything."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile


def zip_parts(raw):
    """Return the members of a zip file: names and contents."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def zip_of(parts, *, compress=zipfile.ZIP_STORED):
    """Return a zip file of such members; names may come twice."""
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(stream, "w", compress) as archive:
        for name, content in parts:
            archive.writestr(zipfile.ZipInfo(name), content, compress)
    return stream.getvalue()


def npy_of(descr, shape, data, *, fortran=False, version=(1, 0), length=None):
    """Return an npy file whose header may say anything."""
    text = (
        descr
        if isinstance(descr, bytes)
        else repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    )
    text = text.ljust(118 - (118 - len(text)) % 1) + b"\n"
    size = len(text) if length is None else length
    packed = struct.pack(
        "<H" if version == (1, 0) else "<L", size % 2 ** (16 if version == (1, 0) else 32)
    )
    return b"\x93NUMPY" + bytes(version) + packed + text + data


def short(value):
    return b"X" + struct.pack("<L", len(value.encode())) + value.encode()


def number(value):
    size = max(1, (value.bit_length() + 8) // 8)
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def tensor_pickle(kind, key, numel, offset, shape, stride):
    """Return the instructions for a tensor, which may say anything."""
    sizes = b"".join(b"(" + b"".join(map(number, part)) + b"t" for part in (shape, stride))
    storage = (
        b"("
        + short("storage")
        + b"ctorch\n"
        + kind.encode()
        + b"\n"
        + short(key)
        + short("cpu")
        + number(numel)
        + b"tQ"
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number(offset)
        + sizes
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def dict_pickle(items):
    """Return a pickle of a dictionary from instructions by name."""
    return b"\x80\x02}(" + b"".join(short(name) + value for name, value in items.items()) + b"u."


def pickle_of(called, argument):
    """Return a pickle that calls something with a text."""
    module, name = called.rsplit(".", 1)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + short(argument) + b"\x85R."
