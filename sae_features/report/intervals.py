"""Means over folds, language pairs and data sets, and how sure they are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from sae_features.report.rows import UNIT, grouped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sae_features.report.rows import Row, Rows

Folds = dict[tuple[object, object], float]
"""A score for each seed and fold."""

LEVEL: Final = 0.95
"""Share of intervals that hold what they are of."""


class Estimate(NamedTuple):
    """A mean and its interval."""

    mean: float
    low: float | None = None
    """Lower end of the 95 % interval; None of a single fold."""
    high: float | None = None
    n: int = 1
    """How many folds it is the mean of."""
    p: float | None = None
    """Two-sided p value of its being 0; None where that is not known."""
    error: float | None = None
    """Standard error."""
    freedom: float = 0.0
    """Degrees of freedom."""


def estimate(values: Sequence[float], sizes: tuple[float, float] | None = None) -> Estimate:
    """Return the mean over folds with its interval.

    Parameters
    ----------
    values : sequence of float
        One for each fold.
    sizes : tuple of float, optional
        Items in a training and a test part, for the corrected resampled t interval
        (:func:`~sae_features.evaluation.significance.corrected_resampled_t`): training parts of folds
        overlap. Without sizes values count as independent.

    Examples
    --------
    >>> result = estimate([0.8, 0.9], (80, 20))
    >>> round(result.mean, 3), round(result.error, 4), result.n
    (0.85, 0.0612, 2)
    """
    from sae_features.evaluation.significance import corrected_resampled_t, t_of_mean

    if len(values) < 2:
        return Estimate(float(values[0]))
    if sizes is None:
        found = t_of_mean(values, level=LEVEL)
    else:
        found = corrected_resampled_t(values, n_train=sizes[0], n_test=sizes[1], level=LEVEL)
    if math.isnan(found.low):  # all folds are equal: nothing is known of how they vary
        return Estimate(found.mean, n=found.n)
    p = None if math.isnan(found.p) else found.p
    return Estimate(found.mean, found.low, found.high, found.n, p, found.error, found.n - 1)


def score(rows: Rows, metric: str) -> Estimate | None:
    """Return the mean of a metric over folds, over the pairs of languages, and over data sets.

    Returns
    -------
    Estimate or None
        None if no row has the metric.

    Notes
    -----
    Pairs of languages share items, so that they are averaged within each fold, and the interval is over
    folds. Data sets are independent: the interval is that of the mean over these very sets.
    """
    found = [row for row in rows if row.get(metric) is not None]
    parts = [
        estimate(list(mean_by_fold(of_set, metric).values()), part_sizes(of_set))
        for of_set in grouped(found, "dataset").values()
    ]
    return mean_of(parts) if parts else None


def mean_by_fold(rows: Rows, metric: str) -> Folds:
    """Return the mean score over all pairs of languages, for each fold in which all of them have one."""
    return mean_of_units([by_fold(unit, metric) for unit in grouped(rows, *UNIT).values()])


def mean_of_units(units: Sequence[Folds]) -> Folds:
    """Return the mean over units for each fold that all have; of all folds if there is no such one."""
    shared = [fold for fold in units[0] if all(fold in values for values in units)]
    if shared:
        return {fold: _mean([values[fold] for values in units]) for fold in shared}
    return {(None, None): _mean([_mean(list(values.values())) for values in units])}


def by_fold(rows: Rows, metric: str) -> Folds:
    """Return the score of each fold that has one; the mean where a fold has several rows."""
    values: dict[tuple[object, object], list[float]] = {}
    for row in rows:
        if row.get(metric) is not None:
            values.setdefault((row.get("seed"), row.get("fold")), []).append(float(row[metric]))
    return {fold: _mean(scores) for fold, scores in values.items()}


def part_sizes(rows: Rows) -> tuple[float, float] | None:
    """Return the mean sizes of training and test parts; None where all runs share their test part."""
    if len({row.get("fold") for row in rows}) < 2:
        return None
    sized = [row for row in rows if row.get("n_train") and row.get("n_test")]
    return (_mean_size(sized, "n_train"), _mean_size(sized, "n_test")) if sized else None


def mean_of(parts: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent means.

    Its variance is the sum of theirs; degrees of freedom are by Welch [1]_ and Satterthwaite.

    References
    ----------
    .. [1] Welch (1947). The generalization of "Student's" problem when several different population
       variances are involved. Biometrika 34, equation 28.
    """
    if len(parts) == 1:
        return parts[0]
    mean, n = _mean([part.mean for part in parts]), sum(part.n for part in parts)
    variances = [(part.error / len(parts)) ** 2 for part in parts if part.error is not None]
    if len(variances) < len(parts):
        return Estimate(mean, n=n)
    total = sum(variances)
    spread = sum(v**2 / part.freedom for v, part in zip(variances, parts, strict=True))
    return _with_interval(mean, n, math.sqrt(total), total**2 / spread if spread else n - len(parts))


def _with_interval(mean: float, n: int, error: float, freedom: float) -> Estimate:
    from scipy.special import stdtr, stdtrit

    half = error * float(stdtrit(freedom, (1 + LEVEL) / 2))
    p = float(2 * stdtr(freedom, -abs(mean) / error)) if error else None
    return Estimate(mean, mean - half, mean + half, n, p, error, freedom)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_size(rows: Sequence[Row], name: str) -> float:
    return _mean([float(row[name]) for row in rows])
