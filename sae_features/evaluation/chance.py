"""What chance gives: the figures of predictions that have nothing to do with the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import rankdata

from sae_features.errors import InvalidParameterError
from sae_features.evaluation.intervals import check_bootstrap
from sae_features.evaluation.resampling import BLOCK, OF_COUNTS, unit_numbers
from sae_features.evaluation.scores import Judged, checked_codes, judged, ranked_classes, score_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike


class ChanceInterval(NamedTuple):
    """What a metric gives by chance."""

    chance: float
    """Expected figure of predictions that are independent of the labels."""
    low: float
    """Lower end of where such figures lie."""
    high: float
    """Upper end."""
    level: float
    """Share of figures by chance from `low` to `high`, ends included; at least."""
    figure: float | None
    """Of the predictions that were given."""
    p: float | None
    """Share of figures by chance that are as high as that, counting itself; one-sided."""


def chance_interval(
    truth: ArrayLike,
    metric: str = "macro_f1",
    *,
    given: ArrayLike | None = None,
    n_classes: int | None = None,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_permutations: int = 1000,
    seed: int = 0,
) -> ChanceInterval:
    """Return what a metric gives where predictions are independent of the labels.

    Labels are permuted against the predictions, so that both keep their class shares.  That matters:
    with classes of 90 and 10 %, macro-F1 by chance is 0.474 for predictions of the larger class alone,
    and 0.5 for predictions with the labels' shares; accuracy 0.9 and 0.82.

    Parameters
    ----------
    truth : array-like of shape (n,), int
        Class codes from 0.
    metric : {"macro_f1", "accuracy", "auroc"}
        As :func:`~sae_features.evaluation.scores.scores` defines it.
    given : array-like of shape (n,), int, or (n, n_classes), float, optional
        Predicted codes, or scores of each class.  Without them, predictions have the class shares of
        `truth`, and scores have no ties.
    n_classes : int, optional
        Classes of the data set; needed unless scores are given.
    groups : array-like of shape (n,), optional
        The group of each item.  Labels of a group stay together: groups are put in another order, and
        items within them.  Where groups share labels, figures by chance vary more.
    level : float, default=0.95
    n_permutations : int, default=1000
    seed : int, default=0

    Returns
    -------
    ChanceInterval

    Raises
    ------
    InvalidParameterError
        If a parameter cannot be, or `n_classes` is lacking.
    InvalidInputError
        If arrays do not fit together, or AUROC is asked for and a class is absent.

    Examples
    --------
    >>> truth = [0] * 90 + [1] * 10
    >>> round(chance_interval(truth, "macro_f1", given=[0] * 100, n_classes=2).chance, 3)
    0.474
    >>> found = chance_interval(truth, "macro_f1", n_classes=2)
    >>> round(found.chance, 3), found.low < 0.5 < found.high
    (0.5, True)
    """
    check_bootstrap(metric, level, n_permutations, name="n_permutations")
    rng = np.random.default_rng(seed)
    items = _judged(truth, metric, given, n_classes, rng)
    figures = permuted_figures(
        items, metric, unit_numbers(groups, items.truth.size), n_permutations, rng
    )
    low, high = ends_of_chance(figures, level)
    figure = p = None
    if given is not None:
        figure = score_of(items, metric)
        p = (1 + np.count_nonzero(figures >= figure - 1e-12)) / (1 + n_permutations)
    return ChanceInterval(expected_by_chance(items, metric), low, high, level, figure, p)


def expected_by_chance(items: Judged, metric: str) -> float:
    """Return the expected figure where labels are permuted against the predictions, exactly.

    Of a class with ``n_k`` items that is predicted ``m_k`` times, ``n_k m_k / n`` predictions are right
    on average.  Accuracy is their sum over ``n``; F1 of the class is ``2 n_k m_k / (n (n_k + m_k))``, as
    its denominator does not change; AUROC is one half.

    Examples
    --------
    >>> from sae_features.evaluation.scores import judged
    >>> expected_by_chance(judged([0, 0, 0, 1], [0, 0, 1, 1], "accuracy", 2), "accuracy")
    0.5
    """
    if metric == "auroc":
        return 0.5
    n = items.truth.size
    there, predicted = (
        np.bincount(codes, minlength=items.n_classes) for codes in (items.truth, items.predicted)
    )
    right = there * predicted / n
    if metric == "accuracy":
        return float(right.sum()) / n
    both = there + predicted
    return float(np.mean(2 * right / np.where(both > 0, both, 1)))


def permuted_figures(
    items: Judged, metric: str, unit_of: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the figures of labels permuted against the predictions, (n_permutations,) float64.

    Parameters
    ----------
    items : Judged
    metric : str
    unit_of : ndarray of shape (n,), int
        Number of each item's group; their own if there are none.
    n_permutations : int
    rng : numpy.random.Generator

    Examples
    --------
    >>> from sae_features.evaluation.scores import judged
    >>> items = judged([0, 0, 1, 1], [0, 0, 1, 1], "accuracy", 2)
    >>> found = permuted_figures(items, "accuracy", np.arange(4), 1000, np.random.default_rng(0))
    >>> sorted(set(found.tolist()))
    [0.0, 0.5, 1.0]
    """
    order = np.argsort(unit_of, kind="stable")  # items of a group side by side
    labels, predicted = items.truth[order], items.predicted[order]
    blocks = _permutations(labels, unit_of[order], n_permutations, rng)
    if metric == "auroc" and items.columns is not None:
        ranks = rankdata(items.columns[order], axis=0)
        classes = ranked_classes(items.n_classes)
        return np.concatenate([_areas(block, ranks, classes) for block in blocks])
    n_classes = items.n_classes
    figures = []
    for block in blocks:
        cells = block * n_classes + predicted + np.arange(len(block))[:, None] * n_classes**2
        counts = np.bincount(cells.ravel(), minlength=len(block) * n_classes**2)
        figures.append(OF_COUNTS[metric](counts.reshape(len(block), n_classes**2), n_classes))
    return np.concatenate(figures)


def ends_of_chance(figures: np.ndarray, level: float) -> tuple[float, float]:
    """Return the ends between which at least a share of the figures lies.

    Examples
    --------
    >>> ends_of_chance(np.arange(100), 0.9)
    (4.0, 95.0)
    """
    low = np.quantile(figures, (1 - level) / 2, method="lower")
    high = np.quantile(figures, (1 + level) / 2, method="higher")
    return float(low), float(high)


def _judged(
    truth: ArrayLike,
    metric: str,
    given: ArrayLike | None,
    n_classes: int | None,
    rng: np.random.Generator,
) -> Judged:
    """Return predictions as given, or such as chance is told by without them."""
    if given is not None:
        return judged(truth, given, metric, n_classes)
    if n_classes is None:
        raise InvalidParameterError("Got no n_classes and no predictions; expected one of them.")
    codes = checked_codes("truth", truth, n_classes)
    if metric != "auroc":
        return Judged(codes, codes, None, n_classes)
    return judged(codes, rng.random((codes.size, n_classes)), metric, n_classes)


def _permutations(
    labels: np.ndarray, unit_of: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield permuted labels, (r, n) at a time: units in a random order, and items within each."""
    n, n_units = labels.size, int(unit_of[-1]) + 1
    size = max(1, BLOCK // n)
    for start in range(0, n_permutations, size):
        r = min(size, n_permutations - start)
        places = rng.permuted(np.tile(np.arange(n_units, dtype=np.float64), (r, 1)), axis=1)
        if n_units == n:
            yield labels[places.astype(np.int64)]
        else:
            yield labels[np.argsort(places[:, unit_of] + rng.random((r, n)), axis=1)]


def _areas(labels: np.ndarray, ranks: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """Return the mean area under the curves of permuted labels, (r, n), by Mann and Whitney's U."""
    areas = np.zeros(len(labels))
    n = labels.shape[1]
    for k in classes:
        is_class = (labels == k).astype(np.float64)
        n_class = is_class[0].sum()
        areas += (is_class @ ranks[:, k] - n_class * (n_class + 1) / 2) / (n_class * (n - n_class))
    return areas / len(classes)
