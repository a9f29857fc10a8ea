"""What is kept of an item once its tokens are pooled, in all ways at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sae_features.parameters import Pooling

STATE_POOLINGS: tuple[Pooling, ...] = ("max", "sum", "first", "last")
"""How :class:`PooledItem` pools; the mean is made of the sum."""


@dataclass(frozen=True)
class PooledItem:
    """Hidden states of one item, pooled in all ways at once.

    Attributes
    ----------
    rows : ndarray of shape (4, d), float32
        Maximum, sum, first and last token.
    n_tokens : int
        Tokens that were pooled.
    """

    rows: np.ndarray
    n_tokens: int

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the rows take."""
        return self.rows.nbytes

    def pool(self, pooling: Pooling) -> np.ndarray:
        """Return one row of shape (d,), float32.

        The mean is the kept sum divided: as :func:`sae_features.pooling.pool_activations` has it,
        but for the rounding of each window's sum to float32.
        """
        is_mean = pooling == "mean"
        row: np.ndarray = self.rows[STATE_POOLINGS.index("sum" if is_mean else pooling)]
        return row / max(1, self.n_tokens) if is_mean else row


@dataclass(frozen=True, eq=False)
class PooledCodes:
    """Latents of one item, pooled in all ways at once.

    Attributes
    ----------
    indices : ndarray of shape (m,), int32
        Latents that fire at some token, ascending.
    maximum : ndarray of shape (m,), float32
        Their largest values, where silence at a token counts as 0.
    total : ndarray of shape (m,), float64
        Their sums.
    count : ndarray of shape (m,), int32
        At how many tokens each fires.
    first_indices, last_indices : ndarray of int32
        Latents that fire at the first and the last token, ascending.
    first_values, last_values : ndarray of float32
        How strongly.
    n_tokens : int
        Tokens that were pooled.
    """

    indices: np.ndarray
    maximum: np.ndarray
    total: np.ndarray
    count: np.ndarray
    first_indices: np.ndarray
    first_values: np.ndarray
    last_indices: np.ndarray
    last_values: np.ndarray
    n_tokens: int

    @classmethod
    def of_nothing(cls) -> PooledCodes:
        """Return those of an item without tokens."""
        indices, values = np.empty(0, np.int32), np.empty(0, np.float32)
        return cls(indices, values, np.empty(0), indices, indices, values, indices, values, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the arrays take."""
        return sum(array.nbytes for array in vars(self).values() if isinstance(array, np.ndarray))

    def pool(self, pooling: Pooling) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices, ascending, and values of one sparse row; values may be 0.

        Parameters
        ----------
        pooling : {"max", "mean", "sum", "last", "first", "count"}

        Returns
        -------
        indices : ndarray of int32
        values : ndarray of float32
        """
        if pooling == "first":
            return self.first_indices, self.first_values
        if pooling == "last":
            return self.last_indices, self.last_values
        if pooling == "max":
            return self.indices, self.maximum
        if pooling == "count":
            return self.indices, self.count.astype(np.float32)
        total = self.total / max(1, self.n_tokens) if pooling == "mean" else self.total
        return self.indices, total.astype(np.float32)


@dataclass(frozen=True, eq=False)
class SparseRow:
    """Features of one item, pooled in one way.

    Attributes
    ----------
    indices : ndarray of shape (nnz,), int32
        Ascending.
    values : ndarray of shape (nnz,), float32, or float64 while windows are added
    n_tokens : int
        Tokens that were pooled.
    """

    indices: np.ndarray
    values: np.ndarray
    n_tokens: int

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the arrays take."""
        return self.indices.nbytes + self.values.nbytes

    def pool(self, pooling: Pooling) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        """Return indices and values; the pooling was chosen before."""
        return self.indices, self.values.astype(np.float32, copy=False)


def join_rows(windows: Sequence[SparseRow], pooling: Pooling) -> SparseRow:
    """Return the features of an item from those of its windows in order (maybe none).

    For ``"mean"`` the windows hold sums.
    """
    if not windows:
        return SparseRow(np.empty(0, np.int32), np.empty(0, np.float32), 0)
    n_tokens = sum(window.n_tokens for window in windows)
    if pooling in ("first", "last"):
        chosen = windows[-1 if pooling == "last" else 0]
        return SparseRow(chosen.indices, chosen.values, n_tokens)
    indices, values = windows[0].indices, windows[0].values
    if len(windows) > 1:
        given = np.concatenate([window.values for window in windows])
        indices, owner = np.unique(
            np.concatenate([window.indices for window in windows]), return_inverse=True
        )
        if pooling == "max":
            values = np.full(len(indices), -np.inf, np.float32)
            np.maximum.at(values, owner, given)
            is_silent_somewhere = np.bincount(owner, minlength=len(indices)) < len(windows)
            values[is_silent_somewhere] = np.maximum(values[is_silent_somewhere], 0)
        else:
            values = np.bincount(owner, weights=given, minlength=len(indices))
    if pooling == "mean":
        values = values.astype(np.float64, copy=False) / max(1, n_tokens)
    return SparseRow(indices.astype(np.int32, copy=False), values, n_tokens)


def join_pooled(windows: Sequence[PooledCodes]) -> PooledCodes:
    """Return the latents of an item, pooled over its windows in order."""
    windows = [window for window in windows if window.n_tokens]
    if len(windows) < 2:
        return windows[0] if windows else PooledCodes.of_nothing()
    ways: tuple[Pooling, ...] = ("max", "sum", "count")
    fields = {"max": "maximum", "sum": "total", "count": "count"}
    joined = {
        way: join_rows([SparseRow(w.indices, getattr(w, fields[way]), w.n_tokens) for w in windows], way)
        for way in ways
    }
    return PooledCodes(
        joined["max"].indices,
        joined["max"].values,
        joined["sum"].values,
        joined["count"].values.astype(np.int32),
        windows[0].first_indices,
        windows[0].first_values,
        windows[-1].last_indices,
        windows[-1].last_values,
        joined["max"].n_tokens,
    )
