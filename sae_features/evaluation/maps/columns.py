"""Columns of dense and sparse matrices: their means and norms, and how strongly they fire."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import sklearn
from scipy import sparse

_EPS = float(np.finfo(np.float64).eps)


class Columns(NamedTuple):
    """The columns of a matrix, ready to be correlated.

    Dense ones are centred, sparse ones are not: what their means add to products is taken off there.
    """

    values: Any
    """Shape (n, p), float64: an ndarray, or a CSC array without stored zeros."""
    means: np.ndarray
    """Shape (p,), of the matrix as it was given."""
    shift: np.ndarray
    """Shape (p,): what is still to be taken off ``values``: the means, or zeros where it is done."""
    norms: np.ndarray
    """Shape (p,): root of the sum of squared deviations from the mean; 0 where a column is constant."""

    @classmethod
    def of(cls, X: Any) -> Columns:
        """Take an ndarray or a sparse matrix of shape (n, p)."""
        n = X.shape[0]
        if is_sparse(X):
            values = compressed(X)
            means = np.asarray(values.sum(axis=0)).ravel() / n
            stored = np.diff(values.indptr)
            deviations = values.data - np.repeat(means, stored)
            squares = column_sums(deviations**2, values.indptr) + (n - stored) * means**2
            return cls(values, means, means, _norms(squares, means, n))
        values = np.asarray(X, np.float64)
        means = values.mean(axis=0)
        values = values - means
        return cls(values, means, np.zeros_like(means), _norms((values**2).sum(axis=0), means, n))


class Firing(NamedTuple):
    """How strongly each latent fires where it does (where it is not 0), arrays of shape (p,)."""

    counts: np.ndarray
    """In how many rows; int64."""
    means: np.ndarray
    """Mean of what is not 0, float64; 0 where it never fires."""
    deviations: np.ndarray
    """Standard deviation of what is not 0, float64 (divided by the count)."""
    least: np.ndarray
    """The least of it, float64; 0 where it never fires."""
    largest: np.ndarray
    """The largest of it."""

    @classmethod
    def of(cls, X: Any) -> Firing:
        """Take an ndarray or a sparse matrix of shape (n, p)."""
        values = compressed(X)
        counts = np.diff(values.indptr).astype(np.int64)
        divisor = np.maximum(counts, 1)
        means = column_sums(values.data, values.indptr) / divisor
        deviations = values.data - np.repeat(means, counts)
        spread = np.sqrt(column_sums(deviations**2, values.indptr) / divisor)
        spread = np.where(spread > divisor * _EPS * np.abs(means), spread, 0.0)
        bounds = np.zeros((2, len(means)))
        fires = counts > 0
        if fires.any():
            first = values.indptr[:-1][fires]
            bounds[0, fires] = np.minimum.reduceat(values.data, first)
            bounds[1, fires] = np.maximum.reduceat(values.data, first)
        return cls(counts, means, spread, *bounds)


def is_sparse(X: Any) -> bool:
    """Tell whether a matrix is one of scipy's."""
    return bool(sparse.issparse(X))


def dense(X: Any) -> Any:
    """Return a matrix as an ndarray."""
    return X.toarray() if is_sparse(X) else X


def compressed(X: Any) -> Any:
    """Return a CSC array of its own, float64, without duplicates and stored zeros."""
    values = sparse.csc_array(X, dtype=np.float64, copy=True)
    values.sum_duplicates()
    values.eliminate_zeros()
    return values


def configured(rows: Any) -> Any:
    """Return CSR, float32 with int32 indices: a matrix or array as scikit-learn's configuration says."""
    is_array = sklearn.get_config().get("sparse_interface", "spmatrix") == "sparray"
    kind = sparse.csr_array if is_array else sparse.csr_matrix
    found = kind(rows, dtype=np.float32)
    found.indices, found.indptr = found.indices.astype(np.int32), found.indptr.astype(np.int32)
    found.eliminate_zeros()  # what float32 cannot hold
    found.sort_indices()
    return found


def column_sums(values: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Return the sums of what each column of a CSC array stores, shape (p,).

    Examples
    --------
    >>> column_sums(np.array([1.0, 2.0, 5.0]), np.array([0, 2, 2, 3])).tolist()
    [3.0, 0.0, 5.0]
    """
    column = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    return np.bincount(column, values, minlength=len(indptr) - 1)


def _norms(squares: np.ndarray, means: np.ndarray, n: int) -> np.ndarray:
    """Return roots; what rounding makes of a constant column counts as 0."""
    return np.where(squares > n * (n * _EPS * means) ** 2, np.sqrt(squares), 0.0)
