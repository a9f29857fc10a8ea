"""Texts from a file in, features to a file out, with their provenance inside."""

from __future__ import annotations

import csv
import json
import os
import platform
import sys
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

import sae_features
from sae_features.assets import file_sha256
from sae_features.errors import (
    AssetNotFoundError,
    InvalidInputError,
    InvalidParameterError,
    MissingDependencyError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sae_features.featurizer import SAEFeaturizer

INPUT_KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")
OUTPUT_KINDS = (".npz", ".parquet")
DEFAULT_COLUMN = "text"


def read_texts(path: str | Path, column: str | None = None) -> list[str]:
    """Read texts from a file: one per line, or one column of a table.

    Parameters
    ----------
    path : str or Path
        ``.txt`` (a text per line), ``.csv``, ``.tsv`` (with a header) or ``.jsonl`` (an object per
        line); UTF-8.
    column : str, optional
        Column or field; ``"text"`` or the only one when not given.

    Returns
    -------
    list of str
        One per row.

    Raises
    ------
    AssetNotFoundError
        If the file is not there.
    InvalidParameterError
        If the kind of file is unknown or the column does not exist.
    InvalidInputError
        If a row cannot be read; the message names its line.
    """
    place = Path(path)
    kind = place.suffix.lower()
    if kind not in INPUT_KINDS:
        message = f"Got {place.name!r}; expected a file of kind {', '.join(INPUT_KINDS)}."
        raise InvalidParameterError(message)
    if not place.is_file():
        raise AssetNotFoundError(f"Got {str(path)!r}; expected a file there.")
    try:
        text = place.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{place.name} is not UTF-8 (byte {error.start}); convert it first."
        raise InvalidInputError(message) from error
    if kind == ".txt":
        if column is not None:
            raise InvalidParameterError(f"Got column={column!r}; a .txt file has no columns.")
        return text.removesuffix("\n").split("\n") if text else []
    if kind in (".csv", ".tsv"):
        return _read_table(place, text, column, "\t" if kind == ".tsv" else ",")
    return _read_json_lines(place, text, column)


def _read_table(place: Path, text: str, column: str | None, delimiter: str) -> list[str]:
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    header = next(rows, [])
    position = header.index(_choose_column(place, header, column))
    texts = []
    for row in rows:
        if len(row) != len(header):
            message = f"line {rows.line_num}: got {len(row)} fields; expected {len(header)}."
            raise InvalidInputError(f"{place.name}, {message}")
        texts.append(row[position])
    return texts


def _read_json_lines(place: Path, text: str, column: str | None) -> list[str]:
    texts = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInputError(f"{place.name}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidInputError(f"{place.name}, line {number}: expected a JSON object.")
        if number == 1:
            column = _choose_column(place, list(row), column)
        value = row.get(column)
        if not isinstance(value, str):
            message = f"{place.name}, line {number}: got {column}={value!r}; expected a text."
            raise InvalidInputError(message)
        texts.append(value)
    return texts


def _choose_column(place: Path, columns: list[str], column: str | None) -> str:
    if column is None:
        column = columns[0] if len(columns) == 1 else DEFAULT_COLUMN
    if column not in columns:
        message = f"{place.name} has no column {column!r}; choose one of {', '.join(columns)}."
        raise InvalidParameterError(message)
    return column


def check_output(path: str | Path) -> Path:
    """Return the path if features can be written there.

    Raises
    ------
    InvalidParameterError
        If the kind of file is unknown or its folder does not exist.
    MissingDependencyError
        If it needs a package that is not installed.
    """
    place = Path(path)
    if place.suffix.lower() not in OUTPUT_KINDS:
        message = f"Got {place.name!r}; expected a file of kind {' or '.join(OUTPUT_KINDS)}."
        raise InvalidParameterError(message)
    if not place.parent.is_dir():
        raise InvalidParameterError(f"The folder {str(place.parent)!r} does not exist; create it first.")
    if place.suffix.lower() == ".parquet":
        _pyarrow()
    return place


def provenance_of(featurizer: SAEFeaturizer, **more: Any) -> dict[str, Any]:
    """Return how features were made, as plain JSON values.

    Parameters
    ----------
    featurizer : SAEFeaturizer
        Fitted.
    **more
        What else to say.
    """
    packages = ("torch", "transformers", "scikit-learn", "numpy", "scipy")
    return more | {
        "sae_features": sae_features.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": {
            name: value if isinstance(value, str | int | float | bool | None) else str(value)
            for name, value in featurizer.get_params().items()
        },
        "model": featurizer.model_,
        "model_digest": featurizer.model_digest_,
        "layer": featurizer.layer_,
        "site": featurizer.site_,
        "sae_digest": featurizer.sae_digest_,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def write_features(path: str | Path, rows: Any, provenance: dict[str, Any]) -> Path:
    """Write sparse rows and their provenance; the file appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        ``.npz`` (which :func:`scipy.sparse.load_npz` reads, too) or ``.parquet`` (columns
        ``indices`` and ``values``, lists; needs ``sae-features[parquet]``).
    rows : csr_matrix or csr_array of shape (n_items, n_features), float32
    provenance : dict
        Plain JSON values.

    Returns
    -------
    Path
    """
    place = check_output(path)
    with _replacing(place) as draft:
        if place.suffix.lower() == ".npz":
            with draft.open("wb") as stream:
                np.savez_compressed(
                    stream,
                    data=rows.data,
                    indices=rows.indices,
                    indptr=rows.indptr,
                    shape=np.array(rows.shape),
                    format=np.array(b"csr"),
                    provenance=np.array(json.dumps(provenance)),
                )
        else:
            _write_parquet(draft, rows, provenance)
    return place


def read_features(path: str | Path) -> tuple[sp.csr_matrix, dict[str, Any]]:
    """Read what :func:`write_features` wrote.

    Parameters
    ----------
    path : str or Path
        ``.npz`` or ``.parquet``.

    Returns
    -------
    rows : csr_matrix of shape (n_items, n_features), float32
    provenance : dict
    """
    place = Path(path)
    if place.suffix.lower() == ".npz":
        with np.load(place, allow_pickle=False) as stored:  # noqa: TID251 pickles are refused
            rows = sp.csr_matrix(
                (stored["data"], stored["indices"], stored["indptr"]), shape=tuple(stored["shape"])
            )
            return rows, json.loads(str(stored["provenance"]))
    pa, pq = _pyarrow()
    table = pq.read_table(place)
    metadata = table.schema.metadata
    columns = [table[name].combine_chunks() for name in ("indices", "values")]
    indices, values = (c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for c in columns)
    shape = (table.num_rows, int(metadata[b"n_features"]))
    rows = sp.csr_matrix(
        (values.flatten().to_numpy(), indices.flatten().to_numpy(), indices.offsets.to_numpy()),
        shape=shape,
    )
    return rows, json.loads(metadata[b"provenance"])


def _write_parquet(path: Path, rows: Any, provenance: dict[str, Any]) -> None:
    pa, pq = _pyarrow()
    offsets = pa.array(rows.indptr.astype(np.int32))
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (rows.indices, rows.data)
    ]
    metadata = {"n_features": str(rows.shape[1]), "provenance": json.dumps(provenance)}
    table = pa.table(columns, names=["indices", "values"]).replace_schema_metadata(metadata)
    pq.write_table(table, path)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        message = 'Parquet needs pyarrow: pip install "sae-features[parquet]", or write .npz.'
        raise MissingDependencyError(message) from error
    return pa, pq


def source_of(path: str | Path, column: str | None) -> dict[str, Any]:
    """Return what identifies an input file: name, digest and column."""
    return {"file": Path(path).name, "sha256": file_sha256(path), "column": column}


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path that takes the place of ``path`` when all went well."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        draft.chmod(0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
