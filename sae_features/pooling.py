"""Pooling: from what belongs to tokens to one row per item.

A latent that is silent at a token counts as 0 there, so ``max`` is the largest of the values *and*,
where the latent does not fire at every token, 0.  An item without tokens gives a row of zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from sae_features.errors import InvalidParameterError, expected_one_of
from sae_features.parameters import ACTIVATION_POOLINGS, POOLINGS
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

    # Latent-major order, items ascending within a latent: a transposition is a counting sort.
    by_latent = codes.tocsr().tocsc()
    token_items = np.repeat(np.arange(len(codes)), np.diff(codes.item_offsets))
    items = token_items[by_latent.indices]
    latents = np.repeat(np.arange(codes.n_latents), np.diff(by_latent.indptr))
    is_start = np.ones(len(items), bool)
    is_start[1:] = (items[1:] != items[:-1]) | (latents[1:] != latents[:-1])
    starts = np.flatnonzero(is_start)
    fires = np.diff(np.append(starts, len(items)))
    pooled = _reduce(by_latent.data, starts, fires, n_tokens[items[starts]], pooling)

    indptr = np.searchsorted(latents[starts], np.arange(codes.n_latents + 1))
    shape = (len(codes), codes.n_latents)
    pooled_by_latent = sp.csc_matrix(
        (pooled.astype(np.float32), items[starts].astype(np.int32), indptr), shape=shape
    )
    rows = pooled_by_latent.tocsr()
    rows.eliminate_zeros()
    return rows


def _reduce(
    values: np.ndarray, starts: np.ndarray, fires: np.ndarray, n_tokens: np.ndarray, pooling: str
) -> np.ndarray:
    """Reduce runs of values (one run per item and latent) to one value each."""
    if len(starts) == 0:
        return np.empty(0, np.float32)
    if pooling == "count":
        return fires
    if pooling == "max":
        largest = np.maximum.reduceat(values, starts)
        return np.where(fires < n_tokens, np.maximum(largest, 0), largest)
    total = np.add.reduceat(values, starts, dtype=np.float64)
    return total / n_tokens if pooling == "mean" else total


def _one_token(codes: TokenCodes, *, last: bool) -> TokenCodes:
    """Keep the first or the last token of each item."""
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
