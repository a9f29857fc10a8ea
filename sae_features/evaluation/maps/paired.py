"""Rows of two models for the same items, or for the tokens of the same items."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sae_features.errors import InputTypeError, InvalidInputError
from sae_features.ragged import TokenActivations, offsets_of


class Paired(NamedTuple):
    """Rows of model B and of model A that belong together."""

    X: Any
    """Of B: an ndarray or a sparse matrix of shape (n, p)."""
    Y: Any
    """Of A: the same of shape (n, q)."""
    offsets: np.ndarray | None
    """Shape (n_items + 1,), int64: the rows of each item's tokens; None where each row is an item."""

    @property
    def n_items(self) -> int:
        """How many items they are of."""
        return self.X.shape[0] if self.offsets is None else len(self.offsets) - 1

    def take(self, items: np.ndarray) -> Paired:
        """Return the rows of some items."""
        if self.offsets is None:
            return Paired(self.X[items], self.Y[items], None)
        lengths = np.diff(self.offsets)[items]
        starts = np.repeat(self.offsets[items] - offsets_of(lengths)[:-1], lengths)
        rows = starts + np.arange(len(starts))
        return Paired(self.X[rows], self.Y[rows], offsets_of(lengths))


def pair_up(X: Any, Y: Any, offsets: np.ndarray | None) -> Paired:
    """Return rows of both models as pairs.

    Raises
    ------
    InvalidInputError
        If there are not as many of each.
    """
    if X.shape[0] != Y.shape[0]:
        message = (
            f"Got {X.shape[0]} rows as X and {Y.shape[0]} as Y; expected rows of the same items, in the "
            "same order."
        )
        raise InvalidInputError(message)
    return Paired(X, Y, offsets)


def shared_offsets(X: Any, Y: Any) -> np.ndarray | None:
    """Return the offsets of token activations of both models, or None where both are rows of items.

    Raises
    ------
    InputTypeError
        If one is the one and one the other.
    InvalidInputError
        If there is no Y, or an item has not as many tokens in both: their tokenizers do not agree.
    """
    if Y is None:
        message = (
            "Got Y=None; LatentAligner requires y to be passed, but the target y is None. Expected rows "
            "of model A, of the same items as X."
        )
        raise InvalidInputError(message)
    given = [isinstance(rows, TokenActivations) for rows in (X, Y)]
    if not any(given):
        return None
    if not all(given):
        kinds = " and ".join(type(rows).__name__ for rows in (X, Y))
        raise InputTypeError(
            f"Got X and Y as {kinds}; expected rows of items, or token activations, of both models."
        )
    if len(X) != len(Y):
        message = f"Got tokens of {len(X)} items as X and of {len(Y)} as Y; expected the same items."
        raise InvalidInputError(message)
    counts = np.diff(X.offsets), np.diff(Y.offsets)
    different = np.flatnonzero(counts[0] != counts[1])
    if len(different):
        item = int(different[0])
        message = (
            f"Got {counts[0][item]} tokens in X and {counts[1][item]} in Y for item {item}; tokens are "
            "paired only where the tokenizers of both models agree. Give rows of pooled activations."
        )
        raise InvalidInputError(message)
    offsets: np.ndarray = X.offsets
    return offsets
