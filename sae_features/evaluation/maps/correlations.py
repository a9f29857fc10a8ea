"""Pearson's correlations between the columns of two matrices, in blocks of bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from sae_features.evaluation.maps.columns import Columns, dense, is_sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_VALUES = 2**23
"""Correlations, or values of gathered columns, that are held at a time: 64 MiB."""


def correlation_blocks(X: Any, Y: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the correlations of all columns of X with some of Y at a time.

    Parameters
    ----------
    X : {ndarray, sparse matrix} of shape (n, p)
        Finite values; sparse ones are multiplied as such.
    Y : {ndarray, sparse matrix} of shape (n, q)
        Of the same rows.

    Yields
    ------
    start : int
        First column of Y that is meant.
    block : ndarray of shape (p, columns), float64
        From -1 to 1; 0 where one of the two columns is constant.
    """
    left, right = Columns.of(X), Columns.of(Y)
    n, p = left.values.shape
    width = max(1, BLOCK_VALUES // p)
    inverse_left, inverse_right = _inverse(left.norms), _inverse(right.norms)
    for start in range(0, right.values.shape[1], width):
        columns = slice(start, start + width)
        block = _product(left.values, right.values[:, columns])
        block -= n * np.outer(left.shift, right.shift[columns])
        block *= inverse_left[:, None]
        block *= inverse_right[columns]
        yield start, np.clip(block, -1.0, 1.0, out=block)


def strongest(X: Any, Y: Any, count: int, *, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of X that are most correlated with each column of Y.

    Parameters
    ----------
    X, Y : {ndarray, sparse matrix} of shape (n, p) and (n, q)
        As in :func:`correlation_blocks`.
    count : int
        How many of each.
    positive : bool
        Whether the largest are meant; the largest in size if not.

    Returns
    -------
    indices : ndarray of shape (min(count, p), q), int64
        Columns of X, the most correlated first; of equals the lower column.
    correlations : ndarray of the same shape, float64

    Examples
    --------
    >>> X = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0], [2.0, 0.0, 1.0]])
    >>> indices, correlations = strongest(X, X[:, :1], 2, positive=True)
    >>> indices.ravel().tolist(), correlations.ravel().round(3).tolist()
    ([0, 2], [1.0, -0.5])
    """
    found, values = [], []
    for _, block in correlation_blocks(X, Y):
        keys = -block if positive else -np.abs(block)
        order = _smallest(keys, min(count, len(block)))
        found.append(order)
        values.append(np.take_along_axis(block, order, axis=0))
    return np.concatenate(found, axis=1), np.concatenate(values, axis=1)


def correlated_pairs(X: Any, Y: Any, least: float) -> Any:
    """Return the correlations that are at least so large.

    Parameters
    ----------
    X, Y : {ndarray, sparse matrix} of shape (n, p) and (n, q)
        As in :func:`correlation_blocks`.
    least : float
        Above 0.

    Returns
    -------
    csr_array of shape (q, p), float64
    """
    rows, columns, values = [], [], []
    for start, block in correlation_blocks(X, Y):
        of_x, of_y = np.nonzero(block >= least)
        rows.append(of_y + start)
        columns.append(of_x)
        values.append(block[of_x, of_y])
    where = np.concatenate(rows), np.concatenate(columns)
    return sparse.csr_array((np.concatenate(values), where), shape=(Y.shape[1], X.shape[1]))


def paired_correlations(X: Any, Y: Any) -> np.ndarray:
    """Return the correlation of each column of X with the same column of Y.

    Parameters
    ----------
    X, Y : {ndarray, sparse matrix} of shape (n, p)
        Finite values.

    Returns
    -------
    ndarray of shape (p,), float64
        0 where the column of X is constant, NaN where that of Y is: there nothing can be told.

    Examples
    --------
    >>> X = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    >>> paired_correlations(X, np.array([[0.0, 2.0, 1.0], [3.0, 1.0, 1.0]])).tolist()
    [1.0, 0.0, nan]
    """
    if is_sparse(X) != is_sparse(Y):
        X, Y = dense(X), dense(Y)
    left, right = Columns.of(X), Columns.of(Y)
    products = np.asarray((left.values * right.values).sum(axis=0)).ravel()
    products = products - X.shape[0] * left.shift * right.shift
    correlations = np.clip(products * _inverse(left.norms) * _inverse(right.norms), -1.0, 1.0)
    return np.where(right.norms > 0, correlations, np.nan)


def _product(left: Any, right: Any) -> np.ndarray:
    """Return ``left.T @ right``, dense, whatever each of them is."""
    if is_sparse(right) and not is_sparse(left):
        return np.ascontiguousarray((right.T @ left).T)
    product: np.ndarray = dense(left.T @ right)
    return product


def _inverse(norms: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(norms > 0, 1 / norms, 0.0)


def _smallest(keys: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of each column's smallest keys, the smallest first, of equals the lower row."""
    if count == 1:
        return keys.argmin(axis=0)[None]
    limits = np.partition(keys, count - 1, axis=0)[count - 1]
    order = np.empty((count, keys.shape[1]), np.int64)
    for column, limit in enumerate(limits):
        candidates = np.flatnonzero(keys[:, column] <= limit)
        ranks = np.argsort(keys[candidates, column], kind="stable")[:count]
        order[:, column] = candidates[ranks]
    return order
