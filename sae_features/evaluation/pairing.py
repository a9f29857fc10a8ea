"""Rows of two methods side by side: each fold of the one with the same fold of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sae_features.errors import InvalidInputError, InvalidParameterError, expected_one_of
from sae_features.evaluation.cells import (
    FOLD,
    TASK,
    Task,
    described,
    figure_in,
    grouped_by,
    values_of,
    without_controls,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Row = Mapping[str, Any]
    Key = tuple[Any, ...]


class Pair(NamedTuple):
    """A method and the reference on the test items of one fold."""

    figure: float
    """Of the method."""
    reference: float
    """Of the reference."""
    n_train: float
    """Items in the training part."""
    n_test: float
    """Items in the test part."""


class Pairs(NamedTuple):
    """A method and the reference on all folds."""

    tasks: dict[Task, list[Pair]]
    """The folds of each task, where both figures are defined."""
    n_undefined: int
    """Folds where neither is."""


def paired(
    rows: Iterable[Row], *, reference: str, methods: Sequence[str] | None, metric: str
) -> dict[str, Pairs]:
    """Return the folds of each method beside those of a reference; rows of controls are left out.

    Raises
    ------
    InvalidInputError
        If folds are not paired, with what is missing; or the metric is undefined everywhere.
    InvalidParameterError
        If a method is not there, or there is none but the reference.

    Examples
    --------
    >>> rows = [
    ...     {"dataset": "a", "fold": 0, "method": name, "n_train": 8, "n_test": 2, "macro_f1": f1}
    ...     for name, f1 in [("states", 0.5), ("sae", 0.75)]
    ... ]
    >>> found = paired(rows, reference="states", methods=None, metric="macro_f1")
    >>> list(found["sae"].tasks.values())
    [[Pair(figure=0.75, reference=0.5, n_train=8, n_test=2)]]
    """
    by_method = _by_method(rows)
    if reference not in by_method:
        raise InvalidParameterError(expected_one_of("reference", reference, by_method))
    wanted = [name for name in by_method if name != reference] if methods is None else list(methods)
    for name in wanted:
        if name not in by_method:
            raise InvalidParameterError(expected_one_of("methods", name, by_method))
    if not wanted or reference in wanted:
        message = (
            f"Got methods={wanted} and reference={reference!r}; expected at least one other method."
        )
        raise InvalidParameterError(message)
    _check_folds({name: by_method[name] for name in wanted}, by_method[reference], reference)
    return {name: _pairs(by_method[name], by_method[reference], metric) for name in wanted}


def _by_method(rows: Iterable[Row]) -> dict[str, dict[Key, Row]]:
    """Return the row of each fold by method."""
    found: dict[str, dict[Key, Row]] = {}
    for (name, *key), group in grouped_by(without_controls(rows), ("method", *FOLD)).items():
        if len(group) > 1:
            message = (
                f"Got {len(group)} rows of method {name!r} for {described(FOLD, key)}; expected one. "
                "Keep the rows of one classifier, or of one run."
            )
            raise InvalidInputError(message)
        found.setdefault(str(name), {})[tuple(key)] = group[0]
    return found


def _check_folds(
    methods: Mapping[str, Mapping[Key, Row]], of_reference: Mapping[Key, Row], reference: str
) -> None:
    """Raise, naming what is missing, unless methods and reference have the same folds."""
    gaps = []
    for name, of_method in methods.items():
        both = ((name, of_method, reference, of_reference), (reference, of_reference, name, of_method))
        for one, its_folds, other, folds in both:
            if lacking := [key for key in folds if key not in its_folds]:
                gaps.append(
                    f"{one!r} lacks {len(lacking)} of the {len(folds)} folds of {other!r}, the first "
                    f"with {described(FOLD, lacking[0])}"
                )
    if gaps:
        more = f"; and {len(gaps) - 3} more such" if len(gaps) > 3 else ""
        message = (
            f"Got folds that are not paired: {'; '.join(gaps[:3])}{more}. Expected the same folds for "
            "all: run what is missing, or keep the rows of tasks that all have."
        )
        raise InvalidInputError(message)


def _pairs(of_method: Mapping[Key, Row], of_reference: Mapping[Key, Row], metric: str) -> Pairs:
    tasks: dict[Task, list[Pair]] = {}
    for key, row in of_method.items():
        pair = _pair(row, of_reference[key], metric)
        if pair is not None:
            tasks.setdefault(Task(*key[: len(TASK)]), []).append(pair)
    if not tasks:
        raise InvalidInputError(f"Got no fold in which {metric} is defined; expected another metric.")
    return Pairs(tasks, len(of_method) - sum(map(len, tasks.values())))


def _pair(row: Row, other: Row, metric: str) -> Pair | None:
    """Return the figures of a fold, None where both are undefined."""
    where = described(FOLD, values_of(row, FOLD))
    if row.get("n_test") is None or row.get("n_train") is None or row["n_test"] != other.get("n_test"):
        message = (
            f"Got n_train={row.get('n_train')}, n_test={row.get('n_test')} of {row['method']!r} and "
            f"n_test={other.get('n_test')} of {other['method']!r} for {where}; expected the same items."
        )
        raise InvalidInputError(message)
    figure, of_other = figure_in(row, metric), figure_in(other, metric)
    if figure is None and of_other is None:
        return None
    if figure is None or of_other is None:
        lacking = row["method"] if figure is None else other["method"]
        message = f"Got no {metric} of {lacking!r} for {where}; expected it of both methods or of none."
        raise InvalidInputError(message)
    return Pair(figure, of_other, row["n_train"], row["n_test"])
