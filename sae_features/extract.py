"""Items from a file or a folder in, features to a file out, with their provenance inside."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
import secrets
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

import sae_features
from sae_features import feature_files
from sae_features.assets import file_sha256
from sae_features.errors import (
    AssetNotFoundError,
    InputTypeError,
    InvalidInputError,
    InvalidParameterError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sae_features.featurizer import SAEFeaturizer

INPUT_KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")
IMAGE_KINDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif")
DEFAULT_COLUMN = "text"


def read_items(path: str | Path, column: str | None = None) -> list[Any]:
    """Read what a model takes: texts or paths of images from a file, or the images in a folder.

    Parameters
    ----------
    path : str or Path
        A file, as :func:`read_texts` takes it; or a folder, whose images are taken in the order of
        their names, those in folders inside it, too.
    column : str, optional
        Of a file: column or field.

    Returns
    -------
    list of str or list of Path
        One per row, or per image.

    Raises
    ------
    AssetNotFoundError
        If nothing is there, or the folder has no images.
    InvalidParameterError, InvalidInputError
        As :func:`read_texts`.
    """
    folder = Path(path)
    if not folder.is_dir():
        return list(read_texts(path, column))
    if column is not None:
        raise InvalidParameterError(f"Got column={column!r}; a folder has no columns.")
    images = _images_in(folder)
    if not images:
        message = f"{str(path)!r} has no images; expected files of kind {', '.join(IMAGE_KINDS)}."
        raise AssetNotFoundError(message)
    return list(images)


def _images_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_KINDS]


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
        text = place.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{place.name} is not UTF-8 (byte {error.start}); convert it first."
        raise InvalidInputError(message) from error
    if kind == ".txt":
        if column is not None:
            raise InvalidParameterError(f"Got column={column!r}; a .txt file has no columns.")
        return _lines(text)
    if kind in (".csv", ".tsv"):
        return _read_table(place, text, column, "\t" if kind == ".tsv" else ",")
    return _read_json_lines(place, text, column)


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _read_table(place: Path, text: str, column: str | None, delimiter: str) -> list[str]:
    rows = _table_rows(place, text, delimiter)
    _, header = next(rows, (1, []))
    position = header.index(_choose_column(place, header, column))
    texts = []
    for number, row in rows:
        if len(row) != len(header):
            message = f"line {number}: got {len(row)} fields; expected {len(header)}."
            raise InvalidInputError(f"{place.name}, {message}")
        texts.append(row[position])
    return texts


def _table_rows(place: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Give rows with the lines that they start at; quoted line ends stay as they are."""
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 1
    try:
        for row in rows:
            yield number, row
            number = rows.line_num + 1
    except csv.Error as error:
        raise InvalidInputError(f"{place.name}, line {number}: {error}.") from error


def _read_json_lines(place: Path, text: str, column: str | None) -> list[str]:
    texts = []
    for number, line in enumerate(_lines(text), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
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
    if (count := columns.count(column)) > 1:
        message = f"{place.name} has {count} columns {column!r}; rename all but the one to read."
        raise InvalidInputError(message)
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
    place = _features_path(path)
    if not place.parent.is_dir():
        raise InvalidParameterError(f"The folder {str(place.parent)!r} does not exist; create it first.")
    if place.suffix.lower() == ".parquet":
        feature_files.import_pyarrow()
    return place


def _features_path(path: str | Path) -> Path:
    place = Path(path)
    if place.suffix.lower() not in feature_files.KINDS:
        message = f"Got {place.name!r}; expected a file of kind {' or '.join(feature_files.KINDS)}."
        raise InvalidParameterError(message)
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

    Raises
    ------
    InputTypeError
        If the rows are not CSR of float32.
    """
    place = check_output(path)
    if not isinstance(rows, sp.csr_matrix | sp.csr_array) or rows.dtype != np.float32:
        raise InputTypeError(f"Got {type(rows).__name__}; expected CSR rows of float32.")
    with _replacing(place) as draft:
        feature_files.write(draft, rows, provenance)
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

    Raises
    ------
    AssetNotFoundError
        If the file is not there.
    InvalidInputError
        If it is damaged, or was not written by :func:`write_features`.
    """
    place = _features_path(path)
    if not place.is_file():
        raise AssetNotFoundError(f"Got {str(path)!r}; expected a file there.")
    return feature_files.read(place)


def source_of(path: str | Path, column: str | None) -> dict[str, Any]:
    """Return what identifies an input: name, digest and column; of a folder the images in order, too."""
    place = Path(path)
    if not place.is_dir():
        return {"file": place.name, "sha256": file_sha256(place), "column": column}
    digests = {image.relative_to(place).as_posix(): file_sha256(image) for image in _images_in(place)}
    digest = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    return {"folder": place.resolve().name, "sha256": digest, "images": list(digests)}


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
