"""Differences of two methods over many tasks: mean, interval, signed ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sae_features.evaluation.cells import check_unit, unit_means
from sae_features.evaluation.significance import EQUAL, t_of_mean, wilcoxon

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sae_features.evaluation.cells import Task


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference over independent units, each a task or the mean of several tasks.

    Attributes
    ----------
    n_units : int
        Units.
    difference : float
        Mean of the units' differences.
    error : float or None
        Standard error of it, ``s / √n_units``; None of one unit.
    low, high : float or None
        Interval by Student's t over units; None of one unit, or where all are equal but not 0.
    wins, ties, losses : int
        Units with a difference above, at, and below 0.
    p : float
        Wilcoxon's signed ranks over units, two-sided
        (:func:`~sae_features.evaluation.significance.wilcoxon`).
    p_method : str
        ``"exact"`` or ``"normal"``.
    """

    n_units: int
    difference: float
    error: float | None
    low: float | None
    high: float | None
    wins: int
    ties: int
    losses: int
    p: float
    p_method: str


def over_units(
    differences: Iterable[tuple[Task, float]], unit: Sequence[str], level: float
) -> Difference:
    """Return the mean difference over units.

    Examples
    --------
    >>> from sae_features.evaluation.cells import TASK, Task
    >>> tasks = [Task("sweep", name, name, name, None) for name in "abc"]
    >>> found = over_units(zip(tasks, (0.1, 0.2, 0.3)), TASK, 0.95)
    >>> round(found.difference, 3), found.wins, found.p
    (0.2, 3, 0.25)
    """
    check_unit(unit)
    values = unit_means(differences, unit)
    ranks = wilcoxon(values)
    test = t_of_mean(values, level=level) if len(values) > 1 else None
    wins, losses = sum(v > EQUAL for v in values), sum(v < -EQUAL for v in values)
    return Difference(
        n_units=len(values),
        difference=math.fsum(values) / len(values),
        error=test.error if test else None,
        low=or_none(test.low) if test else None,
        high=or_none(test.high) if test else None,
        wins=wins,
        ties=len(values) - wins - losses,
        losses=losses,
        p=ranks.p,
        p_method=ranks.method,
    )


def or_none(value: float) -> float | None:
    """Return None for NaN."""
    return None if math.isnan(value) else value
