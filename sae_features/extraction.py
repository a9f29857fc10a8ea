"""From items to token codes or pooled hidden states: the only place that runs models in a loop."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from sae_features.backbones.batches import will_run
from sae_features.hook_point import EMBEDDING
from sae_features.pooling import pool_activations
from sae_features.ragged import TokenActivations, TokenCodes, offsets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sae_features.backbones.backbone import Backbone
    from sae_features.backbones.tokens import TokenPolicy
    from sae_features.backbones.windows import Windows
    from sae_features.hook_point import HookPoint
    from sae_features.images import PatchGrid
    from sae_features.items import Items
    from sae_features.parameters import Pooling
    from sae_features.saes.autoencoder import SparseAutoencoder


class Reader(Protocol):
    """What is kept of the activations at one hook point."""

    @property
    def point(self) -> HookPoint:
        """Where to read."""

    def read(self, values: torch.Tensor, lengths: np.ndarray) -> list[Any]:
        """Return what is kept of each window; ``values`` (sum of lengths, d)."""

    def join(self, windows: Sequence[Any]) -> Any:
        """Return what is kept of an item, from its windows in order (maybe none)."""


@dataclass(frozen=True)
class CodesReader:
    """Keeps the latents of every token, sparse: TokenCodes of one item."""

    point: HookPoint
    sae: SparseAutoencoder

    def read(self, values: torch.Tensor, lengths: np.ndarray) -> list[TokenCodes]:
        """Encode the tokens of several windows."""
        codes = encode_tokens(self.sae, values, offsets_of(lengths))
        return [codes[window] for window in range(len(codes))]

    def join(self, windows: Sequence[TokenCodes]) -> TokenCodes:
        """Lay the windows of an item end to end: one item of all their tokens."""
        joined = TokenCodes.concatenate(windows, self.sae.n_latents)
        span = np.array([0, joined.item_offsets[-1]], np.int64)
        return TokenCodes(joined.indices, joined.values, joined.token_offsets, span, joined.n_latents)


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
        row: np.ndarray = self.rows[KEPT_POOLINGS.index("sum" if is_mean else pooling)]
        return row / max(1, self.n_tokens) if is_mean else row


KEPT_POOLINGS: tuple[Pooling, ...] = ("max", "sum", "first", "last")


@dataclass(frozen=True)
class PooledReader:
    """Keeps hidden states pooled in all ways, so that no change of pooling runs the model."""

    point: HookPoint
    d_model: int

    def read(self, values: torch.Tensor, lengths: np.ndarray) -> list[PooledItem]:
        """Pool the tokens of several windows."""
        acts = TokenActivations(values.cpu().numpy(), offsets_of(lengths))
        pooled = np.stack([pool_activations(acts, kind) for kind in KEPT_POOLINGS], axis=1)
        return [PooledItem(row.copy(), int(n)) for row, n in zip(pooled, lengths, strict=True)]

    def join(self, windows: Sequence[PooledItem]) -> PooledItem:
        """Combine the windows of an item."""
        if not windows:
            return PooledItem(np.zeros((len(KEPT_POOLINGS), self.d_model), np.float32), 0)
        if len(windows) == 1:
            return windows[0]
        rows = np.stack([window.rows for window in windows])
        total = rows[:, 1].sum(axis=0, dtype=np.float64).astype(np.float32)
        joined = np.stack([rows[:, 0].max(axis=0), total, rows[0, 2], rows[-1, 3]])
        return PooledItem(joined, sum(window.n_tokens for window in windows))


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
    batch_size: int | None = None,
    positions: Sequence[int] | None = None,
    progress: Callable[[int], Any] | None = None,
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
    batch_size : int, optional
        Windows in a batch; by their length if not given.
    positions : sequence of int, optional
        What an error calls each item; its place in ``items`` if not given.
    progress : callable, optional
        Called with the number of items that were finished.

    Returns
    -------
    Extracted
        Its positions are places in ``items``.

    Raises
    ------
    InvalidInputError
        If an image cannot be read, or activations are not finite.
    """
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
        self, windows: Windows, runs: np.ndarray, n_items: int, tell: Callable[[int], Any] | None
    ) -> None:
        self.items = np.array(windows.items, np.int64)
        self.open = np.bincount(self.items[runs], minlength=n_items)
        self.tell = tell
        if tell:
            tell(int((self.open == 0).sum()))

    def leave(self, windows: np.ndarray) -> None:
        items, counts = np.unique(self.items[windows], return_counts=True)
        self.open[items] -= counts
        if self.tell:
            self.tell(int((self.open[items] == 0).sum()))


def _with_grid(value: Any, grid: PatchGrid | None) -> Any:
    """Return the codes of an image with its grid; anything else as it is."""
    if grid is None or not isinstance(value, TokenCodes):
        return value
    return replace(value, grids=(grid,))


def encode_tokens(sae: SparseAutoencoder, values: torch.Tensor, item_offsets: np.ndarray) -> TokenCodes:
    """Encode the activations of tokens.

    Parameters
    ----------
    sae : SparseAutoencoder
    values : tensor of shape (n_tokens, d_in)
    item_offsets : ndarray of shape (n_items + 1,), int64
        Which tokens belong to which item.

    Returns
    -------
    TokenCodes
    """
    with torch.inference_mode():
        latents = sae.encode_sparse(values.to(sae.device))
    return TokenCodes(
        latents.indices.to(torch.int32).cpu().numpy(),
        latents.values.float().cpu().numpy(),
        offsets_of(latents.counts.cpu().numpy()),
        item_offsets,
        sae.n_latents,
    )


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
