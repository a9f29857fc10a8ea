"""Ragged arrays: what belongs to the tokens of several items, laid end to end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_features.hook_point import HookPoint
    from sae_features.images import PatchGrid


@dataclass(frozen=True, repr=False)
class TokenActivations:
    """Dense activations of the tokens of several items.

    Attributes
    ----------
    values : ndarray of shape (n_tokens, d), float32
        One row per token, the items' tokens one after the other.
    offsets : ndarray of shape (n_items + 1,), int64
        Item ``i`` owns the rows ``offsets[i]:offsets[i + 1]``.
    grids : tuple of PatchGrid, optional
        Of images: where the patches of each item lie.

    Examples
    --------
    >>> import numpy as np
    >>> acts = TokenActivations(np.zeros((3, 2), np.float32), np.array([0, 1, 3]))
    >>> len(acts), acts[1].shape
    (2, (2, 2))
    """

    values: np.ndarray
    offsets: np.ndarray
    grids: tuple[PatchGrid, ...] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return (
            f"TokenActivations({len(self)} items, {len(self.values)} tokens, d={self.values.shape[1]})"
        )

    def __getitem__(self, item: int) -> np.ndarray:
        """Return the activations of one item, shape (n_tokens_i, d)."""
        start, stop = _bounds(self.offsets, item)
        return self.values[start:stop]


class ActivationsByPoint(dict["HookPoint", TokenActivations]):
    """Activations at several hook points, by ``(layer, site)`` and by what was asked for.

    Parameters
    ----------
    found : dict of HookPoint to TokenActivations
        Layers counted from 0.
    asked : mapping
        What was asked for, and the hook point that it stands for.
    """

    def __init__(
        self, found: Mapping[HookPoint, TokenActivations], asked: Mapping[Any, HookPoint]
    ) -> None:
        super().__init__(found)
        self.asked = dict(asked)

    def __missing__(self, key: Any) -> TokenActivations:
        """Return the activations that were asked for by another name."""
        if key not in self.asked:
            known = [
                *(tuple(point) for point in self),
                *(name for name in self.asked if name not in self),
            ]
            raise KeyError(f"Got {key!r}; expected one of {', '.join(map(repr, known))}.")
        return self[self.asked[key]]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.asked)


@dataclass(frozen=True, repr=False)
class TokenCodes:
    """Sparse latents of the tokens of several items.

    Attributes
    ----------
    indices : ndarray of shape (nnz,), uint16 or int32
        Latents that fire, ascending within a token; uint16 where there are at most 65,536.
    values : ndarray of shape (nnz,), float32, or float16 by choice
        How strongly; never 0, unless a value below 3e-8 became so in float16.
    token_offsets : ndarray of shape (n_tokens + 1,), int64
        Token ``t`` owns the entries ``token_offsets[t]:token_offsets[t + 1]``.
    item_offsets : ndarray of shape (n_items + 1,), int64
        Item ``i`` owns the tokens ``item_offsets[i]:item_offsets[i + 1]``.
    n_latents : int
        Number of latents of the SAE.
    grids : tuple of PatchGrid, optional
        Of images: where the patches of each item lie.
    """

    indices: np.ndarray
    values: np.ndarray
    token_offsets: np.ndarray
    item_offsets: np.ndarray
    n_latents: int
    grids: tuple[PatchGrid, ...] | None = None

    def __len__(self) -> int:
        return len(self.item_offsets) - 1

    def __repr__(self) -> str:
        n_tokens = len(self.token_offsets) - 1
        return (
            f"TokenCodes({len(self)} items, {n_tokens} tokens, n_latents={self.n_latents}, "
            f"{len(self.values)} nonzero)"
        )

    def __getitem__(self, item: int) -> TokenCodes:
        """Return the codes of one item."""
        first, last = _bounds(self.item_offsets, item)
        offsets = self.token_offsets[first : last + 1]
        entries = slice(offsets[0], offsets[-1])
        return TokenCodes(
            self.indices[entries].copy(),
            self.values[entries].copy(),
            offsets - offsets[0],
            np.array([0, last - first], np.int64),
            self.n_latents,
            None if self.grids is None else (self.grids[item],),
        )

    def latent(self, latent: int, item: int) -> np.ndarray:
        """Return how strongly a latent fires at each token of an item.

        Parameters
        ----------
        latent : int
            Number of the latent.
        item : int
            Number of the item.

        Returns
        -------
        ndarray of shape (n_tokens_i,), float32
            0 where it is silent.  ``codes.grids[item].map(…)`` lays that of an image out in rows.
        """
        if not (hasattr(latent, "__index__") and 0 <= latent < self.n_latents):
            raise IndexError(f"Got latent {latent!r}; expected 0 to {self.n_latents - 1}.")
        column: np.ndarray = self[item].tocsr()[:, [latent]].toarray()[:, 0]
        return column

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the arrays take."""
        arrays = (self.indices, self.values, self.token_offsets, self.item_offsets)
        return sum(array.nbytes for array in arrays)

    def tocsr(self) -> sp.csr_matrix:
        """Return a sparse matrix of shape (n_tokens, n_latents) that shares the values."""
        shape = (len(self.token_offsets) - 1, self.n_latents)
        indices = self.indices.astype(np.int32, copy=False)
        values = self.values.astype(np.float32, copy=False)
        return sp.csr_matrix((values, indices, self.token_offsets), shape=shape)

    @classmethod
    def concatenate(cls, parts: Sequence[TokenCodes], n_latents: int) -> TokenCodes:
        """Lay the items of several codes end to end.

        Parameters
        ----------
        parts : sequence of TokenCodes
            May be empty; all with ``n_latents`` latents.
        n_latents : int
            Number of latents.
        """
        return cls(
            np.concatenate([part.indices for part in parts] or [np.empty(0, index_type(n_latents))]),
            np.concatenate([part.values for part in parts] or [np.empty(0, np.float32)]),
            join_offsets([part.token_offsets for part in parts]),
            join_offsets([part.item_offsets for part in parts]),
            n_latents,
            join_grids(parts),
        )


def index_type(n_latents: int) -> type[np.generic]:
    """Return the type that numbers of latents are kept in."""
    return np.uint16 if n_latents <= 2**16 else np.int32


def join_grids(parts: Sequence[TokenCodes]) -> tuple[PatchGrid, ...] | None:
    """Return the grids of several codes laid end to end; None unless all have them."""
    grids = [part.grids for part in parts if part.grids is not None]
    return tuple(grid for of_part in grids for grid in of_part) if len(grids) == len(parts) > 0 else None


def join_offsets(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the offsets of ragged arrays laid end to end.

    Examples
    --------
    >>> join_offsets([np.array([0, 2, 3]), np.array([0, 1])]).tolist()
    [0, 2, 3, 4]
    """
    return offsets_of([np.diff(part) for part in parts])


def offsets_of(lengths: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return int64 offsets, starting with 0, of one or several arrays of lengths.

    Examples
    --------
    >>> offsets_of(np.array([2, 0, 1])).tolist()
    [0, 2, 2, 3]
    """
    pieces = [lengths] if isinstance(lengths, np.ndarray) else lengths
    return np.concatenate([np.zeros(1, np.int64), *pieces]).astype(np.int64).cumsum()


def _bounds(offsets: np.ndarray, item: int) -> tuple[int, int]:
    n_items = len(offsets) - 1
    if not -n_items <= item < n_items:
        message = f"Got item {item}; expected one of {n_items} items."
        raise IndexError(message)
    position = item % n_items
    return int(offsets[position]), int(offsets[position + 1])
