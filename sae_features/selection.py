"""Which latents to keep: those that tell the classes apart best."""

from __future__ import annotations

from functools import reduce
from itertools import accumulate
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from sae_features.errors import InvalidInputError, InvalidParameterError, expected_one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Floats = NDArray[np.float64]
_BLOCK = 2**20  # stored values, or pairs of column and class, that are scored at a time
_EPS = float(np.finfo(np.float64).eps)


class LatentSelector(SelectorMixin, BaseEstimator):
    """Keep the latents with the highest scores against the class labels.

    Scores are computed in float64 from the nonzero values and the number of zeros: sparse data
    are never made dense, and score as the same data made dense do, to the last bit.

    Parameters
    ----------
    n_latents : int or None, default=100
        How many latents to keep; all of them if ``None``, or if there are not as many.
    criterion : str, default="mean_difference"
        How a latent is scored. All but ``"anova_f"`` set one class against the rest, and a
        latent's score is the largest over the classes.

        - ``"mean_difference"``: ``|mean of the class - mean of the rest|``, in units of `X`.
        - ``"normalized_mean_difference"``: the same over the pooled standard deviation
          ``sqrt((SS_class + SS_rest) / (n_samples - 2))``, SS being the sum of squared deviations
          from the group's own mean; that is, ``|Cohen's d|`` [1]_.
        - ``"anova_f"``: F of a one-way analysis of variance, `f_classif` of scikit-learn.
        - ``"auroc"``: ``|AUROC - 0.5| + 0.5`` with ``AUROC = U / (n_class * n_rest)``, U being
          the Mann-Whitney statistic with midranks for ties [2]_.

    Attributes
    ----------
    scores_ : ndarray of shape (n_features,), float64
        The score of each latent.
    best_latents_ : ndarray of shape (min(n_latents, n_features),), int64
        Columns of the latents that are kept, best first, and of equals the lower column first.
        `transform` keeps the order that the columns have in `X`.
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,), object
        Names of the columns seen in `fit`, where all of them are strings.

    Notes
    -----
    A latent without variance scores 0 (0.5 for ``"auroc"``). One that is constant within the
    groups but differs between them scores ``inf`` on ``"normalized_mean_difference"`` and
    ``"anova_f"``; there, a deviation of up to ``n_samples * eps`` of the mean counts as rounding.

    References
    ----------
    .. [1] Cohen (1988). Statistical Power Analysis for the Behavioral Sciences, section 2.5.
    .. [2] Mann and Whitney (1947). Annals of Mathematical Statistics 18(1), 50-60; as AUROC in
       Hanley and McNeil (1982). Radiology 143(1), 29-36.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_features.selection import LatentSelector
    >>> X = np.array([[0.0, 1.0, 3.0], [0.0, 2.0, 4.0], [0.0, 1.0, 0.0], [0.0, 4.0, 0.0]])
    >>> y = ["cat", "cat", "dog", "dog"]
    >>> selector = LatentSelector(n_latents=2).fit(X, y)
    >>> selector.scores_
    array([0. , 1. , 3.5])
    >>> selector.best_latents_
    array([2, 1])
    >>> LatentSelector(n_latents=1, criterion="auroc").fit(X, y).scores_
    array([0.5  , 0.625, 1.   ])
    """

    def __init__(self, n_latents: int | None = 100, *, criterion: str = "mean_difference") -> None:
        self.n_latents = n_latents
        self.criterion = criterion

    def fit(self, X: Any, y: Any) -> LatentSelector:
        """Score the latents and choose the best.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Latents; other dtypes than float32 and float64 are read as float64.
        y : array-like of shape (n_samples,)
            Class labels, at least two different ones.

        Returns
        -------
        LatentSelector
            The fitted estimator itself.

        Raises
        ------
        InvalidParameterError
            If a parameter has a value that it cannot have.
        InvalidInputError
            If `y` has one class only.
        """
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=(np.float64, np.float32))
        if self.criterion not in list(_SCORES):
            raise InvalidParameterError(expected_one_of("criterion", self.criterion, _SCORES))
        n_latents = self._checked_n_latents(X.shape[1])
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if self.classes_.size < 2:
            msg = f"Got y with one class, {self.classes_.tolist()[0]!r}; expected at least two."
            raise InvalidInputError(msg)

        score = _SCORES[self.criterion]
        n_per_class = np.bincount(codes)
        blocks = _column_blocks(X, n_classes=self.classes_.size)
        self.scores_ = np.concatenate([score(block, codes, n_per_class) for block in blocks])
        self.best_latents_ = np.argsort(-self.scores_, kind="stable")[:n_latents]
        return self

    def _get_support_mask(self) -> NDArray[np.bool_]:
        check_is_fitted(self)
        mask = np.zeros(self.n_features_in_, dtype=bool)
        mask[self.best_latents_] = True
        return mask

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _checked_n_latents(self, n_features: int) -> int:
        if self.n_latents is None:
            return n_features
        wanted = self.n_latents
        if not isinstance(wanted, Integral) or isinstance(wanted, bool) or wanted < 1:
            msg = f"Got n_latents={wanted!r}; expected an integer >= 1, or None for all."
            raise InvalidParameterError(msg)
        return min(int(self.n_latents), n_features)


def _column_blocks(X: Any, *, n_classes: int) -> Iterator[Any]:
    """Yield `X` as CSC arrays of some columns each, without duplicates and stored zeros."""
    n_samples, n_features = X.shape
    if isinstance(X, np.ndarray):
        per_column = n_samples
    else:
        X = X.tocsc()  # of CSR, hence a copy
        X.sum_duplicates()
        X.eliminate_zeros()
        per_column = X.nnz // n_features + 1
    width = max(1, _BLOCK // max(per_column, n_classes))
    for start in range(0, n_features, width):
        yield sparse.csc_array(X[:, start : start + width])


def _totals(cells: Any, weights: Any, width: int, n_classes: int) -> Floats:
    """Sum `weights`, or count, by ``cell = column * n_classes + class``; (width, n_classes)."""
    sums = np.bincount(cells, weights, minlength=width * n_classes).astype(np.float64, copy=False)
    return sums.reshape(width, n_classes)


class _Moments(NamedTuple):
    """A group of samples, per latent."""

    n: int
    mean: Floats  # (n_features,)
    squares: Floats  # (n_features,), sum of squared deviations from the mean


def _class_moments(block: Any, codes: NDArray[np.int64], n_per_class: Any) -> list[_Moments]:
    n_classes, width = n_per_class.size, block.shape[1]
    cells = np.repeat(np.arange(width) * n_classes, np.diff(block.indptr)) + codes[block.indices]
    mean = _totals(cells, block.data, width, n_classes) / n_per_class
    squares = _totals(cells, (block.data - mean.ravel()[cells]) ** 2, width, n_classes)
    squares += (n_per_class - _totals(cells, None, width, n_classes)) * mean**2
    return [_Moments(int(n), mean[:, k], squares[:, k]) for k, n in enumerate(n_per_class)]


def _merge(a: _Moments, b: _Moments) -> _Moments:
    """Return the moments of two groups together; no term cancels (Chan et al., 1983)."""
    n = a.n + b.n
    step, share = b.mean - a.mean, b.n / max(n, 1)
    return _Moments(n, a.mean + step * share, a.squares + b.squares + step**2 * (a.n * share))


def _one_against_rest(groups: list[_Moments]) -> Iterator[tuple[_Moments, _Moments]]:
    """Yield each group with the moments of all others, merged from both ends."""
    nothing = _Moments(0, np.zeros_like(groups[0].mean), np.zeros_like(groups[0].squares))
    before = list(accumulate(groups, _merge, initial=nothing))[:-1]
    after = list(accumulate(reversed(groups), _merge, initial=nothing))[-2::-1]
    for group, left, right in zip(groups, before, after, strict=True):
        yield group, _merge(left, right)


def _ratio(signal: Floats, noise: Floats, rounding: Floats) -> Floats:
    """Divide, what does not exceed `rounding` counting as 0, and 0 / 0 as 0."""
    signal, noise = (np.where(part > rounding, part, 0.0) for part in (signal, noise))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(signal > 0, signal / noise, 0.0)


def _mean_difference(block: Any, codes: NDArray[np.int64], n_per_class: Any) -> Floats:
    pairs = _one_against_rest(_class_moments(block, codes, n_per_class))
    return reduce(np.maximum, (np.abs(group.mean - rest.mean) for group, rest in pairs))


def _normalized_mean_difference(block: Any, codes: NDArray[np.int64], n_per_class: Any) -> Floats:
    n_samples, width = block.shape
    best = np.zeros(width)
    for group, rest in _one_against_rest(_class_moments(block, codes, n_per_class)):
        difference = np.abs(group.mean - rest.mean)
        pooled = np.sqrt((group.squares + rest.squares) / max(n_samples - 2, 1))
        scale = np.maximum(np.abs(group.mean), np.abs(rest.mean))
        best = np.maximum(best, _ratio(difference, pooled, n_samples * _EPS * scale))
    return best


def _anova_f(block: Any, codes: NDArray[np.int64], n_per_class: Any) -> Floats:
    """Return F as `f_classif` does, whose one-pass sums lose it where means are large."""
    n_samples, n_classes = block.shape[0], n_per_class.size
    groups = _class_moments(block, codes, n_per_class)
    within = reduce(np.add, (group.squares for group in groups))
    between = reduce(_merge, (group._replace(squares=0 * within) for group in groups)).squares
    scale = reduce(np.maximum, (np.abs(group.mean) for group in groups))
    root_f = _ratio(
        np.sqrt(between / (n_classes - 1)),
        np.sqrt(within / max(n_samples - n_classes, 1)),
        n_samples * _EPS * scale,
    )
    return root_f**2


def _ordinals(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Return integers below 2**32 that stand in the order of `values` and are equal where they are.

    For float32 they are its bits, negative numbers reversed; for float64 the ranks.
    """
    if values.dtype == np.float32:
        bits = values.view(np.uint32)
        return np.where(values < 0, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
    return np.unique(values, return_inverse=True)[1].astype(np.uint64)


def _auroc(block: Any, codes: NDArray[np.int64], n_per_class: Any) -> Floats:
    """Rank all columns by one sort of integers (column, value, class).

    Ranks and their sums are multiples of one half and thus exact.
    """
    (n_samples, width), n_classes = block.shape, n_per_class.size
    stored = np.diff(block.indptr)
    column = np.repeat(np.arange(width), stored)
    class_bits = np.uint64(int(n_classes - 1).bit_length())
    key = column.astype(np.uint64) << np.uint64(32) | _ordinals(block.data)
    key = key << class_bits | codes[block.indices].astype(np.uint64)
    key.sort()
    class_mask = (np.uint64(1) << class_bits) - np.uint64(1)
    cells = column * n_classes + (key & class_mask).astype(np.int64)

    value = key >> class_bits
    is_first = np.ones(key.size, dtype=bool)
    is_first[1:] = value[1:] != value[:-1]
    first = np.flatnonzero(is_first)  # of each group of tied values
    n_tied = np.diff(first, append=key.size)
    zeros = n_samples - stored
    negative = np.bincount(column[block.data < 0], minlength=width)
    position = first - block.indptr[column[first]]  # within the column, the zeros left out
    zeros_below = np.where(position < negative[column[first]], 0, zeros[column[first]])
    midrank = position + zeros_below + (n_tied + 1) / 2

    rank_sum = _totals(cells, np.repeat(midrank, n_tied), width, n_classes)
    zeros_in_class = n_per_class - _totals(cells, None, width, n_classes)
    rank_sum += zeros_in_class * (negative + (zeros + 1) / 2)[:, None]
    u = rank_sum - n_per_class * (n_per_class + 1) / 2
    auroc = u / (n_per_class * (n_samples - n_per_class))
    best: Floats = (np.abs(auroc - 0.5) + 0.5).max(axis=1)
    return best


_SCORES: dict[str, Callable[[Any, NDArray[np.int64], Any], Floats]] = {
    "mean_difference": _mean_difference,
    "normalized_mean_difference": _normalized_mean_difference,
    "anova_f": _anova_f,
    "auroc": _auroc,
}
