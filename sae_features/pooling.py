"""Pooling: from what belongs to tokens to one row per item.

A latent that is silent at a token counts as 0 there, so ``max`` is the largest of the values *and*,
where the latent does not fire at every token, 0.  An item without tokens gives a row of zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from sae_features.errors import InvalidParameterError, expected_one_of
from sae_features.parameters import ACTIVATION_POOLINGS, POOLINGS
from sae_features.pooled import PooledCodes
from sae_features.ragged import TokenCodes, offsets_of

if TYPE_CHECKING:
    from sae_features.parameters import Pooling
    from sae_features.ragged import TokenActivations


def pool_codes(codes: TokenCodes, pooling: Pooling, *, token_top_n: int | None = None) -> sp.csr_matrix:
    """Pool token codes into one sparse row per item.

    Parameters
    ----------
    codes : TokenCodes
        Codes of ``n_items`` items.
    pooling : {"max", "mean", "sum", "last", "first", "count"}
        ``count`` is the number of tokens at which the latent fires.
    token_top_n : int, optional
        Keep only each token's ``n`` largest latents first.

    Returns
    -------
    csr_matrix of shape (n_items, n_latents), float32
        int32 indices, sorted, without explicit zeros.  Sums are accumulated in float64.

    Raises
    ------
    InvalidParameterError
        If ``pooling`` or ``token_top_n`` cannot be.
    """
    _check_pooling(pooling, POOLINGS)
    n_tokens = np.diff(codes.item_offsets)
    if pooling in ("first", "last"):
        codes = _one_token(codes, last=pooling == "last")
    if token_top_n is not None:
        codes = keep_token_top_n(codes, token_top_n)

    runs = _runs(codes)
    pooled = _reduce(runs, n_tokens[runs.items], pooling)
    rows = sp.csc_matrix(
        (pooled.astype(np.float32), runs.items.astype(np.int32), runs.indptr),
        shape=(len(codes), codes.n_latents),
    ).tocsr()
    rows.eliminate_zeros()
    return rows


def pool_each(codes: TokenCodes) -> list[PooledCodes]:
    """Pool token codes in all ways at once, item by item.

    Parameters
    ----------
    codes : TokenCodes
        Codes of ``n_items`` items.

    Returns
    -------
    list of PooledCodes
        Each pools to what :func:`pool_codes` gives, before zeros are dropped.
    """
    if len(codes) == 0:
        return []
    n_tokens = np.diff(codes.item_offsets)
    runs = _runs(codes)
    # To item-major order, again by a transposition.
    order = sp.csc_matrix(
        (np.arange(len(runs.items)), runs.items, runs.indptr), shape=(len(codes), codes.n_latents)
    ).tocsr()
    counts = runs.fires[order.data].astype(np.int32)
    maxima = _reduce(runs, n_tokens[runs.items], "max")[order.data].astype(np.float32)
    totals = _reduce(runs, n_tokens[runs.items], "sum")[order.data].astype(np.float64)
    indices = order.indices.astype(np.int32, copy=False)
    first, last = (_one_token(codes, last=last) for last in (False, True))
    columns = (np.split(column, order.indptr[1:-1]) for column in (indices, maxima, totals, counts))
    pooled = []
    for *arrays, of_first, of_last, n in zip(
        *columns, _entries(first), _entries(last), n_tokens, strict=True
    ):
        own = [array.copy() for array in (*arrays, *of_first, *of_last)]
        pooled.append(PooledCodes(*own, int(n)))  # type: ignore[call-arg]
    return pooled


def rows_of_matrix(rows: sp.csr_matrix) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the indices and values of each row (at least one)."""
    bounds = rows.indptr[1:-1]
    indices = rows.indices.astype(np.int32, copy=False)
    return list(zip(np.split(indices, bounds), np.split(rows.data, bounds), strict=True))


def _entries(codes: TokenCodes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the indices and values of all entries of each item, of at most one token."""
    bounds = codes.token_offsets[codes.item_offsets][1:-1]
    indices = codes.indices.astype(np.int32, copy=False)
    values = codes.values.astype(np.float32, copy=False)
    return list(zip(np.split(indices, bounds), np.split(values, bounds), strict=True))


class _Runs(NamedTuple):
    """Entries in latent-major order, items ascending within a latent: one run per item and latent."""

    values: np.ndarray
    starts: np.ndarray
    fires: np.ndarray
    """At how many tokens: the lengths of the runs."""
    items: np.ndarray
    """Of each run."""
    indptr: np.ndarray
    """Runs of each latent."""


def _runs(codes: TokenCodes) -> _Runs:
    """Bring codes into latent-major order: a transposition is a counting sort."""
    by_latent = codes.tocsr().tocsc()
    token_items = np.repeat(np.arange(len(codes), dtype=np.int32), np.diff(codes.item_offsets))
    items = token_items[by_latent.indices]
    is_start = np.empty(len(items), bool)
    is_start[:1] = True
    np.not_equal(items[1:], items[:-1], out=is_start[1:])
    firsts = by_latent.indptr[:-1]
    is_start[firsts[firsts < len(items)]] = True
    starts = np.flatnonzero(is_start)
    return _Runs(
        by_latent.data,
        starts,
        np.diff(starts, append=len(items)),
        items[starts],
        np.searchsorted(starts, by_latent.indptr),
    )


def _reduce(runs: _Runs, n_tokens: np.ndarray, pooling: str) -> np.ndarray:
    """Reduce runs of values to one value each."""
    if len(runs.starts) == 0:
        return np.empty(0, np.float32)
    if pooling == "count":
        return runs.fires
    if pooling == "max":
        largest = np.maximum.reduceat(runs.values, runs.starts)
        return np.where(runs.fires < n_tokens, np.maximum(largest, 0), largest)
    total = np.add.reduceat(runs.values, runs.starts, dtype=np.float64)
    return total / n_tokens if pooling == "mean" else total


def _one_token(codes: TokenCodes, *, last: bool) -> TokenCodes:
    """Keep the first or the last token of each item; items without tokens keep none."""
    has_tokens = np.diff(codes.item_offsets) > 0
    chosen = (codes.item_offsets[1:] - 1 if last else codes.item_offsets[:-1])[has_tokens]
    kept = codes.tocsr()[chosen]
    item_offsets = offsets_of(has_tokens)
    return TokenCodes(
        kept.indices, kept.data, kept.indptr.astype(np.int64), item_offsets, codes.n_latents
    )


def keep_token_top_n(codes: TokenCodes, n: int) -> TokenCodes:
    """Keep each token's ``n`` largest latents; of equal ones, those with the lowest numbers.

    Parameters
    ----------
    codes : TokenCodes
        Codes with any number of latents per token.
    n : int
        At least 1.

    Returns
    -------
    TokenCodes
        At most ``n`` entries per token.

    Raises
    ------
    InvalidParameterError
        If ``n`` is below 1.
    """
    if n < 1:
        raise InvalidParameterError(f"Got token_top_n={n}; expected at least 1.")
    fires = np.diff(codes.token_offsets)
    crowded = np.flatnonzero(fires > n)
    if len(crowded) == 0:
        return codes
    keep = np.ones(len(codes.values), bool)
    entries_of_crowded = np.repeat(fires > n, fires)
    tokens = np.repeat(np.arange(len(fires)), fires)[entries_of_crowded]
    order = np.lexsort((-codes.values[entries_of_crowded], tokens))  # stable: indices ascend
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(offsets_of(fires[crowded])[:-1], fires[crowded])
    keep[entries_of_crowded] = rank < n
    return TokenCodes(
        codes.indices[keep],
        codes.values[keep],
        offsets_of(np.minimum(fires, n)),
        codes.item_offsets,
        codes.n_latents,
    )


def pool_activations(activations: TokenActivations, pooling: Pooling) -> np.ndarray:
    """Pool dense token activations into one row per item.

    Parameters
    ----------
    activations : TokenActivations
        Activations of ``n_items`` items.
    pooling : {"max", "mean", "sum", "last", "first"}
        How the tokens of an item become one row.

    Returns
    -------
    ndarray of shape (n_items, d), float32

    Raises
    ------
    InvalidParameterError
        If ``pooling`` cannot be.
    """
    _check_pooling(pooling, ACTIVATION_POOLINGS)
    offsets = activations.offsets
    lengths = np.diff(offsets)
    filled = np.flatnonzero(lengths)
    pooled = np.zeros((len(lengths), activations.values.shape[1]), np.float32)
    if len(filled) == 0:
        return pooled
    starts = offsets[:-1][filled]
    if pooling == "first":
        pooled[filled] = activations.values[starts]
    elif pooling == "last":
        pooled[filled] = activations.values[offsets[1:][filled] - 1]
    elif pooling == "max":
        pooled[filled] = np.maximum.reduceat(activations.values, starts, axis=0)
    else:
        total = np.add.reduceat(activations.values, starts, axis=0, dtype=np.float64)
        pooled[filled] = total / lengths[filled, None] if pooling == "mean" else total
    return pooled


def _check_pooling(pooling: str, options: tuple[Pooling, ...]) -> None:
    if pooling not in options:
        raise InvalidParameterError(expected_one_of("pooling", pooling, options))
