"""Known SAEs as rows and as a table to read: what ``sae-features saes`` prints."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from sae_features.errors import InvalidParameterError, expected_one_of
from sae_features.sae_registry import closest_saes, known_saes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sae_features.sae_sources import SAESource

MAX_ROWS: Final = 40
"""With more rows than this, and more than one release, there is one line for each release."""

Row = dict[str, Any]


def list_saes(
    text: str = "",
    *,
    model: str | None = None,
    format: str | None = None,  # noqa: A002
    layer: int | None = None,
) -> list[Row]:
    """Return known SAEs, sorted by id.

    Parameters
    ----------
    text : str, default=""
        Part of the id, in any case.
    model : str, optional
        Alias, repository or TransformerLens name of their model, or part of it.
    format : str, optional
        Name of the files' format.
    layer : int, optional
        Block that they read, counted from 0.

    Returns
    -------
    list of dict
        The fields of :class:`~sae_features.sae_sources.SAESource` by name; ``id`` is ``sae_id``.

    Raises
    ------
    InvalidParameterError
        If no known SAE has that format.
    """
    found = known_saes(model)
    if model is not None and not found:
        found = [source for source in known_saes() if model.lower() in source.model.lower()]
    if format is not None:
        formats = sorted({source.format for source in known_saes() if source.format})
        if format not in formats:
            raise InvalidParameterError(expected_one_of("format", format, formats))
        found = [source for source in found if source.format == format]
    if layer is not None:
        found = [source for source in found if source.layer == layer]
    found = [source for source in found if text.lower() in source.sae_id.lower()]
    return [_row(source) for source in sorted(found, key=lambda source: _natural(source.sae_id))]


def as_text(rows: Sequence[Row], text: str = "") -> str:
    """Return rows as a table: an SAE, or a release if there are many, in each line.

    Parameters
    ----------
    rows : sequence of dict
        What :func:`list_saes` returned.
    text : str, default=""
        What was looked for, to suggest something near where nothing was found.
    """
    if not rows:
        near = " or ".join(repr(sae_id) for sae_id in closest_saes(text)) if text else ""
        hint = f" Did you mean {near}?" if near else " `sae-features saes` without options lists all."
        return f"No known SAE fits.{hint}"
    releases = [(name, list(group)) for name, group in groupby(rows, key=_release)]
    if len(rows) <= MAX_ROWS or len(releases) == 1:
        header = ("id", "model", "layer", "site", "format", "l0", "width")
        return _table(header, map(_cells, rows))
    lines = (_cells_of_release(name, group) for name, group in releases)
    table = _table(("release", "SAEs", "model", "layers", "site", "format"), lines)
    return (
        f"{table}\n\n{len(rows):,} SAEs in {len(releases)} releases. To see those of one: "
        f"sae-features saes {releases[0][0]}/ (and --layer L); all of them: --json."
    )


def _row(source: SAESource) -> Row:
    values = {field.name: getattr(source, field.name) for field in fields(source)}
    return {"id": values.pop("sae_id"), **values, "facts": dict(source.facts)}


def _cells(row: Row) -> tuple[str, ...]:
    facts = row["facts"]
    values = (
        row["layer"],
        row["site"] or row["hook"],
        row["format"],
        facts.get("l0"),
        facts.get("width"),
    )
    return (row["id"], row["model"], *("" if value is None else str(value) for value in values))


def _cells_of_release(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    layers = sorted({row["layer"] for row in rows if row["layer"] is not None})
    ends = f"{layers[0]}–{layers[-1]}" if len(layers) > 1 else "".join(map(str, layers))
    sites = dict.fromkeys(row["site"] or "other" for row in rows)
    formats = dict.fromkeys(row["format"] or "" for row in rows)
    models = dict.fromkeys(row["model"] for row in rows)
    return name, str(len(rows)), ", ".join(models), ends, ", ".join(sites), ", ".join(formats)


def _release(row: Row) -> str:
    return str(row["id"]).partition("/")[0]


def _table(header: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    cells = [header, *lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _natural(sae_id: str) -> list[tuple[int, str]]:
    """Return a sorting key by which layer 2 goes before layer 10."""
    parts = re.split(r"(\d+)", sae_id)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts if part]
