"""Features to a file as they come: what is in memory is a block of rows, however many there are."""

from __future__ import annotations

import json
import secrets
import tempfile
import zipfile
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.lib import format as npy

from sae_features.errors import InputTypeError, InvalidInputError
from sae_features.feature_files import check_output, fitting_integer, import_pyarrow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FLOAT, LONG = np.dtype(np.float32), np.dtype(np.int64)
BLOCK = 1 << 18
"""Numbers that are moved at a time."""
GROUP_ROWS = 1 << 16
GROUP_VALUES = 1 << 21
"""The most in a row group of Parquet, unless a single row has more."""
COMPRESSION = 1
"""Of deflate: a few per cent larger than the usual 6, and more than twice as fast."""


class FeatureWriter:
    """Write CSR rows to a file, block by block; the file appears whole or not at all.

    What comes waits in unnamed files beside the output, which vanish with the process.  It is put in
    order when all is there: a file tells its lengths before its content.

    Parameters
    ----------
    path : str or Path
        ``.npz`` (which :func:`scipy.sparse.load_npz` reads, too) or ``.parquet`` (columns
        ``indices`` and ``values``, lists; needs ``sae-features[parquet]``).
    n_features : int
        Number of columns.

    Attributes
    ----------
    n_items, n_values : int
        Rows that were appended, and what they hold.

    Raises
    ------
    InvalidParameterError
        If the kind of file is unknown or its folder does not exist.
    MissingDependencyError
        If it needs a package that is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from pathlib import Path
    >>> from sae_features.extract import FeatureWriter, read_features
    >>> rows = sp.csr_matrix(np.array([[0, 2, 0], [1, 0, 0]], np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with FeatureWriter(Path(folder) / "features.npz", n_features=3) as writer:
    ...         writer.append(rows)
    ...         writer.append(rows[:1])
    ...         path = writer.finish({"made by": "hand"})
    ...     read_features(path)[0].toarray()
    array([[0., 2., 0.],
           [1., 0., 0.],
           [0., 2., 0.]], dtype=float32)
    """

    def __init__(self, path: str | Path, n_features: int) -> None:
        self.path = check_output(path)
        self.n_features = n_features
        self.n_items = self.n_values = 0
        self._integer = fitting_integer(n_features - 1)

    def __enter__(self) -> Self:
        with ExitStack() as files:

            def unnamed() -> IO[bytes]:
                return files.enter_context(tempfile.TemporaryFile(dir=self.path.parent))

            self._values, self._indices, self._ends = unnamed(), unnamed(), unnamed()
            self._files = files.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def append(self, rows: Any) -> None:
        """Add rows below those that came before.

        Parameters
        ----------
        rows : csr_matrix or csr_array of shape (n, n_features), float32
            Any number of them.

        Raises
        ------
        InputTypeError
            If the rows are not CSR of float32.
        InvalidInputError
            If they have another number of columns, or are no valid CSR.
        """
        check_rows(rows)
        if rows.shape[1] != self.n_features:
            message = f"Got rows of {rows.shape[1]} features; expected {self.n_features}."
            raise InvalidInputError(message)
        try:
            rows.check_format(full_check=True)
        except ValueError as error:
            raise InvalidInputError(f"Got rows that are no valid CSR: {error}.") from error
        ends = rows.indptr[1:].astype(np.int64) + self.n_values
        _put(self._values, self.n_values, rows.data)
        _put(self._indices, self.n_values, rows.indices.astype(self._integer, copy=False))
        _put(self._ends, self.n_items, ends)
        self.n_items += rows.shape[0]
        self.n_values += len(rows.data)

    def finish(self, provenance: dict[str, Any]) -> Path:
        """Write the file, in the place of an older one if there is one.

        Parameters
        ----------
        provenance : dict
            Plain JSON values.

        Returns
        -------
        Path
        """
        text = json.dumps(provenance)
        with _replacing(self.path) as draft:
            if self.path.suffix.lower() == ".npz":
                self._write_npz(draft, text)
            else:
                self._write_parquet(draft, text)
        self._files.close()
        return self.path

    def _write_npz(self, draft: Path, provenance: str) -> None:
        pointer = fitting_integer(self.n_values)
        indptr = (block.astype(pointer) for block in _blocks(self._ends, self.n_items, LONG, BLOCK))
        arrays: dict[str, tuple[np.dtype[Any], int, Iterable[np.ndarray]]] = {
            "data": (FLOAT, self.n_values, _blocks(self._values, self.n_values, FLOAT, BLOCK)),
            "indices": (
                self._integer,
                self.n_values,
                _blocks(self._indices, self.n_values, self._integer, BLOCK),
            ),
            "indptr": (pointer, self.n_items + 1, chain([np.zeros(1, pointer)], indptr)),
        }
        single = {
            "shape": np.array((self.n_items, self.n_features), np.int64),
            "format": np.array(b"csr"),
            "provenance": np.array(provenance),
        }
        with (
            draft.open("wb") as stream,
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION) as container,
        ):
            for name, (dtype, length, blocks) in arrays.items():
                with container.open(f"{name}.npy", "w", force_zip64=True) as member:
                    _write_npy(member, dtype, length, blocks)
            for name, array in single.items():
                with container.open(f"{name}.npy", "w", force_zip64=True) as member:
                    npy.write_array(member, array, version=(1, 0), allow_pickle=False)

    def _write_parquet(self, draft: Path, provenance: str) -> None:
        pa, pq = import_pyarrow()
        integers, floats = pa.from_numpy_dtype(self._integer), pa.float32()
        schema = pa.schema(
            {"indices": pa.list_(integers), "values": pa.list_(floats)},
            metadata={"n_features": str(self.n_features), "provenance": provenance},
        )
        with pq.ParquetWriter(draft, schema) as writer:
            for first, ends in self._groups():
                offsets = pa.array(np.concatenate(([0], ends - first)), pa.int32())
                n_values = int(ends[-1]) - first
                columns = [
                    pa.ListArray.from_arrays(offsets, pa.array(_get(stream, first, n_values, dtype)))
                    for stream, dtype in ((self._indices, self._integer), (self._values, FLOAT))
                ]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=len(ends))

    def _groups(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield where values of consecutive rows begin, and where those of each row end."""
        first = 0
        for block in _blocks(self._ends, self.n_items, LONG, GROUP_ROWS):
            ends = block
            while len(ends):
                n_rows = max(1, int(np.searchsorted(ends, first + GROUP_VALUES, side="right")))
                yield first, ends[:n_rows]
                first, ends = int(ends[n_rows - 1]), ends[n_rows:]


def check_rows(rows: Any) -> None:
    """Raise InputTypeError unless rows are of the one kind that is written."""
    if not isinstance(rows, sp.csr_matrix | sp.csr_array) or rows.dtype != np.float32:
        raise InputTypeError(f"Got {type(rows).__name__}; expected CSR rows of float32.")


def _put(stream: IO[bytes], position: int, array: np.ndarray) -> None:
    """Write numbers behind the first ``position``: what half an append left there is written over."""
    stream.seek(position * array.itemsize)
    stream.write(np.ascontiguousarray(array).data)


def _get(stream: IO[bytes], position: int, length: int, dtype: np.dtype[Any]) -> np.ndarray:
    stream.seek(position * dtype.itemsize)
    return np.frombuffer(stream.read(length * dtype.itemsize), dtype)


def _blocks(stream: IO[bytes], length: int, dtype: np.dtype[Any], most: int) -> Iterator[np.ndarray]:
    for start in range(0, length, most):
        yield _get(stream, start, min(most, length - start), dtype)


def _write_npy(member: IO[bytes], dtype: np.dtype[Any], length: int, blocks: Iterable[Any]) -> None:
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    npy.write_array_header_1_0(member, header)
    for block in blocks:
        member.write(block.tobytes())


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path that takes the place of ``path`` when all went well."""
    draft = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{path.suffix}")
    draft.touch(exist_ok=False)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
