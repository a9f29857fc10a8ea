"""Means of figures over folds and tasks, with what they vary by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.cells import FOLD, TASK, figure_in, grouped_by, without_controls
from sae_features.evaluation.differences import or_none
from sae_features.evaluation.scores import METRICS
from sae_features.evaluation.significance import (
    MeanTest,
    check_level,
    corrected_resampled_t,
    t_of_mean,
)
from sae_features.parameters import check_choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Row = Mapping[str, Any]


class Summary(NamedTuple):
    """The mean of a group of rows."""

    group: dict[str, Any]
    """What the rows have in common."""
    metric: str
    """Of which figure it is the mean."""
    mean: float | None
    """Mean over tasks of their means over folds; None where the figure is undefined in all rows."""
    std: float | None
    """Standard deviation over folds of a task, root mean square over tasks; None of one fold each."""
    low: float | None
    """Lower end of the interval of the mean; None where nothing tells how it varies."""
    high: float | None
    """Upper end."""
    n: int
    """Folds, of all seeds and tasks."""
    n_tasks: int
    """Tasks."""
    n_undefined: int
    """Rows in which the figure is undefined; they were left out."""

    def asdict(self) -> dict[str, Any]:
        """Return one tidy record."""
        return {**self.group, **{k: v for k, v in self._asdict().items() if k != "group"}}


def summarise(
    rows: Iterable[Row],
    by: str | Sequence[str] = ("method",),
    metric: str = "macro_f1",
    *,
    level: float = 0.95,
) -> list[Summary]:
    """Return the mean figure of each group of rows.

    Of one task, the interval is that of a corrected resampled t over folds
    (:func:`~sae_features.evaluation.significance.corrected_resampled_t`); of several, Student's over the
    means of tasks: where the mean of other such tasks may lie.

    Parameters
    ----------
    rows : iterable of mapping
        Rows of results; those of controls are left out unless `by` names ``"control"``.
    by : str or sequence of str, default=("method",)
        Rows that agree in these keys are a group.  Several rows of one fold in a group, as those of
        several methods by ``"kind"``, are averaged first.
    metric : str, default="macro_f1"
        A column of figures: a metric, or ``"validation"``, ``"active"``, ``"width"``.
    level : float, default=0.95
        Of the interval.

    Returns
    -------
    list of Summary
        In the order in which groups come.

    Raises
    ------
    InvalidInputError
        If there are no rows, or one lacks a key.
    InvalidParameterError
        If the metric or the level cannot be.

    Examples
    --------
    >>> rows = [
    ...     {"method": "sae", "dataset": "a", "fold": fold, "n_train": 80, "n_test": 20, "macro_f1": f1}
    ...     for fold, f1 in enumerate([0.7, 0.8, 0.9])
    ... ]
    >>> found, = summarise(rows)
    >>> found.group, round(found.mean, 3), round(found.std, 3), found.n
    ({'method': 'sae'}, 0.8, 0.1, 3)
    """
    check_choice("metric", metric, (*METRICS, "validation", "active", "width"))
    check_level(level)
    names = (by,) if isinstance(by, str) else tuple(by)
    if not names:
        raise InvalidParameterError("Got by=(); expected at least one key, such as 'method'.")
    kept = list(rows) if "control" in names else without_controls(rows)
    if not kept:
        raise InvalidInputError("Got no rows; expected rows of results.")
    for name in names:
        if all(name not in row for row in kept):
            raise InvalidInputError(f"Got rows without {name!r}; expected a column of results in by.")
    return [
        _summary(dict(zip(names, values, strict=True)), group, metric, level)
        for values, group in grouped_by(kept, names).items()
    ]


class _Fold(NamedTuple):
    figure: float
    n_train: float
    n_test: float


def _summary(group: dict[str, Any], rows: Sequence[Row], metric: str, level: float) -> Summary:
    defined = [row for row in rows if figure_in(row, metric) is not None]
    tasks = [
        [_averaged(of_fold, metric) for of_fold in grouped_by(of_task, FOLD).values()]
        for of_task in grouped_by(defined, TASK).values()
    ]
    n_undefined = len(rows) - len(defined)
    if not tasks:
        return Summary(group, metric, None, None, None, None, 0, 0, n_undefined)
    means = [float(np.mean([fold.figure for fold in folds])) for folds in tasks]
    spreads = [
        float(np.var([fold.figure for fold in folds], ddof=1)) for folds in tasks if len(folds) > 1
    ]
    test = t_of_mean(means, level=level) if len(means) > 1 else _of_folds(tasks[0], level)
    return Summary(
        group=group,
        metric=metric,
        mean=math.fsum(means) / len(means),
        std=math.sqrt(float(np.mean(spreads))) if spreads else None,
        low=or_none(test.low) if test else None,
        high=or_none(test.high) if test else None,
        n=sum(map(len, tasks)),
        n_tasks=len(tasks),
        n_undefined=n_undefined,
    )


def _averaged(rows: Sequence[Row], metric: str) -> _Fold:
    """Return the mean figure of the rows of one fold."""
    sizes = [float(rows[0].get(name) or 0) for name in ("n_train", "n_test")]
    return _Fold(float(np.mean([row[metric] for row in rows])), *sizes)


def _of_folds(folds: Sequence[_Fold], level: float) -> MeanTest | None:
    """Test the mean of one task, if there are several folds and their sizes are known."""
    figures, n_train, n_test = np.transpose(folds)
    if len(folds) < 2 or not n_train.all() or not n_test.all():
        return None
    return corrected_resampled_t(
        figures, n_train=float(n_train.mean()), n_test=float(n_test.mean()), level=level
    )
