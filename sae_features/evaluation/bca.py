"""Ends of bootstrap intervals: bias-corrected and accelerated quantiles of what was drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import norm

if TYPE_CHECKING:
    from sae_features.evaluation.resampling import Units

ROUNDING = 1e-12
"""Figures that differ by less are equal."""


class Correction(NamedTuple):
    """How quantiles are moved (Efron and Tibshirani, "An Introduction to the Bootstrap", 14.3)."""

    bias: float
    """z₀, the normal quantile of the share of resamples that are below the figure (equation 14.14)."""
    acceleration: float
    """a, a sixth of the skewness of the units' influence (equation 14.15)."""


def correction_of(figures: np.ndarray, figure: float, units: Units) -> Correction:
    """Return the correction for the figures of resamples of units, (r,), about the figure of all.

    Examples
    --------
    >>> from sae_features.evaluation.resampling import Units
    >>> units = Units(np.array([5, 5]), lambda weights: weights @ [0.0, 0.1], np.array([-1.0, 1.0]))
    >>> correction_of(np.array([0.4, 0.5, 0.5, 0.6]), 0.5, units)
    Correction(bias=0.0, acceleration=0.0)
    """
    mean = np.average(units.influence, weights=units.multiplicity)
    away = units.influence - mean
    squares = float(units.multiplicity @ away**2)
    cubes = float(units.multiplicity @ away**3)
    acceleration = cubes / (6 * squares**1.5) if squares > 0 else 0.0
    return Correction(_normal_share_below(figures, figure), acceleration)


def ends(figures: np.ndarray, correction: Correction, level: float) -> tuple[float, float]:
    """Return the ends of the interval, quantiles of the figures of resamples (equation 14.10).

    Examples
    --------
    >>> low, high = ends(np.linspace(0, 1, 101), Correction(0.0, 0.0), 0.9)
    >>> round(low, 6), round(high, 6)
    (0.05, 0.95)
    """
    z = correction.bias + norm.ppf([(1 - level) / 2, (1 + level) / 2])
    moved = correction.bias + z / np.maximum(1 - correction.acceleration * z, ROUNDING)
    low, high = np.quantile(figures, norm.cdf(moved))
    return float(low), float(high)


def p_of_zero(figures: np.ndarray, correction: Correction) -> float:
    """Return the two-sided p value of 0: the interval of level ``1 - p`` has an end there.

    It is the formula of :func:`ends`, solved for the level; never below ``1 / (len(figures) + 1)``.

    Examples
    --------
    >>> p_of_zero(np.linspace(-0.05, 0.95, 101), Correction(0.0, 0.0))
    0.1...
    """
    away = _normal_share_below(figures, 0.0) - correction.bias
    z = away / max(1 + correction.acceleration * away, ROUNDING) - correction.bias
    p = 2 * float(norm.sf(abs(z)))
    return min(1.0, max(p, 1 / (figures.size + 1)))


def _normal_share_below(figures: np.ndarray, value: float) -> float:
    """Return the normal quantile of the share of figures below a value, equal ones by half; finite."""
    below = np.count_nonzero(figures < value - ROUNDING)
    up_to = np.count_nonzero(figures <= value + ROUNDING)
    least = 0.5 / (figures.size + 1)
    return float(norm.ppf(np.clip((below + up_to) / 2 / figures.size, least, 1 - least)))
