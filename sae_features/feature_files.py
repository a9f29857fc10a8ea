"""How features and their provenance are read; a hostile file gives an error, never a crash."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse as sp
from numpy.lib import format as npy

from sae_features.errors import InvalidInputError, InvalidParameterError, MissingDependencyError

KINDS = (".npz", ".parquet")
NPZ_MEMBERS = {  # how the dtype's name may begin, number of dimensions
    "data": (("float32",), 1),
    "indices": (("int32", "int64"), 1),
    "indptr": (("int32", "int64"), 1),
    "shape": (("int64",), 1),
    "format": (("|S3",), 0),
    "provenance": (("<U",), 0),
}
MOST_INT32 = int(np.iinfo(np.int32).max)
MOST_DEFLATED = 1032  # bytes that one byte of a deflate stream can stand for

# Data, indices and indptr; shape; provenance as JSON.
Stored = tuple[tuple[Any, Any, Any], tuple[int, int], str]


def features_path(path: str | Path) -> Path:
    """Return the path if features stand in files of its kind.

    Raises
    ------
    InvalidParameterError
        If they do not.
    """
    place = Path(path)
    if place.suffix.lower() not in KINDS:
        message = f"Got {place.name!r}; expected a file of kind {' or '.join(KINDS)}."
        raise InvalidParameterError(message)
    return place


def check_output(path: str | Path) -> Path:
    """Return the path if features can be written there.

    Raises
    ------
    InvalidParameterError
        If the kind of file is unknown, or its folder does not exist or cannot be written to.
    MissingDependencyError
        If it needs a package that is not installed.
    """
    place = features_path(path)
    if not place.parent.is_dir():
        raise InvalidParameterError(f"The folder {str(place.parent)!r} does not exist; create it first.")
    if not os.access(place.parent, os.W_OK):
        message = f"The folder {str(place.parent)!r} cannot be written to; choose another one."
        raise InvalidParameterError(message)
    if place.suffix.lower() == ".parquet":
        import_pyarrow()
    return place


def fitting_integer(most: int) -> np.dtype[Any]:
    """Return the integer that indices up to ``most`` need: int32 where it is wide enough."""
    return np.dtype(np.int32 if most <= MOST_INT32 else np.int64)


def read(path: Path) -> tuple[sp.csr_matrix, dict[str, Any]]:
    """Read and check what :class:`sae_features.feature_writer.FeatureWriter` wrote.

    Raises
    ------
    InvalidInputError
        If the file is damaged or holds something else.
    MissingDependencyError
        If it needs a package that is not installed.
    """
    read_kind = _read_npz
    if path.suffix.lower() == ".parquet":
        import_pyarrow()
        read_kind = _read_parquet
    with path.open("rb") as stream:
        try:
            return _checked(*read_kind(stream))
        except MemoryError:
            raise
        except Exception as error:  # damage makes zipfile, numpy and pyarrow raise almost anything
            message = f"{path.name} cannot be read as features: {error}; write it anew."
            raise InvalidInputError(message) from error


def _checked(
    parts: tuple[Any, Any, Any], shape: tuple[int, int], text: str
) -> tuple[sp.csr_matrix, dict[str, Any]]:
    rows = sp.csr_matrix(parts, shape=shape)
    rows.check_format(full_check=True)
    data, _, indptr = parts
    if len(data) != indptr[-1]:
        raise ValueError(f"got {len(data)} values; its rows hold {indptr[-1]}")
    provenance = json.loads(text)
    if not isinstance(provenance, dict):
        raise TypeError("its provenance is not a JSON object")
    return rows, provenance


def _read_npz(stream: IO[bytes]) -> Stored:
    arrays = {}
    n_bytes = stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream) as container:
        if sorted(container.namelist()) != sorted(f"{name}.npy" for name in NPZ_MEMBERS):
            raise ValueError(f"expected the members {', '.join(NPZ_MEMBERS)}")
        for name in NPZ_MEMBERS:
            _check_npy(container, name, n_bytes)
        for name in NPZ_MEMBERS:
            with container.open(f"{name}.npy") as member:
                arrays[name] = npy.read_array(member, allow_pickle=False)
    if arrays["format"] != b"csr":
        raise ValueError(f"got the format {arrays['format']}; expected b'csr'")
    if len(arrays["shape"]) != 2:
        raise ValueError(f"got the shape {arrays['shape'].tolist()}; expected two numbers")
    n_items, n_features = arrays["shape"].tolist()
    parts = (arrays["data"], arrays["indices"], arrays["indptr"])
    return parts, (n_items, n_features), str(arrays["provenance"])


def _check_npy(container: zipfile.ZipFile, name: str, n_bytes: int) -> None:
    """Check dtype and size of a member by its headers, before anything of that size is made."""
    info = container.getinfo(f"{name}.npy")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ValueError(f"{name} is compressed by another method than deflate")
    with container.open(info) as member:
        if npy.read_magic(member) != (1, 0):
            raise ValueError(f"{name} is of another version of npy than 1.0")
        shape, _, dtype = npy.read_array_header_1_0(member)
        size = member.tell() + math.prod(shape) * dtype.itemsize
    kinds, n_dims = NPZ_MEMBERS[name]
    if not str(dtype).startswith(kinds) or len(shape) != n_dims:
        expected = f"{' or '.join(kinds)} of {n_dims} dimensions"
        raise ValueError(f"{name} is {dtype} of shape {shape}; expected {expected}")
    if info.file_size != size or size > MOST_DEFLATED * min(info.compress_size, n_bytes):
        raise ValueError(f"{name} does not have the size that its header claims")


def _read_parquet(stream: IO[bytes]) -> Stored:
    pa, pq = import_pyarrow()
    table = pq.ParquetFile(stream).read()
    table.validate(full=True)
    metadata = table.schema.metadata or {}
    for key in ("n_features", "provenance"):
        if key.encode() not in metadata:
            raise ValueError(f"its metadata says no {key}")
    found = [(field.name, field.type) for field in table.schema]
    integers = [pa.list_(pa.int32()), pa.list_(pa.int64())]
    if found not in [[("indices", kind), ("values", pa.list_(pa.float32()))] for kind in integers]:
        raise ValueError("expected the columns indices (lists of integers) and values (of float32)")
    indices, lengths = _flat(table["indices"])
    values, n_values = _flat(table["values"])
    if not np.array_equal(lengths, n_values):
        raise ValueError("a row has no indices, or not as many as values")
    indptr = np.zeros(len(lengths) + 1, fitting_integer(len(values)))
    np.cumsum(lengths, out=indptr[1:])
    shape = (table.num_rows, int(metadata[b"n_features"]))
    return (values, indices, indptr), shape, metadata[b"provenance"].decode()


def _flat(column: Any) -> tuple[Any, Any]:
    """Return what the lists of a column hold, one list after the other, and how long each is."""
    pa, _ = import_pyarrow()
    if column.null_count:
        raise ValueError("a row has no indices, or not as many as values")
    empty = pa.array([], column.type)  # a file without rows has no chunk at all
    chunks = [*column.chunks, empty]
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in chunks]
    return np.concatenate([chunk.flatten().to_numpy() for chunk in chunks]), np.concatenate(lengths)


def import_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        message = 'Parquet needs pyarrow: pip install "sae-features[parquet]", or write .npz.'
        raise MissingDependencyError(message) from error
    return pa, pq
