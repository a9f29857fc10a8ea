"""Labelled items from files: tables, folders of images, data sets of the Hugging Face hub."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sae_features.errors import (
    AssetNotFoundError,
    InvalidInputError,
    InvalidParameterError,
    MissingDependencyError,
    expected_one_of,
)
from sae_features.evaluation.labelled import SPLITS, LabelledItems, as_text
from sae_features.input_files import (
    IMAGE_KINDS,
    check_fields,
    json_rows,
    read_items,
    separator_hint,
    source_of,
    table_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TABLE_KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
HUB = "hub:"
"""What stands before the name of a data set of the hub, and after it, maybe, ``:config``."""

Row = tuple[str, dict[str, Any]]
"""Where a row stands, and what is in it."""


class Columns(NamedTuple):
    """Which column holds what."""

    text: str = "text"
    """Texts, or paths of images relative to the table."""
    label: str = "label"
    """Labels."""
    group: str | None = None
    """What stays on one side of every split."""
    split: str | None = None
    """``train`` or ``test``."""


def read_labelled(
    path: str | Path,
    *,
    columns: Columns | Mapping[str, str] | None = None,
    where: Mapping[str, Any] | None = None,
    rename: Mapping[str, str] | None = None,
    name: str | None = None,
) -> LabelledItems:
    """Read labelled items.

    Parameters
    ----------
    path : str or Path
        One of

        * a table: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``;
        * a folder with such tables called ``train`` and ``test``;
        * a folder of images, whose folders are the labels, below ``train`` and ``test`` if it has those;
        * ``hub:owner/name`` or ``hub:owner/name:config``, a data set of the Hugging Face hub.
    columns : Columns or mapping, optional
        Which column holds what: ``text``, ``label``, ``group``, ``split``.
    where : mapping, optional
        Values that rows must have, by column; others are left out.
    rename : mapping, optional
        What labels shall be called, by what they are called; others stay.
    name : str, optional
        What results call the data; as the file or folder, if not given.

    Returns
    -------
    LabelledItems

    Raises
    ------
    AssetNotFoundError
        If nothing is there.
    InvalidParameterError
        If the kind of file is not known, or a column does not exist.
    InvalidInputError
        If a row cannot be read, or none is left; the message names it.
    MissingDependencyError
        If pyarrow (``.parquet``) or datasets (``hub:``) is needed and not installed.
    """
    named = columns if isinstance(columns, Columns) else _columns_of(columns or {})
    _check_request(path, where, rename)
    if str(path).startswith(HUB):
        title = str(path).removeprefix(HUB)
        rows, has_split = _of_hub(title)
        if has_split and named.split is None:
            named = named._replace(split="split")
        data = _labelled(rows, named, where, name=name or title, source={"hub": title})
        return _renamed(data, rename)
    place = Path(path).expanduser()
    title = name or place.resolve().name.removesuffix(place.suffix)
    if place.is_dir():
        tables = {side: table for side in SPLITS if (table := _table_called(place, side)) is not None}
        if tables:
            return _renamed(_of_tables(tables, named, where, name=title, folder=place), rename)
        if columns or where:
            message = f"Got {'columns' if columns else 'where'} with the folder {title}, which has no "
            message += f"tables {' and '.join(SPLITS)}; images have no columns."
            raise InvalidParameterError(message)
        return _renamed(_of_images(place, title), rename)
    if place.suffix.lower() not in TABLE_KINDS:
        message = f"Got {place.name!r}; expected a folder, or a table of kind {', '.join(TABLE_KINDS)}."
        raise InvalidParameterError(message)
    if not place.is_file():
        raise AssetNotFoundError(f"Got {str(path)!r}; expected a file there.{_near_name(place)}")
    source = _file_of(place)
    data = _labelled(list(_rows(place)), named, where, name=title, source=source, folder=place.parent)
    return _renamed(data, rename)


def _near_name(place: Path) -> str:
    """Return which table beside a missing one has a name like it, or nothing."""
    beside = place.parent.iterdir() if place.parent.is_dir() else ()
    tables = [each.name for each in beside if each.suffix.lower() in TABLE_KINDS]
    close = get_close_matches(place.name, sorted(tables), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _check_request(path: Any, where: Any, rename: Any) -> None:
    if not isinstance(path, str | Path):
        raise InvalidParameterError(f"Got path={path!r}; expected a file, a folder, or {HUB}NAME.")
    for option, table in (("where", where), ("rename", rename)):
        if not isinstance(table or {}, Mapping):
            raise InvalidParameterError(f"Got {option}={table!r}; expected values by name.")


def _of_tables(
    tables: Mapping[str, Path],
    columns: Columns,
    where: Mapping[str, Any] | None,
    *,
    name: str,
    folder: Path,
) -> LabelledItems:
    """Return what the tables of a folder hold, by the side of the split that each is of."""
    if len(tables) < len(SPLITS):
        (found,) = tables.values()
        message = f"{name} has {found.name} alone; expected tables {' and '.join(SPLITS)}, or the path "
        message += "of the file."
        raise InvalidInputError(message)
    rows = [
        (f"{table.name}, {at}", row | {"split": side})
        for side, table in tables.items()
        for at, row in _rows(table)
    ]
    source = {side: _file_of(table) for side, table in tables.items()}
    own = columns._replace(split="split")
    return _labelled(rows, own, where, name=name, source=source, folder=folder)


def _columns_of(given: Mapping[str, str]) -> Columns:
    for name in given:
        if name not in Columns._fields:
            raise InvalidParameterError(expected_one_of("column", name, Columns._fields))
    return Columns(**given)


def _labelled(
    rows: list[Row],
    columns: Columns,
    where: Mapping[str, Any] | None,
    *,
    name: str,
    source: Mapping[str, Any],
    folder: Path | None = None,
) -> LabelledItems:
    """Return what rows hold."""
    if rows:
        for field, column in [*columns._asdict().items(), *(("where", name) for name in where or {})]:
            if column is not None and column not in rows[0][1]:
                message = f"{name}: {expected_one_of(f'{field} column', column, rows[0][1])}"
                raise InvalidParameterError(message + separator_hint(list(rows[0][1])))
    kept = [
        (at, row) for at, row in rows if all(str(row.get(k)) == str(v) for k, v in (where or {}).items())
    ]
    if not kept:
        found = f"none of its {len(rows):,} rows has {dict(where or {})}" if rows else "it has no rows"
        raise InvalidInputError(f"{name}: {found}.")
    parts: dict[str, list[Any]] = {
        field: [_field(at, row, column, name) for at, row in kept]
        for field, column in columns._asdict().items()
        if column is not None
    }
    items = parts.pop("text")
    for number, (at, _) in enumerate(kept):
        if not isinstance(items[number], str):
            message = f"{name}, {at}: got {columns.text}={items[number]!r}; expected a text."
            raise InvalidInputError(message)
        for field, values in parts.items():
            values[number] = as_text(values[number], f"{name}: {getattr(columns, field)}", f"of {at}")
    if folder is not None and all(Path(item).suffix.lower() in IMAGE_KINDS for item in items[:100]):
        items = [folder / item for item in items]
    said = {field: column for field, column in columns._asdict().items() if column is not None}
    source = {**source, "columns": said}
    return LabelledItems(name, items, parts["label"], parts.get("group"), parts.get("split"), source)


def _file_of(place: Path) -> dict[str, Any]:
    """Return what identifies a table, or a folder of images."""
    found = source_of(place, None)
    return {key: value for key, value in found.items() if key not in {"column", "images"}}


def _field(at: str, row: Mapping[str, Any], column: str, name: str) -> Any:
    value = row.get(column)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise InvalidInputError(f"{name}, {at}: {column} is missing; fill it in, or leave the row out.")
    return value


def _renamed(data: LabelledItems, rename: Mapping[str, str] | None) -> LabelledItems:
    if not rename:
        return data
    unknown = sorted(set(map(str, rename)) - set(data.classes))
    if unknown:
        raise InvalidParameterError(f"{data.name}: {expected_one_of('label', unknown[0], data.classes)}")
    names = {str(old): str(new) for old, new in rename.items()}
    labels = [names.get(label, label) for label in data.labels]
    return LabelledItems(data.name, data.items, labels, data.groups, data.split, data.source)


def _table_called(folder: Path, name: str) -> Path | None:
    found = [folder / f"{name}{kind}" for kind in TABLE_KINDS if (folder / f"{name}{kind}").is_file()]
    if len(found) > 1:
        message = f"{folder.name} has {' and '.join(path.name for path in found)}; expected one of them."
        raise InvalidInputError(message)
    return found[0] if found else None


def _rows(place: Path) -> Iterator[Row]:
    """Yield the rows of a table."""
    kind = place.suffix.lower()
    if kind == ".parquet":
        yield from _rows_of_parquet(place)
        return
    if kind in {".csv", ".tsv"}:
        lines = table_rows(place, "\t" if kind == ".tsv" else ",")
        _, header = next(lines, (1, []))
        if twice := [name for name, count in Counter(header).items() if name and count > 1]:
            message = f"{place.name} has several columns {twice[0]!r}; rename all but one."
            raise InvalidInputError(message)
        for number, values in lines:
            check_fields(place, number, values, header)
            yield f"line {number}", dict(zip(header, values, strict=True))
        return
    for number, row in json_rows(place):
        yield f"line {number}", row


def _rows_of_parquet(place: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        message = f'{place.name} needs pyarrow; install it with `pip install "sae-features[parquet]"`.'
        raise MissingDependencyError(message) from error
    try:
        table = pq.read_table(place)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"{place.name} is damaged or no Parquet: {error}.") from error
    for number, row in enumerate(table.to_pylist()):
        yield f"row {number}", row


def _of_hub(title: str) -> tuple[list[Row], bool]:
    """Return the rows of a data set of the hub, and whether they are split into train and test."""
    try:
        import datasets
    except ImportError as error:
        message = f"{HUB}{title} needs datasets; install it with `pip install datasets`."
        raise MissingDependencyError(message) from error
    name, _, config = title.partition(":")
    try:
        loaded = datasets.load_dataset(name, config or None)
    except (OSError, ValueError) as error:
        raise AssetNotFoundError(f"Got {HUB}{title}, which cannot be loaded: {error}") from error
    sides = [side for side in SPLITS if side in loaded] or list(loaded)[:1]
    has_split = len(sides) == len(SPLITS)
    rows: list[Row] = []
    for side in sides:
        labels = {
            column: feature.names
            for column, feature in loaded[side].features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        for number, row in enumerate(loaded[side]):
            named = {c: _class_name(names, row[c]) for c, names in labels.items()}
            own = {"split": side} if has_split else {}
            rows.append((f"{side} row {number}", row | named | own))
    return rows, has_split


def _class_name(names: Sequence[str], number: int | None) -> str | None:
    """Return what a label of the hub is called; -1 stands for none."""
    return None if number is None or number < 0 else names[number]


def _of_images(folder: Path, name: str) -> LabelledItems:
    """Return the images of a folder, labelled by the folders that they lie in."""
    paths = read_items(folder)
    parts = [path.relative_to(folder).parts for path in paths]
    loose = next((part[-1] for part in parts if len(part) < 2), None)
    if loose is not None:
        message = f"{name}: {loose!r} lies in no folder; expected a folder for each label."
        raise InvalidInputError(message)
    folders = {part[0] for part in parts}
    sides = {part[0] for part in parts if len(part) > 2 and part[0] in SPLITS}
    has_split = sides == folders == set(SPLITS)
    if sides and not has_split:
        message = (
            f"{name} has the folders {', '.join(sorted(folders))}; expected train and test with a "
            "folder for each label in them, or a folder for each label alone."
        )
        raise InvalidInputError(message)
    return LabelledItems(
        name,
        paths,
        [part[1] if has_split else part[0] for part in parts],
        split=[part[0] for part in parts] if has_split else None,
        source=_file_of(folder),
    )
