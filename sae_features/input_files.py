"""Items from a file or a folder, one by one: no file is held in memory."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.assets import file_sha256
from sae_features.errors import AssetNotFoundError, InvalidInputError, InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator

INPUT_KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")
IMAGE_KINDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif")
DEFAULT_COLUMN = "text"
LONGEST_FIELD = 2**28
"""Characters in a field of a table; a quote that is never closed must not take all memory."""
BLOCK = 1 << 20

_field_limit = threading.Lock()


def iter_items(path: str | Path, column: str | None = None) -> Iterator[Any]:
    """Yield what :func:`read_items` returns, one by one.

    What is wrong with the place or the kind of file is raised at once, what is wrong with a row when
    it is reached.

    Parameters
    ----------
    path : str or Path
        A file or folder, as :func:`read_items` takes it.
    column : str, optional
        Of a file: column or field.

    Returns
    -------
    iterator of str or of Path
    """
    folder = Path(path)
    if not folder.is_dir():
        return _iter_texts(path, column)
    if column is not None:
        raise InvalidParameterError(f"Got column={column!r}; a folder has no columns.")
    if next(_images_in(folder), None) is None:
        message = f"{str(path)!r} has no images; expected files of kind {', '.join(IMAGE_KINDS)}."
        raise AssetNotFoundError(message)
    return _images_in(folder)


def count_items(path: str | Path, column: str | None = None) -> int:
    """Return how many items there are; every row is read and checked for it.

    Parameters
    ----------
    path, column
        As :func:`read_items` takes them, with the same errors.
    """
    return sum(1 for _ in iter_items(path, column))


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
    return list(iter_items(path, column))


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
    return list(_iter_texts(path, column))


def source_of(path: str | Path, column: str | None) -> dict[str, Any]:
    """Return what identifies an input: name, digest and column; of a folder the images in order, too."""
    place = Path(path)
    if not place.is_dir():
        return {"file": place.name, "sha256": file_sha256(place), "column": column}
    digests = {image.relative_to(place).as_posix(): file_sha256(image) for image in _images_in(place)}
    digest = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    return {"folder": place.resolve().name, "sha256": digest, "images": list(digests)}


def _images_in(folder: Path) -> Iterator[Path]:
    """Yield the images in the order of their paths; only the names in one folder are held at a time."""
    with os.scandir(folder) as entries:
        names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in names:
        path = folder / name
        if is_folder:
            yield from _images_in(path)
        elif path.suffix.lower() in IMAGE_KINDS:
            yield path


def _iter_texts(path: str | Path, column: str | None) -> Iterator[str]:
    place = Path(path)
    kind = place.suffix.lower()
    if kind not in INPUT_KINDS:
        message = f"Got {place.name!r}; expected a file of kind {', '.join(INPUT_KINDS)}."
        raise InvalidParameterError(message)
    if not place.is_file():
        raise AssetNotFoundError(f"Got {str(path)!r}; expected a file there.")
    if kind == ".txt":
        if column is not None:
            raise InvalidParameterError(f"Got column={column!r}; a .txt file has no columns.")
        return _lines(place)
    if kind in (".csv", ".tsv"):
        return _table_column(place, column, "\t" if kind == ".tsv" else ",")
    return _json_column(place, column)


@contextmanager
def _opened(place: Path, newline: str) -> Iterator[io.TextIOWrapper]:
    """Give a file of UTF-8 as text, without a BOM; bytes that are not UTF-8 are named."""
    with place.open("rb") as binary:
        if binary.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            binary.seek(0)
        try:
            yield io.TextIOWrapper(binary, "utf-8", newline=newline)
        except UnicodeDecodeError as error:
            message = f"{place.name} is not UTF-8 (byte {_first_bad_byte(place)}); convert it first."
            raise InvalidInputError(message) from error


def _first_bad_byte(place: Path) -> int:
    """Return where in a file UTF-8 ends; the error itself counts from the start of some block."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    with place.open("rb") as stream:
        while True:
            block = stream.read(BLOCK)
            held, _ = decoder.getstate()
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return position - len(held) + error.start
            if not block:
                raise InvalidInputError(f"{place.name} changed while it was read; run again.")
            position += len(block)


def _lines(place: Path) -> Iterator[str]:
    r"""Yield lines without their ends, ``\n`` or ``\r\n``; no other character ends one."""
    with _opened(place, newline="\n") as stream:
        for line in stream:
            yield line.removesuffix("\r\n").removesuffix("\n")


def _table_column(place: Path, column: str | None, delimiter: str) -> Iterator[str]:
    rows = table_rows(place, delimiter)
    _, header = next(rows, (1, []))
    position = header.index(choose_column(place, header, column))
    for number, row in rows:
        check_fields(place, number, row, header)
        yield row[position]


def check_fields(place: Path, number: int, row: list[str], header: list[str]) -> None:
    """Raise InvalidInputError unless a row has as many fields as the header."""
    if len(row) != len(header):
        message = f"{place.name}, line {number}: got {len(row)} fields; expected {len(header)}."
        raise InvalidInputError(f"{message}{separator_hint(header)}")


def separator_hint(columns: list[str]) -> str:
    """Return what may be wrong with a table that has one column only, or nothing.

    Examples
    --------
    >>> separator_hint(["text;label"]), separator_hint(["text", "label"])
    (" Are its columns separated by ';'? A .csv has commas, a .tsv has tabs.", '')
    """
    separators = [sign for sign in (";", "\t", "|") if len(columns) == 1 and sign in columns[0]]
    if not separators:
        return ""
    return f" Are its columns separated by {separators[0]!r}? A .csv has commas, a .tsv has tabs."


def table_rows(place: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield rows, the header first, with the lines that they start at; quoted line ends stay."""
    with _opened(place, newline="") as stream:
        rows = csv.reader(stream, delimiter=delimiter, strict=True)
        number = 1
        try:
            while (row := _next_row(rows)) is not None:
                yield number, row
                number = rows.line_num + 1
        except csv.Error as error:
            raise InvalidInputError(f"{place.name}, line {number}: {error}.") from error


def _next_row(rows: Iterator[list[str]]) -> list[str] | None:
    """Read a row of long fields; csv has one limit for all of a process, so it is put back each time."""
    with _field_limit:
        limit = csv.field_size_limit()
        try:
            csv.field_size_limit(max(limit, LONGEST_FIELD))
            return next(rows, None)
        finally:
            csv.field_size_limit(limit)


def _json_column(place: Path, column: str | None) -> Iterator[str]:
    chosen: str | None = None
    for number, row in json_rows(place):
        if chosen is None:
            chosen = choose_column(place, list(row), column)
        if chosen not in row:
            has = ", ".join(map(repr, list(row)[:5])) or "nothing"
            message = f"{place.name}, line {number}: has no {chosen!r}; it has {has}."
            raise InvalidInputError(message)
        value = row[chosen]
        if not isinstance(value, str):
            message = f"{place.name}, line {number}: got {chosen}={value!r}; expected a text."
            raise InvalidInputError(message)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            message = (
                f"{place.name}, line {number}: {chosen} has a lone surrogate at character "
                f"{error.start}, which no tokenizer takes; repair it first."
            )
            raise InvalidInputError(message) from None
        yield value


def json_rows(place: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file of one per line, with their lines; blank ones at the end are none."""
    blank = 0
    for number, line in enumerate(_lines(place), 1):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise InvalidInputError(f"{place.name}, line {blank}: not JSON: the line is blank.")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{place.name}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidInputError(f"{place.name}, line {number}: expected a JSON object.")
        yield number, row


def choose_column(place: Path, columns: list[str], column: str | None) -> str:
    """Return the column that is meant: the one named, the only one, or ``text``."""
    if column is None:
        column = columns[0] if len(columns) == 1 else DEFAULT_COLUMN
    if column not in columns:
        message = f"{place.name} has no column {column!r}; choose one of {', '.join(columns)}."
        raise InvalidParameterError(message + separator_hint(columns))
    if (count := columns.count(column)) > 1:
        message = f"{place.name} has {count} columns {column!r}; rename all but the one to read."
        raise InvalidInputError(message)
    return column
