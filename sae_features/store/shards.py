"""Shards: files with the values of many items in columns, checked whenever they are read.

A shard is a safetensors file. ``digests`` (n, 32), ``checks`` (n, 16), ``lengths`` (n, fields) and
``numbers`` (n, numbers) say what belongs to each item; each field of the kind is one column, the items'
parts end to end. A check is a digest over all that a value is made of, so nothing that is read here is
trusted before: sizes are compared with the file's, and an item is right or it is damaged.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from sae_features.store.codec import KINDS, Encoded, decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO

SCHEMA: Final = 1
DIGEST_BYTES: Final = 32
CHECK_BYTES: Final = 16
LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 2**24
DTYPES: Final = {
    "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32, "I32": np.int32,
    "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
}  # fmt: skip
UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What a damaged header makes Python raise."""


class DamagedError(Exception):
    """A shard is not what was written."""


class Column(NamedTuple):
    """A field of all items."""

    dtype: np.dtype[Any]
    start: int
    """Where it begins in the file."""
    bounds: list[int]
    """Item ``i`` owns the elements ``bounds[i]:bounds[i + 1]``."""


class Contents(NamedTuple):
    """Whose values a shard holds, and of which kind."""

    identity: str
    who: str
    kind: str


@dataclass(frozen=True)
class Shard:
    """What stands in a shard beside the columns; sizes agree with the file, the rest may be wrong."""

    contents: Contents
    digests: list[bytes]
    checks: list[bytes]
    heads: list[bytes]
    numbers: list[list[int]]
    columns: list[Column]


def pack(contents: Contents, items: Sequence[tuple[bytes, Encoded]]) -> bytes:
    """Return the bytes of a shard.

    Parameters
    ----------
    contents : Contents
        Who computed what.
    items : sequence of (bytes, Encoded)
        At least one; all of one layout.
    """
    from safetensors.numpy import save

    fields = KINDS[contents.kind].fields
    digests = np.frombuffer(b"".join(digest for digest, _ in items), np.uint8).reshape(len(items), -1)
    numbers = np.array([value.numbers for _, value in items], np.int64)
    lengths = np.array([[len(array) for array in value.arrays] for _, value in items], np.int64)
    columns = [np.concatenate([value.arrays[i] for _, value in items]) for i in range(len(fields))]
    bounds = [_bounds(lengths[:, i]) for i in range(len(fields))]
    base = _base(contents, [column.dtype for column in columns])
    checks = [
        _check(base, head, [column[b[i] : b[i + 1]] for column, b in zip(columns, bounds, strict=True)])
        for i, head in enumerate(_heads(digests, lengths, numbers))
    ]
    tensors: dict[str, np.ndarray] = {
        "digests": digests,
        "checks": np.frombuffer(b"".join(checks), np.uint8).reshape(len(items), -1),
        "lengths": lengths,
        "numbers": numbers,
        **dict(zip(fields, columns, strict=True)),
    }
    return save(tensors, {"schema": str(SCHEMA), **contents._asdict()})


def read_shard(file: FileIO) -> Shard:
    """Return what stands beside the columns.

    Parameters
    ----------
    file : file
        Opened in binary mode, without a buffer.

    Raises
    ------
    DamagedError
        If that cannot be.
    """
    try:
        return _read_shard(file)
    except UNREADABLE as error:
        raise DamagedError(str(error)) from error


def read_items(
    file: FileIO, shard: Shard, wanted: Sequence[tuple[int, bytes]]
) -> Iterator[tuple[bytes, Any]]:
    """Yield the digest and value of each item that is undamaged.

    Parameters
    ----------
    file : file
        As for :func:`read_shard`.
    shard : Shard
        What stands in it.
    wanted : sequence of (int, bytes)
        Positions and digests.
    """
    base = _base(shard.contents, [column.dtype for column in shard.columns])
    known = [
        (position, digest)
        for position, digest in sorted(wanted)
        if 0 <= position < len(shard.digests) and shard.digests[position] == digest
    ]
    for start, stop in _runs([position for position, _ in known]):
        first, last = known[start][0], known[stop - 1][0]
        try:
            parts = [_read_column(file, column, first, last + 1) for column in shard.columns]
        except DamagedError:
            continue
        for position, digest in known[start:stop]:
            arrays = [
                part[c.bounds[position] - c.bounds[first] : c.bounds[position + 1] - c.bounds[first]]
                for part, c in zip(parts, shard.columns, strict=True)
            ]
            if _check(base, shard.heads[position], arrays) == shard.checks[position]:
                own = [array.copy() for array in arrays]  # a view would keep all of the run in memory
                yield digest, decode(shard.contents.kind, own, shard.numbers[position])


def _read_shard(file: FileIO) -> Shard:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(_read(file, 0, LENGTH_BYTES), "little")
    data = LENGTH_BYTES + length
    if length > MAX_HEADER_BYTES or data > size:
        raise DamagedError(f"a header of {length} bytes")
    header = json.loads(_read(file, LENGTH_BYTES, length))
    metadata = header["__metadata__"]
    contents = Contents(*(str(metadata[name]) for name in Contents._fields))
    if metadata["schema"] != str(SCHEMA):
        raise DamagedError(f"schema {metadata['schema']!r}")
    kind = KINDS[contents.kind]

    def place(name: str) -> tuple[np.dtype[Any], list[int], int]:
        entry = header[name]
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), entry["shape"]
        start, stop = entry["data_offsets"]
        is_whole = all(type(number) is int and number >= 0 for number in (*shape, start, stop))
        if not is_whole or stop - start != math.prod(shape) * dtype.itemsize or data + stop > size:
            raise DamagedError(f"{name} of {dtype} {shape} at {start}:{stop}")
        return dtype, shape, data + start

    def table(name: str, wanted: type[np.generic], width: int) -> np.ndarray:
        dtype, shape, start = place(name)
        if dtype != wanted or len(shape) != 2 or shape[1] != width:
            raise DamagedError(f"{name} of {dtype} {shape}")
        return np.frombuffer(_read(file, start, math.prod(shape) * dtype.itemsize), dtype).reshape(shape)

    digests = table("digests", np.uint8, DIGEST_BYTES)
    checks = table("checks", np.uint8, CHECK_BYTES)
    lengths = table("lengths", np.int64, len(kind.fields))
    numbers = table("numbers", np.int64, len(kind.numbers))
    columns = []
    for i, name in enumerate(kind.fields):
        dtype, shape, start = place(name)
        of_items = lengths[:, i]
        fits = len(of_items) == 0 or (of_items.min() >= 0 and of_items.max() <= shape[0])
        bounds = _bounds(of_items) if fits else [0, -1]
        if len(shape) != 1 or bounds[-1] != shape[0]:
            raise DamagedError(f"lengths of {name}")
        columns.append(Column(dtype, start, bounds))
    if not len(digests) == len(checks) == len(lengths) == len(numbers):
        raise DamagedError("items differ in number")
    heads = _heads(digests, lengths, numbers)
    return Shard(contents, _rows(digests), _rows(checks), heads, numbers.tolist(), columns)


def _read(file: FileIO, start: int, count: int) -> bytes:
    buffer = bytearray(count)
    _read_into(file, start, memoryview(buffer))
    return bytes(buffer)


def _read_into(file: FileIO, start: int, view: memoryview) -> None:
    file.seek(start)
    while len(view):
        count = file.readinto(view)
        if not count:
            raise DamagedError("the file ends early")
        view = view[count:]


def _read_column(file: FileIO, column: Column, first: int, stop: int) -> np.ndarray:
    begin, end = column.bounds[first], column.bounds[stop]
    part = np.empty(end - begin, column.dtype)
    _read_into(file, column.start + begin * column.dtype.itemsize, part.view(np.uint8).data)
    return part


def _base(contents: Contents, dtypes: Sequence[np.dtype[Any]]) -> Any:
    """Return the digest of what all items of a shard have in common."""
    identity, _, kind = contents
    common = [SCHEMA, identity, kind, KINDS[kind], [dtype.name for dtype in dtypes]]
    return hashlib.sha256(json.dumps(common).encode())


def _heads(digests: np.ndarray, lengths: np.ndarray, numbers: np.ndarray) -> list[bytes]:
    """Return what is checked of each item beside its arrays."""
    tables = (digests, np.ascontiguousarray(lengths).view(np.uint8), numbers.view(np.uint8))
    return _rows(np.concatenate(tables, axis=1))


def _check(base: Any, head: bytes, arrays: Sequence[np.ndarray]) -> bytes:
    check = base.copy()
    check.update(head)
    for array in arrays:
        check.update(array)
    return bytes(check.digest()[:CHECK_BYTES])


def _rows(table: np.ndarray) -> list[bytes]:
    width, flat = table.shape[1], table.tobytes()
    return [flat[start : start + width] for start in range(0, len(flat), width)]


def _bounds(lengths: np.ndarray) -> list[int]:
    return [0, *np.cumsum(lengths).tolist()]


def _runs(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the bounds of stretches of ascending numbers without a gap."""
    start = 0
    for i in range(1, len(positions) + 1):
        if i == len(positions) or positions[i] != positions[i - 1] + 1:
            yield start, i
            start = i
