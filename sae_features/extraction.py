"""From items to what is kept of them: the only place that runs models in a loop."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_features.backbones.batches import will_run
from sae_features.hook_point import EMBEDDING
from sae_features.ragged import TokenCodes
from sae_features.readers import encode_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sae_features.backbones.backbone import Backbone
    from sae_features.backbones.tokens import TokenPolicy
    from sae_features.backbones.windows import Windows
    from sae_features.images import PatchGrid
    from sae_features.items import Items
    from sae_features.ragged import TokenActivations
    from sae_features.readers import Reader
    from sae_features.saes.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class Extracted:
    """What one run over texts gave.

    Attributes
    ----------
    values : list of list
        For each reader, what it keeps of each item.
    truncated, empty : list of int
        Positions of texts that lost tokens, and of texts without a token that counts.
    """

    values: list[list[Any]]
    truncated: list[int]
    empty: list[int]


def extract(
    backbone: Backbone,
    items: Items,
    policy: TokenPolicy,
    readers: Sequence[Reader],
    *,
    windows: Windows | None = None,
    batch_size: int | None = None,
    positions: Sequence[int] | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Extracted:
    """Run a backbone once over items, for any number of readers.

    Parameters
    ----------
    backbone : Backbone
        The model.
    items : Items
        Best without repeats.
    policy : TokenPolicy
        Which tokens the model sees and which count.
    readers : sequence of Reader
        What to keep; several may read several hook points.
    windows : Windows, optional
        Those of the items, if they were made ahead.
    batch_size : int, optional
        Windows in a batch; by their length if not given.
    positions : sequence of int, optional
        What an error calls each item; its place in ``items`` if not given.
    progress : callable, optional
        Called with numbers of items that were finished and of tokens that were read.

    Returns
    -------
    Extracted
        Its positions are places in ``items``.

    Raises
    ------
    InvalidInputError
        If an image cannot be read, or activations are not finite.
    """
    if windows is None:
        windows = backbone.windows(items, policy, positions)
    points = list(dict.fromkeys(reader.point for reader in readers))
    unfinished = _Unfinished(windows, will_run(windows, points), len(items), progress)
    kept: list[dict[int, Any]] = [{} for _ in readers]
    for batch in backbone.run(windows, points, batch_size=batch_size, positions=positions):
        for reader, by_window in zip(readers, kept, strict=True):
            pieces = reader.read(batch.values[reader.point], batch.lengths[reader.point])
            by_window.update(zip(batch.windows.tolist(), pieces, strict=True))
        unfinished.leave(batch.windows)
    windows_of: dict[int, list[int]] = defaultdict(list)
    for window, item in enumerate(windows.items):
        windows_of[item].append(window)
    values = [
        [
            _with_grid(
                reader.join([by_window[w] for w in windows_of[item] if w in by_window]),
                windows.grids[item] if windows.grids and reader.point.site != EMBEDDING else None,
            )
            for item in range(len(items))
        ]
        for reader, by_window in zip(readers, kept, strict=True)
    ]
    counts_tokens = any(reader.point.site != EMBEDDING for reader in readers)
    return Extracted(values, windows.truncated, windows.empty if counts_tokens else [])


class _Unfinished:
    """Counts how many windows of each item are still to come, and tells when items are finished."""

    def __init__(
        self, windows: Windows, runs: np.ndarray, n_items: int, tell: Callable[[int, int], Any] | None
    ) -> None:
        self.items = np.array(windows.items, np.int64)
        self.lengths = windows.lengths
        self.open = np.bincount(self.items[runs], minlength=n_items)
        self.tell = tell
        if tell:
            tell(int((self.open == 0).sum()), 0)

    def leave(self, windows: np.ndarray) -> None:
        items, counts = np.unique(self.items[windows], return_counts=True)
        self.open[items] -= counts
        if self.tell:
            self.tell(int((self.open[items] == 0).sum()), int(self.lengths[windows].sum()))


def _with_grid(value: Any, grid: PatchGrid | None) -> Any:
    """Return the codes of an image with its grid; anything else as it is."""
    if grid is None or not isinstance(value, TokenCodes):
        return value
    return replace(value, grids=(grid,))


def codes_of_activations(sae: SparseAutoencoder, activations: TokenActivations) -> TokenCodes:
    """Encode token activations that are in memory.

    Parameters
    ----------
    sae : SparseAutoencoder
    activations : TokenActivations
        Of size ``sae.d_in``.

    Returns
    -------
    TokenCodes
        Of the same items and tokens.
    """
    values = np.require(activations.values, requirements=["C", "W"])  # as torch wants it
    codes = encode_tokens(sae, torch.from_numpy(values), activations.offsets)
    return replace(codes, grids=activations.grids)
