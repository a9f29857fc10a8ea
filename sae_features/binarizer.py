"""Which latents are on: 1 where a latent exceeds its threshold, else 0."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from sae_features.errors import InvalidParameterError, expected_one_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_POPULATIONS = ("nonzero", "all")
_DENSE_BLOCK = 2**22  # dense values that are made sparse at a time


class LatentBinarizer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Set each latent to 1 where it exceeds a threshold and to 0 elsewhere.

    The thresholds are given, one for all columns or one per column, or learned in `fit`: with
    ``quantile=q`` the threshold of a column is the q-quantile of its training values.

    Parameters
    ----------
    threshold : float or array-like of shape (n_features,), default=0.0
        What a value must exceed, strictly, to become 1; not negative. ``inf`` switches a column
        off. With `quantile` it must stay 0, the least that a learned threshold can be.
    quantile : float or None, default=None
        Learn the thresholds instead: ``0 <= quantile < 1``.
    of : {"nonzero", "all"}, default="nonzero"
        With `quantile`, the training values that it is taken of: those that differ from 0, or
        all, zeros included. Without `quantile` it has no effect.

    Attributes
    ----------
    thresholds_ : ndarray of shape (n_features,), float64
        The threshold of each column, never negative.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,), object
        Names of the columns seen in `fit`, where all of them are strings.

    See Also
    --------
    sklearn.preprocessing.Binarizer : One given threshold, which may be negative for dense data.

    Notes
    -----
    The comparison is ``value > threshold`` in the dtype of `X`, as in
    `sklearn.preprocessing.Binarizer`. As no threshold is negative, a latent that is 0 or negative
    becomes 0, so that sparse data stay sparse and agree with the same data made dense.

    Quantiles are interpolated linearly, as `numpy.quantile` does, in float64. A negative quantile
    (of data with negative values) gives the threshold 0, and so does a column without a nonzero
    training value: such a latent is on as soon as it is active at all. Because the comparison is
    strict, ``quantile=0`` with ``of="nonzero"`` leaves a column's least training value off.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_features.binarizer import LatentBinarizer
    >>> X = np.array([[0.0, 5.0], [1.0, 0.0], [2.0, 0.0], [3.0, 7.0]])
    >>> LatentBinarizer(threshold=1.0).fit_transform(X)
    array([[0., 1.],
           [0., 0.],
           [1., 0.],
           [1., 1.]])
    >>> LatentBinarizer(quantile=0.5).fit(X).thresholds_
    array([2., 6.])
    >>> LatentBinarizer(quantile=0.5, of="all").fit(X).thresholds_
    array([1.5, 2.5])
    """

    def __init__(
        self,
        threshold: float | ArrayLike = 0.0,
        *,
        quantile: float | None = None,
        of: Literal["nonzero", "all"] = "nonzero",
    ) -> None:
        self.threshold = threshold
        self.quantile = quantile
        self.of = of

    def fit(self, X: Any, y: Any = None) -> LatentBinarizer:  # noqa: ARG002
        """Check the parameters and find the threshold of each column.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Latents. Float32 and float64 are kept, other dtypes become float64.
        y : None
            Ignored.

        Returns
        -------
        LatentBinarizer
            The fitted estimator itself.

        Raises
        ------
        InvalidParameterError
            If a parameter has a value that it cannot have, if `threshold` and `quantile` are both
            given, or if `threshold` has not one value per column.
        """
        X = self._validated(X, reset=True)
        if self.of not in _POPULATIONS:
            raise InvalidParameterError(expected_one_of("of", self.of, _POPULATIONS))
        if self.quantile is None:
            self.thresholds_ = _given_thresholds(self.threshold, X.shape[1])
        else:
            quantile = self._checked_quantile()
            self.thresholds_ = np.maximum(_column_quantiles(X, quantile, of=self.of), 0.0)
        return self

    def transform(self, X: Any) -> Any:
        """Binarize `X`, which is left as it is.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Latents.

        Returns
        -------
        {ndarray, CSR matrix or array} of shape (n_samples, n_features)
            Ones and zeros in the dtype of `X`: CSR, without stored zeros, where `X` is sparse.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        with np.errstate(over="ignore"):  # what float32 cannot hold is inf, which nothing exceeds
            thresholds = self.thresholds_.astype(X.dtype)
        if isinstance(X, np.ndarray):
            return np.greater(X, thresholds).astype(X.dtype)
        X = X.copy()
        X.sum_duplicates()
        X.data[:] = X.data > thresholds[X.indices]
        X.eliminate_zeros()
        return X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _validated(self, X: Any, *, reset: bool) -> Any:
        dtypes = (np.float64, np.float32)
        return validate_data(self, X, accept_sparse="csr", dtype=dtypes, reset=reset)

    def _checked_quantile(self) -> float:
        """Return the quantile where it is a possible one and no threshold is given beside it."""
        quantile: Any = self.quantile
        if not _is_number(quantile) or not 0 <= quantile < 1:
            msg = f"Got quantile={quantile!r}; expected a number >= 0 and < 1, or None."
            raise InvalidParameterError(msg)
        if not _is_number(self.threshold) or self.threshold != 0:
            msg = (
                f"Got threshold={self.threshold!r} and quantile={quantile!r}; expected one of the "
                "two. Leave threshold at 0 to learn the thresholds, or quantile at None to give "
                "them."
            )
            raise InvalidParameterError(msg)
        return float(quantile)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def _given_thresholds(threshold: Any, n_features: int) -> NDArray[np.float64]:
    """Return one threshold per column, shape (n_features,), from one number or an array-like."""
    expected = f"expected a number >= 0, or an array-like of {n_features}, one per column."
    try:
        given = np.asarray(threshold)
    except ValueError:  # a ragged list
        given = np.asarray(None)
    if given.dtype.kind not in "iuf":
        msg = f"Got threshold={threshold!r}; {expected}"
        raise InvalidParameterError(msg)
    if given.ndim and given.shape != (n_features,):
        msg = f"Got threshold of shape {given.shape}; {expected}"
        raise InvalidParameterError(msg)
    wrong = np.flatnonzero(~(given >= 0))  # NaN is wrong too
    if wrong.size:
        where = f"[{wrong[0]}]" if given.ndim else ""
        msg = f"Got threshold{where}={given.flat[wrong[0]].item()!r}; {expected}"
        raise InvalidParameterError(msg)
    return np.full(n_features, given, dtype=np.float64)


def _column_quantiles(X: Any, quantile: float, *, of: str) -> NDArray[np.float64]:
    """Return the quantile of each column, shape (n_features,); 0 for one without values.

    Parameters
    ----------
    X : {ndarray, CSR matrix or array} of shape (n_samples, n_features)
        Finite values; dense ones are made sparse some columns at a time.
    quantile : float
        In [0, 1).
    of : {"nonzero", "all"}
        Which values of a column count.
    """
    n_samples, n_features = X.shape
    if isinstance(X, np.ndarray):
        width = max(1, _DENSE_BLOCK // n_samples)
        blocks = (sparse.csr_array(X[:, at : at + width]) for at in range(0, n_features, width))
        return np.concatenate([_column_quantiles(block, quantile, of=of) for block in blocks])

    columns = X.tocsc()  # of CSR, hence a copy
    columns.sum_duplicates()
    columns.eliminate_zeros()
    first, last = columns.indptr[:-1], columns.indptr[1:]
    for begin, end in zip(first.tolist(), last.tolist(), strict=True):
        columns.data[begin:end].sort()
    values: NDArray[np.float64] = np.append(columns.data.astype(np.float64), 0.0)

    stored = last - first
    n_zeros = n_samples - stored if of == "all" else np.zeros_like(stored)
    negatives_before = np.append(0, np.cumsum(values < 0))
    n_negative = negatives_before[last] - negatives_before[first]
    size = stored + n_zeros

    def value_at(rank: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return each column's value at a rank, its zeros standing after its negative values."""
        is_zero = (rank >= n_negative) & (rank < n_negative + n_zeros) | (size == 0)
        position = first + np.where(rank < n_negative, rank, rank - n_zeros)
        return values[np.where(is_zero, -1, position)]

    last_rank = np.maximum(size - 1, 0)
    rank = quantile * last_rank
    lower = np.floor(rank).astype(np.int64)
    low, high = value_at(lower), value_at(np.minimum(lower + 1, last_rank))
    quantiles: NDArray[np.float64] = low + (high - low) * (rank - lower)
    return quantiles
