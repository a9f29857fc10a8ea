"""Bootstrap intervals of a metric, and of the difference of two methods on the same items."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sae_features.errors import InvalidParameterError
from sae_features.evaluation.bca import correction_of, ends, p_of_zero
from sae_features.evaluation.resampling import draw, figure_of, units_of
from sae_features.evaluation.scores import METRICS, judged
from sae_features.evaluation.significance import check_level
from sae_features.parameters import check_choice

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """A figure and where it may lie."""

    figure: float
    """The metric of all items."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    level: float
    """Share of such intervals that are meant to hold the true value."""
    n_items: int
    """Items that were judged."""
    n_units: int
    """Items, or groups of them, that were drawn."""
    n_undefined: int
    """Resamples that lacked a class, in which AUROC is undefined; they were left out."""


class PairedInterval(NamedTuple):
    """The difference of two methods on the same items."""

    first: float
    """The metric of the first method."""
    second: float
    """The metric of the second method."""
    difference: float
    """``first - second``."""
    low: float
    """Lower end of the interval of the difference."""
    high: float
    """Upper end."""
    p: float
    """Two-sided: the interval of level ``1 - p`` ends at 0; not below ``1 / (n_resamples + 1)``."""
    level: float
    """Share of such intervals that are meant to hold the true difference."""
    n_items: int
    """Items that were judged."""
    n_units: int
    """Items, or groups of them, that were drawn."""
    n_undefined: int
    """Resamples that lacked a class, in which AUROC is undefined; they were left out."""


def bootstrap_interval(
    truth: ArrayLike,
    given: ArrayLike,
    metric: str = "macro_f1",
    *,
    n_classes: int | None = None,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the bootstrap interval (BCa) of a metric of predictions.

    Items are drawn with replacement, as many as there are; with `groups`, whole groups [2]_.  The ends
    are bias-corrected and accelerated [1]_: quantiles of the resamples' figures, moved by how far the
    figure lies from their median and by how skewed the influence of single units is.

    Parameters
    ----------
    truth : array-like of shape (n,), int
        Class codes from 0.
    given : array-like of shape (n,), int, or (n, n_classes), float
        Predicted codes; or scores of each class, of which the largest is predicted.  AUROC takes scores.
    metric : {"macro_f1", "accuracy", "auroc"}
        As :func:`~sae_features.evaluation.scores.scores` defines it.
    n_classes : int, optional
        Classes of the data set; needed where codes are given.
    groups : array-like of shape (n,), optional
        The group of each item: texts of one author, pictures of one piece of cloth.  Items of a group
        are alike, so that an interval from single items would be too narrow.
    level : float, default=0.95
    n_resamples : int, default=2000
    seed : int, default=0

    Returns
    -------
    Interval

    Raises
    ------
    InvalidParameterError
        If a parameter cannot be, or codes come without `n_classes`.
    InvalidInputError
        If arrays do not fit together, there are fewer than two items or groups, or AUROC is undefined.

    Notes
    -----
    The interval is about other test items for the same fitted classifier: it does not tell how figures
    vary with the training part.  Where every resample has the same figure, as when all items are right,
    the interval has no width, which says nothing about how rare errors are.  With about 20
    groups or fewer it is too narrow.

    References
    ----------
    .. [1] Efron, "Better bootstrap confidence intervals", JASA 82, 1987; Efron and Tibshirani,
       "An Introduction to the Bootstrap", 1993, section 14.3.
    .. [2] Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8.

    Examples
    --------
    >>> truth = [0, 1] * 50
    >>> predicted = [0, 1] * 40 + [1, 1] * 5 + [0, 0] * 5
    >>> found = bootstrap_interval(truth, predicted, "accuracy", n_classes=2)
    >>> found.figure, found.low, found.high
    (0.9, 0.83, 0.95)
    """
    check_bootstrap(metric, level, n_resamples)
    items = judged(truth, given, metric, n_classes)
    units = units_of((items,), metric, groups)
    figure = figure_of(units)
    figures, n_undefined = _defined(draw(units, n_resamples, np.random.default_rng(seed)))
    low, high = ends(figures, correction_of(figures, figure, units), level)
    n_units = int(units.multiplicity.sum())
    return Interval(figure, low, high, level, items.truth.size, n_units, n_undefined)


def paired_bootstrap(
    truth: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    metric: str = "macro_f1",
    *,
    n_classes: int | None = None,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> PairedInterval:
    """Return the bootstrap interval (BCa) of the difference of two methods on the same items.

    Each resample is judged for both methods, so that what makes an item easy or hard for both cancels.

    Parameters
    ----------
    truth : array-like of shape (n,), int
        Class codes from 0.
    first, second : array-like of shape (n,), int, or (n, n_classes), float
        What each method predicted, as in :func:`bootstrap_interval`.
    metric, n_classes, groups, level, n_resamples, seed
        As in :func:`bootstrap_interval`.

    Returns
    -------
    PairedInterval

    Raises
    ------
    InvalidParameterError
        If a parameter cannot be, or codes come without `n_classes`.
    InvalidInputError
        If arrays do not fit together, there are fewer than two items or groups, or AUROC is undefined.

    Notes
    -----
    Compares two fitted classifiers, on other items like these.  Whether one *method* is better, when
    trained anew, is for :func:`~sae_features.evaluation.significance.corrected_resampled_t`.

    Examples
    --------
    >>> truth = [0, 1] * 50
    >>> found = paired_bootstrap(truth, truth, [0, 1] * 40 + [0, 0] * 10, "accuracy", n_classes=2)
    >>> found.first, found.second, found.low > 0, found.p < 0.01
    (1.0, 0.9, True, True)
    """
    check_bootstrap(metric, level, n_resamples)
    one = judged(truth, first, metric, n_classes, name="first")
    two = judged(truth, second, metric, one.n_classes, name="second")
    units = units_of((one, two), metric, groups)
    a, b = (figure_of(units_of((items,), metric, groups)) for items in (one, two))
    figures, n_undefined = _defined(draw(units, n_resamples, np.random.default_rng(seed)))
    correction = correction_of(figures, a - b, units)
    low, high = ends(figures, correction, level)
    p = p_of_zero(figures, correction)
    n_units = int(units.multiplicity.sum())
    return PairedInterval(a, b, a - b, low, high, p, level, one.truth.size, n_units, n_undefined)


def check_bootstrap(
    metric: object, level: object, n_draws: object, *, name: str = "n_resamples"
) -> None:
    """Raise unless parameters are such that an interval can be drawn."""
    check_choice("metric", metric, METRICS)
    check_level(level)
    is_integer = isinstance(n_draws, Integral) and not isinstance(n_draws, bool)
    if not (is_integer and int(n_draws) >= 100):  # type: ignore[call-overload]
        raise InvalidParameterError(f"Got {name}={n_draws!r}; expected an integer of at least 100.")


def _defined(figures: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the figures that are defined, and how many are not."""
    is_defined = ~np.isnan(figures)
    return figures[is_defined], int((~is_defined).sum())
