"""What a model sees at a time, and what one run of it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from sae_features.architectures import Modality
    from sae_features.hook_point import HookPoint
    from sae_features.images import PatchGrid, Picture


@dataclass
class Windows:
    """Windows of several items: pieces of texts, or images.

    Attributes
    ----------
    modality : {"text", "image"}
        What the items are.
    ids : list of ndarray of int64
        Of texts: the tokens of each window.
    counted : list of ndarray of bool
        Which tokens of each window count.
    items : list of int
        The item that each window belongs to; ascending.
    truncated, empty : list of int
        Items that lost tokens, and items without a token that counts.
    pictures : list of Picture
        Of images: one per window.
    grids : list of PatchGrid, optional
        Of images: where the patches of each window lie.
    layout : str
        Of images with a prompt: the prompt, with a mark for the image.
    """

    modality: Modality = "text"
    ids: list[np.ndarray] = field(default_factory=list)
    counted: list[np.ndarray] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    grids: list[PatchGrid] | None = None
    layout: str = ""
    _counts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), init=False, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each window."""
        return np.array([len(mask) for mask in self.counted], np.int64)

    @property
    def counts(self) -> np.ndarray:
        """Counted tokens of each window."""
        if len(self._counts) != len(self.counted):
            self._counts = np.array([np.count_nonzero(mask) for mask in self.counted], np.int64)
        return self._counts


@dataclass(frozen=True)
class Batch:
    """What one run of the model gives.

    Attributes
    ----------
    windows : ndarray of int64
        The windows of this batch.
    lengths : dict of HookPoint to ndarray of int64
        How many rows each of them has: its counted tokens, or 1 at ``embedding``.
    values : dict of HookPoint to tensor of shape (sum of lengths, d), float32
        Their activations, window after window.
    """

    windows: np.ndarray
    lengths: dict[HookPoint, np.ndarray]
    values: dict[HookPoint, torch.Tensor]


def position_of(item: int, positions: Sequence[int] | None) -> int:
    """Return what an error calls an item."""
    return item if positions is None else positions[item]
