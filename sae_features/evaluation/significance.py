"""Whether a mean difference is more than chance: over folds, over data sets, and over many questions."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.parameters import check_choice

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

EQUAL = 1e-12
"""Differences up to this are 0, and such that lie closer are ties: scores are rounded."""
MOST_EXACT = 50
"""Differences without ties or zeros up to which the exact distribution is used."""
MOST_FLIPPED = 13
"""Differences with ties or zeros up to which all signs are tried."""


class MeanTest(NamedTuple):
    """A mean, where it may lie, and whether it is 0, by Student's t."""

    mean: float
    """Mean of the values."""
    error: float
    """Its standard error; of folds, corrected for what their training parts share."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    t: float
    """Mean over error; infinite where all values are equal, 0 where all are 0."""
    p: float
    """Two-sided p value with ``n - 1`` degrees of freedom; 1 where all values are 0.

    NaN, as the ends are, where all values are equal and not 0: in a few small folds they easily are, and
    nothing is known of how they vary.
    """
    n: int
    """Values."""


class SignedRankTest(NamedTuple):
    """Whether differences lie about 0, by Wilcoxon's signed ranks."""

    statistic: float
    """The smaller of the rank sums of positive and negative differences."""
    p: float
    """Two-sided p value."""
    n: int
    """Differences."""
    n_zero: int
    """Differences of 0 among them."""
    method: str
    """``"exact"`` or ``"normal"``: the distribution of the statistic, or its approximation."""


def corrected_resampled_t(
    differences: ArrayLike, *, n_train: float, n_test: float, level: float = 0.95
) -> MeanTest:
    """Test the mean difference of two methods over folds, or repeated folds, of one data set.

    Scores of folds depend on each other, as their training parts overlap: the variance of their mean
    is not ``s² / J``, but near ``(1 / J + n_test / n_train) s²`` [1]_.  The ordinary t test finds
    differences that are not there; more repetitions make it worse.

    Parameters
    ----------
    differences : array-like of shape (J,), float
        One a fold, J at least 2; of repeated folds all (k · r).  Scores of one method do, too: then the
        interval of its mean is what is of interest.
    n_train, n_test : float
        Items in the training and test part of a fold, means where they vary.
    level : float, default=0.95
        Of the interval.

    Returns
    -------
    MeanTest

    Raises
    ------
    InvalidInputError
        If there are fewer than two differences, or they are not finite.
    InvalidParameterError
        If sizes or level cannot be.

    Notes
    -----
    The correction is for test parts that are what training left out.  Where much less is trained on than
    tested, as in few-shot protocols, it is on the safe side: the interval becomes wide.

    References
    ----------
    .. [1] Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003,
       239-281; for repeated k-fold: Bouckaert and Frank, PAKDD 2004.

    Examples
    --------
    >>> found = corrected_resampled_t([0.02, 0.01, 0.03, 0.00, 0.02], n_train=80, n_test=20)
    >>> round(found.mean, 3), round(found.t, 2), round(found.p, 3)
    (0.016, 2.09, 0.105)
    """
    for name, size in (("n_train", n_train), ("n_test", n_test)):
        if not isinstance(size, Real) or not 0 < float(size) < math.inf:
            raise InvalidParameterError(f"Got {name}={size!r}; expected a number above 0.")
    values = checked_values("differences", differences)
    return _t_test(values, 1 / values.size + n_test / n_train, level)


def t_of_mean(values: ArrayLike, *, level: float = 0.95) -> MeanTest:
    """Test the mean of values that do not depend on each other, as differences on several data sets.

    Parameters
    ----------
    values : array-like of shape (n,), float
        At least two.
    level : float, default=0.95
        Of the interval.

    Returns
    -------
    MeanTest
        Student's t test of one sample.

    Raises
    ------
    InvalidInputError
        If there are fewer than two values, or they are not finite.

    Examples
    --------
    >>> found = t_of_mean([0.1, 0.2, 0.3])
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
    (0.2, -0.048, 0.448)
    """
    array = checked_values("values", values)
    return _t_test(array, 1 / array.size, level)


def wilcoxon(differences: ArrayLike) -> SignedRankTest:
    """Test whether differences of two methods over data sets lie about 0 [1]_.

    Differences of 0 take part in the ranking and are then left out (Pratt [2]_): many data sets without
    a difference speak against one.  Ties get mean ranks; what differs by rounding alone is tied.
    Without ties and zeros, p is exact for up to 50 differences, otherwise for up to 13, where all signs
    are tried; beyond, it is the normal approximation with a correction for ties.  If all are 0, p is 1.

    Parameters
    ----------
    differences : array-like of shape (n,), float
        One for each data set; at least one.

    Returns
    -------
    SignedRankTest

    Raises
    ------
    InvalidInputError
        If there are none, or they are not finite.

    Notes
    -----
    Fewer than six differences never give p < 0.05.

    References
    ----------
    .. [1] Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7, 2006.
    .. [2] Pratt, "Remarks on zeros and ties in the Wilcoxon signed rank procedures", JASA 54, 1959.

    Examples
    --------
    >>> wilcoxon([0.01, 0.03, -0.02, 0.05, 0.04, 0.06])
    SignedRankTest(statistic=2.0, p=0.09375, n=6, n_zero=0, method='exact')
    """
    values = checked_values("differences", differences, at_least=1)
    steps = np.round(values / EQUAL)  # what differs by rounding becomes equal
    size = np.abs(steps)
    n, n_zero = values.size, int(np.count_nonzero(steps == 0))
    if n_zero == n:
        return SignedRankTest(0.0, 1.0, n, n_zero, "exact")
    is_plain = n_zero == 0 and np.unique(size).size == n
    method: str | stats.PermutationMethod = "asymptotic"
    if is_plain and n <= MOST_EXACT:
        method = "exact"
    elif n <= MOST_FLIPPED:
        method = stats.PermutationMethod(n_resamples=2**MOST_FLIPPED)
    found = stats.wilcoxon(steps, zero_method="pratt", method=method)  # type: ignore[call-overload]
    kind = "normal" if method == "asymptotic" else "exact"
    return SignedRankTest(float(found.statistic), float(found.pvalue), n, n_zero, kind)


def adjust(p_values: ArrayLike, method: str = "holm") -> np.ndarray:
    """Adjust p values for how many questions were asked.

    Parameters
    ----------
    p_values : array-like of shape (m,), float
        NaN where there was no test: it stays NaN, and is not counted.
    method : {"holm", "bh"}
        ``"holm"``: below 0.05, the chance that even one of the findings is false is at most 5 %,
        whatever their dependence [1]_.  ``"bh"``: of the findings below 0.05, a share of at most 5 % is
        expected to be false, if tests are independent or positively dependent [2]_.

    Returns
    -------
    ndarray of shape (m,), float64

    Raises
    ------
    InvalidInputError
        If a value is not between 0 and 1.

    References
    ----------
    .. [1] Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979.
    .. [2] Benjamini and Hochberg, "Controlling the false discovery rate", JRSS B 57, 1995.

    Examples
    --------
    >>> adjust([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    >>> adjust([0.01, 0.04, 0.03], "bh").tolist()
    [0.03, 0.04, 0.04]
    """
    check_choice("method", method, ("holm", "bh"))
    given = np.array(p_values, dtype=np.float64, ndmin=1)
    is_given = ~np.isnan(given)
    p = given[is_given]
    if given.ndim != 1 or np.any((p < 0) | (p > 1)):
        raise InvalidInputError(f"Got p values {given.tolist()}; expected numbers from 0 to 1, or NaN.")
    adjusted = np.full(given.shape, np.nan)
    if p.size:
        adjusted[is_given] = _holm(p) if method == "holm" else stats.false_discovery_control(p)
    return adjusted


def check_level(level: object) -> None:
    """Raise unless the level of an interval lies between 0 and 1."""
    if not isinstance(level, Real) or not 0 < float(level) < 1:
        raise InvalidParameterError(f"Got level={level!r}; expected a number such as 0.95, below 1.")


def checked_values(name: str, values: ArrayLike, *, at_least: int = 2) -> np.ndarray:
    """Return finite values as float64, (n,).

    Raises
    ------
    InvalidInputError
        If there are too few, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size < at_least:
        raise InvalidInputError(f"Got {name} of shape {array.shape}; expected (n,), n ≥ {at_least}.")
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        message = f"Got {name} with {array[wrong[0]]} at position {wrong[0]}; expected finite numbers."
        raise InvalidInputError(message)
    return array


def _t_test(values: np.ndarray, share: float, level: float) -> MeanTest:
    """Test a mean whose variance is that share of the values' variance."""
    check_level(level)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    if spread <= EQUAL:
        spread = 0.0
    if abs(mean) <= EQUAL:
        mean = 0.0
    error = math.sqrt(share) * spread
    freedom = values.size - 1
    if error:
        t = mean / error
        p = 2 * float(stats.t.sf(abs(t), freedom))
    else:
        t, p = (math.copysign(math.inf, mean), math.nan) if mean else (0.0, 1.0)
    half = math.nan if math.isnan(p) else float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return MeanTest(mean, error, mean - half, mean + half, t, p, values.size)


def _holm(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted
