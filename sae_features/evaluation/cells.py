"""Rows of results put together: those of one fold, of one task, of one independent unit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from sae_features.errors import InvalidInputError, InvalidParameterError, expected_one_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Row = Mapping[str, Any]


class Task(NamedTuple):
    """What is to be learned and tested: all methods are compared on the same tasks."""

    protocol: str | None
    """``"sweep"``, ``"cross_lingual"`` and so on."""
    dataset: str | None
    """Name of the data set."""
    train_on: str | None
    """Where the training part is from: a language, a model; the data set itself in a sweep."""
    test_on: str | None
    """Where the test part is from."""
    setting: str | None
    """``"zero_shot"``, ``"in_language"`` and so on; None where there is but one."""


TASK = Task._fields
"""Keys of a row that name its task."""
FOLD = (*TASK, "seed", "fold")
"""Keys of a row that name its fold: rows with equal ones were tested on the same items."""


def values_of(row: Row, names: Iterable[str]) -> tuple[Any, ...]:
    """Return values of a row, None where it has none."""
    return tuple(row.get(name) for name in names)


def task_of(row: Row) -> Task:
    """Return the task of a row."""
    return Task(*values_of(row, TASK))


def described(names: Iterable[str], values: Iterable[Any]) -> str:
    """Return ``dataset='a', fold=2``: what a message says of a row, without what is None.

    Examples
    --------
    >>> described(FOLD, ("sweep", "a", "a", "a", None, 0, 2))
    "protocol='sweep', dataset='a', seed=0, fold=2"
    """
    pairs = dict(zip(names, values, strict=True))
    if pairs.get("train_on") == pairs.get("test_on") == pairs.get("dataset"):
        pairs = {name: value for name, value in pairs.items() if name not in {"train_on", "test_on"}}
    return ", ".join(f"{name}={value!r}" for name, value in pairs.items() if value is not None)


def without_controls(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that are no control.

    Raises
    ------
    InvalidInputError
        If none is left.
    """
    kept = [row for row in rows if row.get("control") in {None, "none"}]
    if not kept:
        raise InvalidInputError("Got no rows but controls; expected rows of results.")
    return kept


def figure_in(row: Row, metric: str) -> float | None:
    """Return the figure of a row, None where it is undefined.

    Raises
    ------
    InvalidInputError
        If the row has no such column.
    """
    if metric not in row:
        where = described(("method", *FOLD), values_of(row, ("method", *FOLD)))
        raise InvalidInputError(f"Got a row without {metric!r} ({where}); expected rows of results.")
    value = row[metric]
    return None if value is None or math.isnan(value) else float(value)


def grouped_by(rows: Iterable[Row], names: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows by their values of some keys, both in the order in which they come."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(values_of(row, names), []).append(row)
    return groups


def check_unit(unit: Sequence[str]) -> None:
    """Raise unless a unit is named by keys of a task."""
    for name in unit:
        if name not in TASK:
            raise InvalidParameterError(expected_one_of("unit", name, TASK))
    if not unit or isinstance(unit, str):
        raise InvalidParameterError(f"Got unit={unit!r}; expected a tuple of {', '.join(TASK)}.")


def unit_means(values: Iterable[tuple[Task, float]], unit: Sequence[str]) -> list[float]:
    """Return the mean over the tasks of each unit.

    Examples
    --------
    >>> tasks = [Task("cross_lingual", "hate", a, b, None) for a in ("en", "de") for b in ("en", "de")]
    >>> unit_means(zip(tasks, (0.1, 0.2, 0.3, 0.4)), ("test_on",))
    [0.2, 0.30000000000000004]
    """
    units: dict[tuple[Any, ...], list[float]] = {}
    for task, value in values:
        units.setdefault(tuple(getattr(task, name) for name in unit), []).append(value)
    return [math.fsum(each) / len(each) for each in units.values()]
