"""Tables of paired differences: SAE features against baselines, or comparisons made elsewhere."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sae_features.report.comparisons import compare, compare_overall, place_names
from sae_features.report.document import Cell, Table, Text, shown
from sae_features.report.intervals import Estimate
from sae_features.report.rows import (
    UNIT,
    is_transfer,
    kind_name,
    kinds_of,
    metric_name,
    of_method,
    shown_name,
)
from sae_features.report.score_tables import LONG, Group, column_groups, interval_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_features.report.document import Block
    from sae_features.report.rows import Row, Rows

MANY: Final = 40
"""Comparisons from elsewhere are folded away if there are more."""
ENOUGH: Final = 6
"""Data sets from which on Wilcoxon's test can find anything."""
HEADS: Final = {"p_adjusted": "p, adjusted", "n": "folds"}


class _Compared(NamedTuple):
    """What SAE features are compared with, and by how much they are better."""

    kind: str
    setting: str
    mean: dict[str, Any]
    records: list[dict[str, Any]]
    """What it is the mean of: data sets, or pairs of languages."""


def difference_blocks(rows: Rows, metric: str) -> list[Block]:
    """Return what is said of SAE features against each other kind of methods; nothing without either."""
    references = [kind for kind in kinds_of(rows) if kind not in {"sae", "chance"}]
    if "sae" not in kinds_of(rows) or not references:
        return []
    groups = column_groups(rows) if is_transfer(rows) else [Group("", list(rows))]
    overall: list[_Compared] = []
    for group, kind in itertools.product(groups, references):
        here = kinds_of(group.rows)
        if "sae" in here and kind in here:
            ours, theirs = of_method(group.rows, "sae"), of_method(group.rows, kind)
            mean = compare_overall(ours, theirs, metric)
            if mean is not None:
                overall.append(_Compared(kind, group.name, mean, compare(ours, theirs, metric)))
    if not overall:
        return []
    told = Text(
        "Positive differences are in favour of SAE features. Of each kind of methods, the one counts "
        "that has the best validation score in a fold; compared are scores of the same folds. Intervals "
        "and p are of the corrected resampled t test (Nadeau and Bengio 2003). Adjusted p, by Holm's "
        "method, are for all the tests in a table, intervals each for itself: one without 0 may stand "
        "beside an adjusted p above .05."
    )
    blocks: list[Block] = [told, _summary(overall, metric)]
    if any(len(each.records) > 1 for each in overall):
        blocks.append(_each_place(overall, metric))
    return blocks


def record_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return comparisons that were made elsewhere as a table, with all that they say."""
    names, _ = place_names(records)
    columns = list(dict.fromkeys(name for record in records for name in record))
    places = [name for name in ("dataset", "train_on", "test_on", "setting") if name in columns]
    others = [name for name in columns if name not in {*places, "low", "high"}]
    lines = tuple(
        (Cell(name), *(_record_cell(record, column) for column in others))
        for name, record in zip(names, records, strict=True)
    )
    heads = [HEADS.get(name, name.replace("_", " ")) for name in others]
    title = "Comparisons, with 95 % intervals where they are known."
    return Table(title, ("where", *heads), lines, is_folded=len(lines) > MANY)


def difference_cell(record: Mapping[str, Any]) -> Cell:
    """Return a difference with its interval."""
    result = Estimate(record["difference"], record.get("low"), record.get("high"))
    return Cell(f"{result.mean:+.3f}".replace("-", "−"), interval_text(result, signed=True))


def p_text(p: object) -> str:
    """Return a p value as people read it.

    Examples
    --------
    >>> p_text(0.0004), p_text(0.0312), p_text(None)
    ('< 0.001', '0.031', '–')
    """
    if not isinstance(p, (int, float)) or p != p:  # noqa: PLR0124 NaN
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _summary(overall: Sequence[_Compared], metric: str) -> Table:
    adjusted = _adjusted([each.mean["p"] for each in overall])
    is_of_sets = all(_are_data_sets(each.records) for each in overall)
    with_settings = any(each.setting for each in overall)
    with_ranks = is_of_sets and any(len(each.records) >= ENOUGH for each in overall)
    lines = []
    for each, p in zip(overall, adjusted, strict=True):
        n_better = sum(record["difference"] > 0 for record in each.records)
        cells = [Cell(kind_name(each.kind)), *([Cell(each.setting)] if with_settings else [])]
        cells += [difference_cell(each.mean), Cell(p_text(each.mean["p"])), Cell(p_text(p))]
        cells += [Cell(f"{n_better} of {len(each.records)}")]
        lines.append((*cells, *([Cell(_ranks(each.records))] if with_ranks else [])))
    heads = ["SAE features minus", *(["setting"] if with_settings else []), "mean difference", "p"]
    heads += [HEADS["p_adjusted"], "better on", *(["p, Wilcoxon over data sets"] if with_ranks else [])]
    what = "data sets" if is_of_sets else "pairs"
    title = f"{metric_name(metric)}: mean difference over {what}."
    return Table(title, tuple(heads), tuple(lines))


def _each_place(overall: Sequence[_Compared], metric: str) -> Table:
    """Return a row for each data set or pair of languages, a column for each kind."""
    found = [(each.kind, record) for each in overall for record in each.records]
    adjusted = _adjusted([record["p"] for _, record in found])
    places: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    cells: dict[tuple[str, tuple[Any, ...]], Cell] = {}
    for (kind, record), p in zip(found, adjusted, strict=True):
        places.setdefault(_place(record), record)
        difference = difference_cell(record)
        note = f"{difference.note}; p {p_text(p)}" if difference.note else ""
        cells[kind, _place(record)] = Cell(difference.text, note)
    names, shared = place_names(places.values())
    kinds = list(dict.fromkeys(each.kind for each in overall))
    lines = tuple(
        (Cell(name), *(cells.get((kind, place), Cell("–")) for kind in kinds))
        for name, place in zip(names, places, strict=True)
    )
    what = f"each pair of {shared}" if shared else "each data set"
    title = f"{metric_name(metric)}: SAE features minus each other kind, {what} by itself."
    heads = ("where", *map(kind_name, kinds))
    return Table(title, heads, lines, "Intervals, and adjusted p.", len(lines) > LONG)


def _place(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in UNIT)


def _are_data_sets(records: Sequence[Row]) -> bool:
    return len({record.get("dataset") for record in records}) == len(records)


def _ranks(records: Sequence[Mapping[str, Any]]) -> str:
    from sae_features.evaluation.significance import wilcoxon

    if len(records) < ENOUGH:
        return "–"
    return p_text(wilcoxon([record["difference"] for record in records]).p)


def _adjusted(p_values: Sequence[float | None]) -> list[float]:
    from sae_features.evaluation.significance import adjust

    return [float(p) for p in adjust([float("nan") if p is None else p for p in p_values])]


def _record_cell(record: Mapping[str, Any], column: str) -> Cell:
    value = record.get(column)
    if column == "difference":
        return difference_cell(record)
    if column.startswith("p") and column in {"p", "p_adjusted", "p_value"}:
        return Cell(p_text(value))
    if column in {"method", "reference"} and value is not None:
        return Cell(shown_name(str(value)))
    return Cell(metric_name(str(value)) if column == "metric" and value else shown(value))
