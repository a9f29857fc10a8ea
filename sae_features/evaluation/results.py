"""Results: one row per fold, predictions beside them, in files that anyone can read."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import struct
import uuid
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sae_features.errors import AssetNotFoundError, InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

COLUMNS = (
    "protocol", "dataset", "train_on", "test_on", "setting", "method", "kind", "model", "layer", "site",
    "sae", "tokens", "prompt", "max_length", "dtype", "pooling", "threshold", "binarize", "token_top_n",
    "width", "classifier", "control", "seed", "fold", "n_train", "n_test", "n_classes", "active",
    "validation", "accuracy", "macro_f1", "auroc", "chosen", "cell",
)  # fmt: skip
"""Columns of a table of results, in order; what does not apply is empty."""
INTEGERS = (
    "layer",
    "max_length",
    "token_top_n",
    "width",
    "seed",
    "fold",
    "n_train",
    "n_test",
    "n_classes",
)
NUMBERS = ("threshold", "active", "validation", "accuracy", "macro_f1", "auroc")
OF_A_CELL = ("train_on", "test_on", "setting", "seed", "fold")
"""Columns that tell the rows of a cell apart."""
SCHEMA = 1
"""Goes up when the same cell would give other rows."""
CELLS = "cells"
DAMAGE = (
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
"""What reading a damaged archive raises."""


class Predictions(NamedTuple):
    """What a classifier said of the test items of one fold."""

    items: np.ndarray
    """Positions in the data set, int64, (n,)."""
    truth: np.ndarray
    """Numbers of their classes, int64, (n,)."""
    scores: np.ndarray
    """Probabilities, or decision values where there are none, float32, (n, n_classes)."""

    @property
    def predicted(self) -> np.ndarray:
        """Number of the class with the largest score, int64, (n,)."""
        return self.scores.argmax(axis=1)


class Cell(NamedTuple):
    """All folds of one method on one data set: what is computed, kept and found again as a whole."""

    key: str
    """SHA-256 of everything that decides the figures."""
    rows: list[dict[str, Any]]
    """One per fold."""
    predictions: list[Predictions]
    """One per row."""


@dataclass(repr=False)
class Results:
    """A table of results.

    Attributes
    ----------
    rows : list of dict
        One per fold, with :data:`COLUMNS` as keys.
    provenance : dict
        What was run, on what, by which versions, and what was noticed.
    folder : Path, optional
        Where predictions lie.

    Examples
    --------
    >>> results = Results([{"dataset": "a", "macro_f1": 0.5}, {"dataset": "b", "macro_f1": 0.7}])
    >>> [row["macro_f1"] for row in results.where(dataset="b")]
    [0.7]
    """

    rows: list[dict[str, Any]]
    provenance: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    held: dict[str, Cell] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        methods = {row.get("method") for row in self.rows}
        return f"{type(self).__name__}({len(self):,} rows of {len(methods)} methods)"

    def where(self, **values: Any) -> list[dict[str, Any]]:
        """Return the rows that have the values given."""
        return [row for row in self.rows if all(row.get(name) == v for name, v in values.items())]

    def predictions(self, row: Mapping[str, Any]) -> Predictions:
        """Return what was predicted in the fold of a row.

        Raises
        ------
        AssetNotFoundError
            If the file is not there.
        """
        key = str(row.get("cell"))
        cell = self.held.get(key) or (read_cell(self.folder, key) if self.folder else None)
        wanted = [row.get(name) for name in OF_A_CELL]
        within = [[other.get(name) for name in OF_A_CELL] for other in cell.rows] if cell else []
        if cell is None or wanted not in within:
            message = f"The predictions of cell {key[:12]} are not there; run it again."
            raise AssetNotFoundError(message)
        self.held[key] = cell
        return cell.predictions[within.index(wanted)]

    def to_frame(self) -> Any:
        """Return the rows as a pandas DataFrame.

        Raises
        ------
        MissingDependencyError
            If pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-untyped,unused-ignore]
        except ImportError as error:
            message = "A data frame needs pandas; install it with `pip install pandas`."
            raise MissingDependencyError(message) from error
        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def write(self, folder: str | Path) -> Path:
        """Write ``results.csv``, ``provenance.json``, and ``results.parquet`` if pyarrow is installed.

        Predictions are in ``cells/``, where a run has put them.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _as_field(row.get(name)) for name in COLUMNS} for row in self.rows)
        write_whole(place / "results.csv", stream.getvalue().encode())
        provenance = json.dumps(
            self.provenance, indent=2, sort_keys=True, ensure_ascii=False, default=_plain
        )
        write_whole(place / "provenance.json", provenance.encode())
        for key in dict.fromkeys(row["cell"] for row in self.rows if row.get("cell")):
            cell = self.held.get(key) or (read_cell(self.folder, key) if self.folder else None)
            if cell is not None and not cell_file(place, key).exists():
                write_cell(place, cell)
        self.folder = place
        self._write_parquet(place / "results.parquet")
        return place

    def _write_parquet(self, path: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            path.unlink(missing_ok=True)  # an older one would say something else than the table
            return
        columns = {}
        for name in COLUMNS:
            values = [row.get(name) for row in self.rows]
            kind = pa.int64() if name in INTEGERS else pa.float64() if name in NUMBERS else pa.string()
            if name == "binarize":
                kind = pa.bool_()
            elif name == "chosen":
                values = [_as_field(value) or None for value in values]
            columns[name] = pa.array(values, kind)
        sink = io.BytesIO()
        pq.write_table(pa.table(columns), sink)
        write_whole(path, sink.getvalue())

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read what :meth:`write` wrote.

        Raises
        ------
        AssetNotFoundError
            If there is no ``results.csv``.
        InvalidInputError
            If it is not such a table.
        """
        place = Path(folder)
        table = place / "results.csv"
        if not table.is_file():
            raise AssetNotFoundError(f"Got {str(folder)!r}; expected a folder with results.csv in it.")
        try:
            with table.open(encoding="utf-8", newline="") as stream:
                reader = csv.DictReader(stream, strict=True)
                lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
                if lacking:
                    message = f"{table} has no column {lacking[0]!r}; expected a table of results."
                    raise InvalidInputError(message)
                rows = [{name: _of_field(name, row[name]) for name in COLUMNS} for row in reader]
        except (csv.Error, UnicodeDecodeError, ValueError, TypeError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(f"{table} is damaged: {error}.") from error
        about = place / "provenance.json"
        try:
            provenance = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        except ValueError as error:
            raise InvalidInputError(f"{about} is not JSON: {error}.") from error
        return cls(rows, provenance, place)


def key_of(parts: Mapping[str, Any]) -> str:
    """Return the key of a cell: SHA-256 of its parts as canonical JSON, and of the schema."""
    text = json.dumps({"schema": SCHEMA, **parts}, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def cell_file(folder: Path, key: str) -> Path:
    """Return where a cell is kept."""
    return folder / CELLS / f"{key[:32]}.npz"


def write_cell(folder: Path, cell: Cell) -> None:
    """Keep a cell: rows and predictions in one file, written as a whole."""
    arrays = {
        f"{name}_{i}": getattr(found, name)
        for i, found in enumerate(cell.predictions)
        for name in Predictions._fields
    }
    about = json.dumps({"key": cell.key, "rows": cell.rows}, default=_plain).encode()
    stream = io.BytesIO()
    np.savez_compressed(stream, about=np.frombuffer(about, np.uint8), **arrays)
    path = cell_file(folder, cell.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, stream.getvalue())


def read_cell(folder: Path, key: str) -> Cell | None:
    """Return a cell that was kept, or None where there is none, or it is damaged."""
    path = cell_file(folder, key)
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # all is checked before any of it is understood
                return None
        with np.load(path, allow_pickle=False) as stored:  # noqa: TID251 no pickles
            about = json.loads(stored["about"].tobytes())
            if about["key"] != key:
                return None
            predictions = [
                Predictions(*(stored[f"{name}_{i}"] for name in Predictions._fields))
                for i in range(len(about["rows"]))
            ]
    except DAMAGE:
        return None  # computed again
    return Cell(key, about["rows"], predictions)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with draft.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def gather(cells: Iterable[Cell], folder: Path | None, provenance: dict[str, Any]) -> Results:
    """Return the results of cells; without a folder, their predictions are held in memory."""
    rows: list[dict[str, Any]] = []
    held: dict[str, Cell] = {}
    for cell in cells:
        rows += [{name: row.get(name) for name in COLUMNS} for row in cell.rows]
        if folder is None:
            held[cell.key] = cell
    return Results(rows, provenance, folder, held)


def _as_field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, sort_keys=True, default=_plain) if isinstance(value, dict) else str(value)


def _plain(value: Any) -> Any:
    """Return a number of numpy as JSON takes it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Got {type(value).__name__}; expected a plain value.")


def _of_field(name: str, text: str) -> Any:
    if text == "":
        return None
    if name in INTEGERS:
        return int(text)
    if name in NUMBERS:
        return float(text)
    if name == "binarize":
        return text == "true"
    return json.loads(text) if name == "chosen" else text
