"""Metrics of many resamples at once: a resample is a weight for each unit, an item or a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sae_features.errors import InvalidInputError
from sae_features.evaluation.scores import ranked_classes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from sae_features.evaluation.scores import Judged

BLOCK = 2**22
"""Weights, or labels, that are looked at at a time."""


class Units(NamedTuple):
    """What is drawn with replacement; units that are alike stand once."""

    multiplicity: np.ndarray
    """How many units are of each kind, int64, (n_kinds,)."""
    figure: Callable[[np.ndarray], np.ndarray]
    """From weights of the kinds, (r, n_kinds), to figures, (r,) float64; NaN where one is undefined."""
    influence: np.ndarray
    """How the figure changes with the weight of one unit, up to a common factor, (n_kinds,)."""


def accuracy_of_counts(counts: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the accuracy of confusion tables, (..., n_classes²) of truth times prediction, as (...)."""
    n = counts.sum(axis=-1)
    return counts[..., :: n_classes + 1].sum(axis=-1) / np.where(n > 0, n, 1)


def macro_f1_of_counts(counts: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the macro-F1 of confusion tables, (..., n_classes²), as (...); an empty class is 0."""
    tables = counts.reshape(*counts.shape[:-1], n_classes, n_classes)
    both = tables.sum(axis=-1) + tables.sum(axis=-2)
    f1 = 2 * counts[..., :: n_classes + 1] / np.where(both > 0, both, 1)
    return f1.mean(axis=-1)


OF_COUNTS = {"accuracy": accuracy_of_counts, "macro_f1": macro_f1_of_counts}


def units_of(judged: tuple[Judged, ...], metric: str, groups: ArrayLike | None) -> Units:
    """Return the units of one method's predictions, or of two: then figures are first less second.

    Raises
    ------
    InvalidInputError
        If groups are not as many as items, or there are fewer than two units.
    """
    n = judged[0].truth.size
    unit_of = unit_numbers(groups, n)
    n_units = int(unit_of.max()) + 1
    if n_units < 2:
        what = "item" if groups is None else "group"
        raise InvalidInputError(f"Got 1 {what}; expected at least 2, of which resamples can differ.")
    if metric == "auroc":
        return _of_ranks(judged, unit_of, n_units)
    return _of_counts(judged, metric, unit_of if groups is not None else None, n_units)


def unit_numbers(groups: ArrayLike | None, n: int) -> np.ndarray:
    """Return the number of each item's group, from 0, int64, (n,); each item's own without groups.

    Raises
    ------
    InvalidInputError
        If groups are not as many as items.
    """
    if groups is None:
        return np.arange(n)
    names = np.asarray(groups)
    if names.shape != (n,):
        raise InvalidInputError(f"Got groups of shape {names.shape}; expected ({n},), one an item.")
    return np.unique(names, return_inverse=True)[1]


def figure_of(units: Units) -> float:
    """Return the figure of all units, each once."""
    return float(units.figure(units.multiplicity[None])[0])


def draw(units: Units, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return the figures of resamples, each of as many units as there are, (n_resamples,) float64."""
    n_kinds, n_units = units.multiplicity.size, int(units.multiplicity.sum())
    block = max(1, BLOCK // n_kinds)
    figures = []
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        figures.append(units.figure(rng.multinomial(n_units, units.multiplicity / n_units, size=size)))
    return np.concatenate(figures)


def _of_counts(
    judged: tuple[Judged, ...], metric: str, unit_of: np.ndarray | None, n_units: int
) -> Units:
    """Return units by the confusion counts of each, as all that the metric looks at."""
    n_classes = judged[0].n_classes
    size = n_classes**2
    cells = [each.truth * n_classes + each.predicted for each in judged]
    if unit_of is None:
        kinds, multiplicity = np.unique(np.stack(cells, axis=1), axis=0, return_counts=True)
        counts = np.concatenate([np.eye(size)[column] for column in kinds.T], axis=1)
    else:
        each = [np.bincount(unit_of * size + cell, minlength=n_units * size) for cell in cells]
        stacked = np.concatenate([of_unit.reshape(n_units, size) for of_unit in each], axis=1)
        counts, multiplicity = np.unique(stacked.astype(np.float64), axis=0, return_counts=True)
    measure = OF_COUNTS[metric]

    def of_sums(sums: np.ndarray) -> np.ndarray:
        first = measure(sums[..., :size], n_classes)
        return first - measure(sums[..., size:], n_classes) if len(judged) == 2 else first

    total = multiplicity @ counts
    influence = of_sums(total) - of_sums(total - counts)
    return Units(multiplicity, lambda weights: of_sums(weights @ counts), influence)


def _of_ranks(judged: tuple[Judged, ...], unit_of: np.ndarray, n_units: int) -> Units:
    """Return units for AUROC, which looks at all pairs of items of two classes."""
    curves = [
        (_Curve(each.truth == k, each.columns[:, k]), sign / len(ranked_classes(each.n_classes)))
        for each, sign in zip(judged, (1, -1), strict=False)
        if each.columns is not None
        for k in ranked_classes(each.n_classes)
    ]

    def figure(weights: np.ndarray) -> np.ndarray:
        of_items = weights[:, unit_of].astype(np.float64)
        return sum((share * curve.areas(of_items) for curve, share in curves), np.zeros(len(weights)))

    of_items = sum((share * curve.influence() for curve, share in curves), np.zeros(unit_of.size))
    influence = np.bincount(unit_of, of_items, minlength=n_units)
    return Units(np.ones(n_units, np.int64), figure, influence)


class _Curve:
    """Items of one class against the rest, in the order of their scores."""

    def __init__(self, is_positive: np.ndarray, column: np.ndarray) -> None:
        self.order = np.argsort(column, kind="stable")
        ordered = column[self.order]
        self.is_positive = is_positive[self.order]
        # of each item, how many score less, and how many score at most as much
        self.below = np.searchsorted(ordered, ordered, side="left")
        self.up_to = np.searchsorted(ordered, ordered, side="right")

    def areas(self, weights: np.ndarray) -> np.ndarray:
        """Return the area under the curve for weights of the items, (r, n), as (r,).

        The share of pairs of a positive and a negative item in which the positive one scores more, equal
        scores counting half; NaN where there is no pair.
        """
        ordered = weights[:, self.order]
        negatives = np.zeros((len(weights), ordered.shape[1] + 1))
        np.cumsum(np.where(self.is_positive, 0.0, ordered), axis=1, out=negatives[:, 1:])
        positives = ordered[:, self.is_positive]
        below = negatives[:, self.below[self.is_positive]] + negatives[:, self.up_to[self.is_positive]]
        n_pairs = positives.sum(axis=1) * negatives[:, -1]
        won = np.einsum("ri,ri->r", positives, below) / 2
        return np.where(n_pairs > 0, won / np.where(n_pairs > 0, n_pairs, 1), np.nan)

    def influence(self) -> np.ndarray:
        """Return how the area changes with the weight of each item, (n,)."""
        negatives = np.concatenate([[0.0], np.cumsum(~self.is_positive)])
        positives = np.concatenate([[0.0], np.cumsum(self.is_positive)])
        n_positive, n_negative = positives[-1], negatives[-1]
        wins = (negatives[self.below] + negatives[self.up_to]) / 2
        losses = n_positive - (positives[self.below] + positives[self.up_to]) / 2
        area = float(wins[self.is_positive].sum()) / (n_positive * n_negative)
        of_positive = (wins / n_negative - area) / n_positive
        of_negative = (losses / n_positive - area) / n_negative
        influence = np.empty_like(of_positive)
        influence[self.order] = np.where(self.is_positive, of_positive, of_negative)
        return influence
