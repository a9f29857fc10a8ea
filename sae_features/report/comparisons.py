"""Paired differences as plain records: made of rows, or checked where they were made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sae_features.errors import InputTypeError, InvalidInputError
from sae_features.report.intervals import (
    Estimate,
    Folds,
    by_fold,
    estimate,
    mean_of,
    mean_of_units,
    part_sizes,
)
from sae_features.report.rows import UNIT, grouped, setting_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sae_features.report.rows import Rows

COLUMNS: Final = (
    "dataset", "train_on", "test_on", "setting", "method", "reference", "metric", "difference", "low",
    "high", "p", "p_adjusted", "n", "test",
)  # fmt: skip
"""Keys of a record in the order in which they are listed; others follow."""


def compare(rows: Rows, others: Rows, metric: str = "macro_f1") -> list[dict[str, Any]]:
    """Return by how much rows are better than others, for each data set or pair of languages.

    Compared are the folds of both; where a fold has several rows, their mean is the fold's.

    Parameters
    ----------
    rows, others : sequence of mapping
        Of a method and of what it is compared with.
    metric : str, default="macro_f1"
        Which score.

    Returns
    -------
    list of dict
        ``dataset``, ``train_on``, ``test_on``, ``setting``, ``metric``, ``difference``, the ends ``low``
        and ``high`` of its 95 % corrected resampled t interval, the ``p`` value of that test (None of a
        single fold), and ``n``, the number of folds.

    Examples
    --------
    >>> rows = [{"dataset": "a", "fold": i, "macro_f1": x} for i, x in enumerate([0.8, 0.7, 0.9])]
    >>> others = [row | {"macro_f1": 0.75} for row in rows]
    >>> record = compare(rows, others)[0]
    >>> round(record["difference"], 2), record["n"], round(record["p"], 3)
    (0.05, 3, 0.478)
    """
    ours = grouped(rows, *UNIT)
    records = []
    for unit, differences in _differences(rows, others, metric).items():
        result = estimate(list(differences.values()), part_sizes(ours[unit]))
        records.append(dict(zip(UNIT, unit, strict=True)) | _as_record(result, metric))
    return records


def compare_overall(rows: Rows, others: Rows, metric: str = "macro_f1") -> dict[str, Any] | None:
    """Return the mean difference over data sets and pairs of languages, as :func:`compare` returns one.

    Pairs are averaged within each fold; data sets are independent. None if the two share no folds.
    """
    of_sets: dict[Any, list[Folds]] = {}
    for unit, differences in _differences(rows, others, metric).items():
        of_sets.setdefault(unit[0], []).append(differences)
    if not of_sets:
        return None
    by_set = grouped(rows, "dataset")
    parts = [
        estimate(list(mean_of_units(units).values()), part_sizes(by_set[(name,)]))
        for name, units in of_sets.items()
    ]
    return _as_record(mean_of(parts), metric)


def checked_comparisons(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Return comparisons as dicts with their keys in order.

    Raises
    ------
    InputTypeError
        If one is no mapping (or has no ``asdict`` or ``_asdict`` that gives one).
    InvalidInputError
        If one has no difference.
    """
    checked = []
    for position, given in enumerate(records):
        record = given
        for name in ("asdict", "_asdict"):
            record = getattr(record, name)() if hasattr(record, name) else record
        if not isinstance(record, Mapping):
            message = f"Got {type(given).__name__} as comparison {position}; expected a dict."
            raise InputTypeError(message)
        if record.get("difference") is None:
            known = ", ".join(map(str, record))
            raise InvalidInputError(f"Got no 'difference' in comparison {position}; it has {known}.")
        names = [name for name in COLUMNS if name in record]
        names += [name for name in record if name not in names]
        checked.append({name: record[name] for name in names})
    return checked


def place_names(records: Iterable[Any]) -> tuple[list[str], str]:
    """Return what data sets, or pairs of languages in them, are called, and the data set of all pairs.

    Examples
    --------
    >>> place_names([{"dataset": "bbc", "train_on": "bbc", "test_on": "bbc"}, {"dataset": "spam"}])
    (['bbc', 'spam'], '')
    >>> place_names([{"dataset": "tweets", "train_on": "en", "test_on": name} for name in ("en", "fr")])
    (['en', 'en → fr'], 'tweets')
    """
    names: list[str] = []
    pairs: list[str | None] = []
    listed = list(records)
    settings = {record.get("setting") for record in listed} - {None, "in_language"}
    for record in listed:
        name, train, test = (record.get(key) for key in ("dataset", "train_on", "test_on"))
        if train is None or test is None or (train == test and name in (train, None)):
            pairs.append(None)
            names.append(str(next((value for value in (name, train, test) if value is not None), "all")))
        else:
            how = f", {setting_name(record.get('setting'))}" if len(settings) > 1 else ""
            pairs.append((str(train) if train == test else f"{train} → {test}") + how)
            names.append("" if name is None else str(name))
    shared = names[0] if None not in pairs and len(set(names)) == 1 else ""
    joined = [
        name if pair is None else pair if shared or not name else f"{name}: {pair}"
        for name, pair in zip(names, pairs, strict=True)
    ]
    return joined, shared


def _differences(rows: Rows, others: Rows, metric: str) -> dict[tuple[Any, ...], Folds]:
    """Return the differences in the folds of both, for each data set or pair of languages."""
    theirs = grouped(others, *UNIT)
    found = {}
    for unit, here in grouped(rows, *UNIT).items():
        a, b = by_fold(here, metric), by_fold(theirs.get(unit, ()), metric)
        differences = {fold: a[fold] - b[fold] for fold in a if fold in b}
        if differences:
            found[unit] = differences
    return found


def _as_record(result: Estimate, metric: str) -> dict[str, Any]:
    return {
        "metric": metric,
        "difference": result.mean,
        "low": result.low,
        "high": result.high,
        "p": result.p,
        "n": result.n,
    }
