"""Values of items as flat arrays and whole numbers, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from sae_features.images import PatchGrid
from sae_features.pooled import PooledCodes, PooledItem
from sae_features.ragged import TokenCodes

if TYPE_CHECKING:
    from collections.abc import Sequence


class Kind(NamedTuple):
    """What values of one class are made of."""

    fields: tuple[str, ...]
    """Names of the arrays, each flat."""
    numbers: tuple[str, ...]
    """Names of the whole numbers."""


KINDS: Final = {
    "codes": Kind(("indices", "values", "token_offsets", "grid"), ("n_latents",)),
    "pooled": Kind(
        (
            "indices", "maximum", "total", "count", "first_indices", "first_values", "last_indices",
            "last_values",
        ),
        ("n_tokens",),
    ),
    "states": Kind(("rows",), ("n_tokens", "n_rows", "width")),
}  # fmt: skip
"""By name: TokenCodes of one item, PooledCodes and PooledItem."""
GRID_NUMBERS: Final = 6


class Encoded(NamedTuple):
    """A value as arrays and numbers, in the order of its kind."""

    kind: str
    arrays: tuple[np.ndarray, ...]
    numbers: tuple[int, ...]

    @property
    def layout(self) -> tuple[str, ...]:
        """What must be the same for values that share columns: the kind and the types."""
        return (self.kind, *(array.dtype.name for array in self.arrays))


def encode(value: Any) -> Encoded:
    """Return a value as flat arrays and numbers.

    Parameters
    ----------
    value : TokenCodes, PooledCodes or PooledItem
        Of one item.
    """
    if isinstance(value, TokenCodes):
        if len(value) != 1:
            raise ValueError(f"Got {value!r}; expected the codes of one item.")
        grids = [] if value.grids is None else [*value.grids[0][:2], *value.grids[0].box]
        arrays = (value.indices, value.values, value.token_offsets, np.array(grids, np.float64))
        return Encoded("codes", arrays, (int(value.n_latents),))
    if isinstance(value, PooledCodes):
        arrays = tuple(getattr(value, name) for name in KINDS["pooled"].fields)
        return Encoded("pooled", arrays, (int(value.n_tokens),))
    if isinstance(value, PooledItem):
        return Encoded("states", (value.rows.ravel(),), (int(value.n_tokens), *value.rows.shape))
    raise TypeError(f"Got a value of type {type(value).__name__}; expected codes or pooled states.")


def decode(kind: str, arrays: Sequence[np.ndarray], numbers: Sequence[int]) -> Any:
    """Return the value that was encoded.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    arrays : sequence of ndarray
        The value keeps them.
    numbers : sequence of int
        As encoded.
    """
    if kind == "codes":
        indices, values, token_offsets, flat = arrays
        item_offsets = np.array([0, len(token_offsets) - 1], np.int64)
        return TokenCodes(indices, values, token_offsets, item_offsets, numbers[0], _grids(flat))
    if kind == "pooled":
        named = dict(zip(KINDS[kind].fields, arrays, strict=True))
        return PooledCodes(**named, n_tokens=numbers[0])
    return PooledItem(arrays[0].reshape(numbers[1], numbers[2]), numbers[0])


def _grids(flat: np.ndarray) -> tuple[PatchGrid, ...] | None:
    if len(flat) != GRID_NUMBERS:
        return None
    rows, columns, left, top, right, bottom = flat.tolist()
    return (PatchGrid(int(rows), int(columns), (left, top, right, bottom)),)
