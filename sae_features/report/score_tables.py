"""Tables of scores: kinds of methods and all methods, by data sets or by settings of a transfer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sae_features.report.comparisons import place_names
from sae_features.report.document import Cell, Table
from sae_features.report.intervals import Estimate, score
from sae_features.report.rows import (
    FOLD,
    chosen_by_validation,
    distinct,
    grouped,
    is_transfer,
    kind_name,
    kinds_of,
    metric_name,
    setting_name,
    setting_order,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sae_features.report.rows import Row, Rows

WIDE: Final = 8
"""More data sets than this are the rows of the table of kinds, not its columns."""
LONG: Final = 14
"""Tables with more rows are folded away."""
INTERVALS: Final = (
    "Below each mean is its 95 % interval over folds (corrected resampled t, Nadeau and Bengio 2003)."
)


class Group(NamedTuple):
    """A column of scores."""

    name: str
    rows: list[Row]


def column_groups(rows: Rows) -> list[Group]:
    """Return the columns of a table: data sets; of a transfer, its settings, over all pairs."""
    if is_transfer(rows):
        by_setting = grouped(rows, "setting")
        order = sorted(by_setting, key=lambda key: setting_order(key[0]))
        names = [setting_name(key[0]) or _direction(by_setting[key]) for key in order]
        return [Group(name, by_setting[key]) for name, key in zip(names, order, strict=True)]
    units = grouped(rows, "dataset", "train_on", "test_on")
    names, _ = place_names([here[0] for here in units.values()])
    return [Group(name, here) for name, here in zip(names, units.values(), strict=True)]


def kinds_table(rows: Rows, metric: str, *, is_folded: bool = False) -> Table:
    """Return the scores of each kind of methods, of which validation chooses one in each fold."""
    groups = column_groups(rows)
    kinds = kinds_of(rows)
    by_kind = {kind: [row for row in rows if str(row.get("kind")) == kind] for kind in kinds}
    chosen = {kind: chosen_by_validation(here) for kind, here in by_kind.items()}
    best = [_best_kind(group.rows, kinds) for group in groups]
    cells = [
        [
            score_cell(_of(chosen[kind], group), metric, is_best=kind == best[number])
            for number, group in enumerate(groups)
        ]
        for kind in kinds
    ]
    choices = [
        Cell(_choice(chosen[kind], len({row.get("method") for row in by_kind[kind]}))) for kind in kinds
    ]
    names = [Cell(kind_name(kind)) for kind in kinds]
    means = [_mean_cell(chosen[kind], groups, metric) for kind in kinds]
    columns = [group.name for group in groups]
    if len(groups) > 1 and not is_transfer(rows):
        columns.append("mean")
        cells = [[*line, mean] for line, mean in zip(cells, means, strict=True)]
    what = "pairs and folds" if is_transfer(rows) else "folds"
    title = f"{metric_name(metric)} by kind of methods."
    note = (
        f"Means over {what}. Of each kind, the method counts that has the best validation score in a "
        f"fold. {INTERVALS} ★ marks the kind that validation prefers."
    )
    if len(columns) > WIDE:
        turned = zip(columns, zip(*cells, strict=True), strict=True)
        lines = tuple((Cell(name), *line) for name, line in turned)
        lines = (*lines, (Cell("chosen most often"), *choices))
        head = ("data set", *(name.text for name in names))
        return Table(title, head, lines, note, is_folded)
    lines = tuple(
        (name, *line, choice) for name, line, choice in zip(names, cells, choices, strict=True)
    )
    return Table(title, ("kind", *columns, "chosen most often"), lines, note, is_folded)


def methods_table(rows: Rows, metric: str) -> Table:
    """Return the scores of all methods, those first that have the best mean validation score."""
    groups = column_groups(rows)
    methods = grouped(rows, "method")
    order = sorted(methods, key=lambda key: -_mean(methods[key], "validation"))
    best = [_best(grouped(group.rows, "method")) for group in groups]
    lines = []
    for key in order:
        here = methods[key]
        cells = [
            score_cell(_of(here, group), metric, is_best=key == best[number])
            for number, group in enumerate(groups)
        ]
        if len(groups) > 1 and not is_transfer(rows):
            cells.append(_mean_cell(here, groups, metric))
        active = [row["active"] for row in here if row.get("active") is not None]
        features = f"{sum(active) / len(active):,.0f}" if active else "–"
        validated = _mean(here, "validation")
        inner = Cell(f"{validated:.3f}" if validated >= 0 else "–")
        name, kind = Cell(str(key[0])), Cell(kind_name(here[0].get("kind")))
        lines.append((name, kind, *cells, inner, Cell(features)))
    columns = [group.name for group in groups]
    if len(groups) > 1 and not is_transfer(rows):
        columns.append("mean")
    title = f"{metric_name(metric)} of all {len(lines)} methods."
    note = (
        "Sorted by the validation score: the macro-F1 of folds inside the training parts, by which "
        f"methods are chosen; ★ marks the one that it prefers. {INTERVALS} The last column says how "
        "many features of an item are active."
    )
    if any(here[0].get("kind") == "random_sae" for here in methods.values()):
        note += " random:4096:32, say, is an SAE with random weights, 4,096 latents and an L0 of 32."
    heads = ("method", "kind", *columns, "validation", "active")
    return Table(title, heads, tuple(lines), note, len(lines) > LONG)


def matrix_table(rows: Rows, metric: str, title: str) -> Table:
    """Return the mean scores of a transfer: rows trained on, columns tested on."""
    train = [str(value) for value in distinct(rows, "train_on")]
    test = [str(value) for value in distinct(rows, "test_on")]
    pairs = grouped(rows, "train_on", "test_on")
    lines = tuple((Cell(a), *(score_cell(pairs.get((a, b), []), metric) for b in test)) for a in train)
    title = f"{metric_name(metric)}: {title}."
    note = "Rows: trained on; columns: tested on."
    return Table(title, ("trained on", *test), lines, note, is_folded=True)


def score_cell(rows: Rows, metric: str, *, is_best: bool = False) -> Cell:
    """Return the mean score of rows with its interval."""
    return _cell(score(rows, metric), is_best=is_best)


def interval_text(result: Estimate, *, signed: bool = False) -> str:
    """Return an interval as people read it; empty if there is none.

    Examples
    --------
    >>> interval_text(Estimate(0.9, 0.85, 1.02)), interval_text(Estimate(0.0, -0.1, 0.1), signed=True)
    ('0.850–1.000', '−0.100 to +0.100')
    """
    if result.low is None or result.high is None:
        return ""
    if signed:
        return f"{result.low:+.3f} to {result.high:+.3f}".replace("-", "−")
    return f"{max(result.low, 0):.3f}–{min(result.high, 1):.3f}"  # no score lies beyond


def _cell(result: Estimate | None, *, is_best: bool = False) -> Cell:
    if result is None:
        return Cell("–")
    return Cell(f"{result.mean:.3f}", interval_text(result), is_best)


def _of(rows: Rows, group: Group) -> list[Row]:
    """Return the rows that stand in a column, too."""
    inside = {id(row) for row in group.rows}
    return [row for row in rows if id(row) in inside]


def _mean_cell(rows: Rows, groups: Sequence[Group], metric: str) -> Cell:
    """Return the mean over all columns; a dash if one has no score, as means could not be compared."""
    if any(score(_of(rows, group), metric) is None for group in groups):
        return Cell("–")
    return score_cell(rows, metric)


def _best_kind(rows: Rows, kinds: Sequence[str]) -> str | None:
    chosen = chosen_by_validation(rows, "kind")
    found = _best({(kind,): [row for row in chosen if str(row.get("kind")) == kind] for kind in kinds})
    return None if found is None else found[0]


def _best(groups: dict[tuple[Any, ...], list[Row]]) -> tuple[Any, ...] | None:
    """Return the group with the best mean validation score; None if none has one, or it is alone."""
    means = {key: _mean(rows, "validation") for key, rows in groups.items()}
    best = max(means, key=lambda key: means[key])
    return best if len(means) > 1 and means[best] >= 0 else None


def _mean(rows: Rows, name: str) -> float:
    """Return the mean of a column over the rows that have it; -1 if none has."""
    result = score(rows, name)
    return -1.0 if result is None else result.mean


def _choice(rows: Rows, n_methods: int) -> str:
    """Return which method is chosen most often, and in how many folds."""
    counts = Counter(str(row.get("method")) for row in rows)
    method, n = counts.most_common(1)[0]
    n_folds = len(grouped(rows, *FOLD))
    return method if n_methods == 1 else f"{method} ({n} of {n_folds} folds)"


def _direction(rows: Rows) -> str:
    same = {row.get("train_on") == row.get("test_on") for row in rows}
    return "all pairs" if len(same) > 1 else "same" if same == {True} else "other"
