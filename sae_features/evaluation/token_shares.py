"""To which tokens a pooled value is due."""

from __future__ import annotations

import numpy as np


def token_shares(values: np.ndarray, pooling: str) -> np.ndarray:
    """Return which share of a pooled value is due to which token.

    Parameters
    ----------
    values : ndarray of shape (n_tokens, m)
        How strongly each of some latents fires at each token of an item.
    pooling : {"max", "mean", "sum", "last", "first", "count"}

    Returns
    -------
    ndarray of shape (n_tokens, m), float64
        Columns sum to 1; one without a value at any token is shared out evenly.  Of hidden states, which
        have both signs, shares of a mean or a sum may be below 0 or above 1.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.array([[1.0, 0.0], [3.0, 2.0]])
    >>> token_shares(values, "max").tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    >>> token_shares(values, "mean").tolist()
    [[0.25, 0.0], [0.75, 1.0]]
    >>> token_shares(values, "count").tolist()
    [[0.5, 0.0], [0.5, 1.0]]
    """
    n_tokens, width = values.shape
    if n_tokens == 0:
        return np.zeros((0, width))
    weights = values.astype(np.float64)
    if pooling == "count":
        weights = (values != 0).astype(np.float64)
    elif pooling in ("max", "first", "last"):
        at = {"max": values.argmax(axis=0), "first": 0, "last": n_tokens - 1}[pooling]
        weights = np.zeros(values.shape)
        weights[at, np.arange(width)] = 1
    totals = weights.sum(axis=0)
    return np.where(totals == 0, 1 / n_tokens, weights / np.where(totals == 0, 1, totals))
