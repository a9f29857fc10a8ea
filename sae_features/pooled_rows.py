"""Features of items from what is kept of them: pooled once per process, whatever is searched over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from sae_features.pooling import keep_token_top_n, pool_each
from sae_features.ragged import TokenCodes
from sae_features.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sae_features.parameters import Pooling

MAX_BYTES = 256 * 2**20
POOL_ENTRIES = 2**18
"""Entries pooled at a time: few enough to stay in the processor's cache."""
DERIVED = MemoryStore(MAX_BYTES)
"""Pooled codes, by who computed the codes; made of them, and quickly made again."""


def pooled_rows(
    values: Mapping[bytes, Any],
    pooling: Pooling,
    *,
    token_top_n: int | None,
    n_latents: int,
    name: str | None,
) -> sp.csr_matrix:
    """Return one row of features per item.

    Parameters
    ----------
    values : mapping of bytes to TokenCodes, PooledCodes or SparseRow
        By digest, in order.
    pooling : {"max", "mean", "sum", "last", "first", "count"}
    token_top_n : int, optional
        Keep only the ``n`` largest latents of each token of codes first.
    n_latents : int
        Width of the rows.
    name : str, optional
        What names the codes for those who pool them again; None keeps nothing.

    Returns
    -------
    csr_matrix of shape (n_items, n_latents), float32
        int32 indices, sorted, without explicit zeros.
    """
    codes = {digest: v for digest, v in values.items() if isinstance(v, TokenCodes)}
    pooled: dict[bytes, Any] = {}
    if codes:
        pooled = pooled_before(name, token_top_n, list(codes))
        fresh: dict[bytes, Any] = {}
        for group in _groups({d: v for d, v in codes.items() if d not in pooled}):
            together = TokenCodes.concatenate(list(group.values()), n_latents)
            if token_top_n is not None:
                together = keep_token_top_n(together, token_top_n)
            fresh |= zip(group, pool_each(together), strict=True)
        if name:
            DERIVED.put_many(f"{name} {token_top_n}", fresh)
        pooled |= fresh
    rows = [pooled.get(digest, value).pool(pooling) for digest, value in values.items()]
    indptr = np.cumsum([0, *(len(indices) for indices, _ in rows)])
    data = np.concatenate([data for _, data in rows])
    matrix = sp.csr_matrix(
        (data, np.concatenate([indices for indices, _ in rows]), indptr), shape=(len(rows), n_latents)
    )
    matrix.has_sorted_indices = True
    if not data.all():
        matrix.eliminate_zeros()
    return matrix


def pooled_before(name: str | None, token_top_n: int | None, digests: list[bytes]) -> dict[bytes, Any]:
    """Return what :func:`pooled_rows` has pooled of codes of that name, by digest."""
    return DERIVED.get_many(f"{name} {token_top_n}", digests) if name else {}


def _groups(codes: Mapping[bytes, TokenCodes]) -> Iterator[dict[bytes, TokenCodes]]:
    """Yield items in groups of about as many entries as are pooled at a time."""
    group: dict[bytes, TokenCodes] = {}
    entries = 0
    for digest, value in codes.items():
        group[digest] = value
        entries += len(value.values)
        if entries >= POOL_ENTRIES:
            yield group
            group, entries = {}, 0
    if group:
        yield group
