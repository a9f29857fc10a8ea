"""What is kept of activations at a hook point: codes, codes pooled, rows of features, hidden states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from sae_features.errors import InvalidParameterError
from sae_features.pooled import (
    STATE_POOLINGS,
    PooledCodes,
    PooledItem,
    SparseRow,
    join_pooled,
    join_rows,
)
from sae_features.pooling import pool_activations, pool_codes, pool_each, rows_of_matrix
from sae_features.ragged import TokenActivations, TokenCodes, index_type, offsets_of
from sae_features.saes.autoencoder import SparseLatents
from sae_features.saes.firing import above

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sae_features.hook_point import HookPoint
    from sae_features.parameters import Pooling
    from sae_features.saes.autoencoder import SparseAutoencoder

DENSE_SHARE = 1 / 16
"""Where more of the latents fire, sparse codes take longer than dense pooling, and more memory."""
MAX_CODES_BYTES = 2**20
"""Codes of one item that are larger are kept pooled, where poolings are all that is wanted."""
MAX_FLOAT16 = 65504
SUM_ROWS = 64
"""Tokens whose values are added in float32; sums of such sums are float64."""


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
    """Keeps the latents of every token, sparse: TokenCodes of one item.

    Attributes
    ----------
    point : HookPoint
        Where to read.
    sae : SparseAutoencoder
        What to encode with.
    dtype : {"float32", "float16"}
        Type of the values.
    """

    point: HookPoint
    sae: SparseAutoencoder
    dtype: str = "float32"

    def read(self, values: torch.Tensor, lengths: np.ndarray) -> list[TokenCodes]:
        """Encode the tokens of several windows."""
        codes = encode_tokens(self.sae, values, offsets_of(lengths))
        if self.dtype == "float16":
            codes = replace(codes, values=_halved(codes.values))
        return [codes[window] for window in range(len(codes))]

    def join(self, windows: Sequence[TokenCodes]) -> TokenCodes:
        """Lay the windows of an item end to end: one item of all their tokens."""
        joined = TokenCodes.concatenate(windows, self.sae.n_latents)
        span = np.array([0, joined.item_offsets[-1]], np.int64)
        return TokenCodes(joined.indices, joined.values, joined.token_offsets, span, joined.n_latents)


@dataclass(frozen=True)
class CodesOrPooledReader:
    """Keeps TokenCodes where they are sparse and small, or else PooledCodes: all that poolings need."""

    point: HookPoint
    sae: SparseAutoencoder
    dtype: str = "float32"

    def read(self, values: torch.Tensor, lengths: np.ndarray) -> list[TokenCodes | PooledCodes]:
        """Encode the tokens of several windows; pool them in each chunk where many latents fire."""
        if not fires_often(self.sae, values):
            return list(CodesReader(self.point, self.sae, self.dtype).read(values, lengths))
        pieces: list[list[PooledCodes]] = [[] for _ in lengths]
        for pre, segments in _chunks(self.sae, values, lengths):
            latents = self.sae.activate(pre)
            for window, part in segments:
                pieces[window].append(_pool_dense(latents[part]))
        return [join_pooled(of_window or [PooledCodes.of_nothing()]) for of_window in pieces]

    def join(self, windows: Sequence[TokenCodes | PooledCodes]) -> TokenCodes | PooledCodes:
        """Join the windows of an item, in the form that is smaller."""
        codes = [window for window in windows if isinstance(window, TokenCodes)]
        if len(codes) == len(windows) and sum(c.nbytes for c in codes) <= MAX_CODES_BYTES:
            return CodesReader(self.point, self.sae).join(codes)
        return join_pooled([w if isinstance(w, PooledCodes) else pool_each(w)[0] for w in windows])


@dataclass(frozen=True)
class RowReader:
    """Keeps one sparse row of features, pooled in one way: nothing of the size of tokens is made.

    The rows are equal to those that :func:`sae_features.pooling.pool_codes` makes of token codes.
    """

    point: HookPoint
    sae: SparseAutoencoder
    pooling: Pooling
    token_top_n: int | None = None

    def read(self, values: torch.Tensor, lengths: np.ndarray) -> list[SparseRow]:
        """Encode and pool the tokens of several windows."""
        if self.pooling in ("first", "last"):
            ends = np.cumsum(lengths)
            chosen = (ends - 1 if self.pooling == "last" else ends - lengths)[lengths > 0]
            values, lengths = values[torch.from_numpy(chosen)], (lengths > 0).astype(np.int64)
        if self._pools_dense(values):
            return self._read_dense(values, lengths)
        codes = encode_tokens(self.sae, values, offsets_of(lengths))
        rows = pool_codes(codes, self._per_window, token_top_n=self.token_top_n)
        return [
            SparseRow(indices, data, int(n))
            for (indices, data), n in zip(rows_of_matrix(rows), lengths, strict=True)
        ]

    def join(self, windows: Sequence[SparseRow]) -> SparseRow:
        """Join the windows of an item."""
        return join_rows(windows, self.pooling)

    def _pools_dense(self, values: torch.Tensor) -> bool:
        """Whether latents are pooled in each chunk before any is taken out, where that is faster."""
        sae = self.sae
        if self.token_top_n is not None or self.pooling not in ("max", "sum", "mean"):
            return False
        if sae.device.type == "cuda":
            return sae.is_nonnegative
        if self.pooling == "max":
            return sae.is_monotone
        return sae.architecture == "relu" or fires_often(sae, values)

    @property
    def _per_window(self) -> Pooling:
        return "sum" if self.pooling == "mean" else self.pooling

    def _read_dense(self, values: torch.Tensor, lengths: np.ndarray) -> list[SparseRow]:
        pieces: list[list[SparseRow]] = [[] for _ in lengths]
        for windows, rows, counts in self._pooled_chunks(values, lengths):
            fires = np.cumsum(rows.counts.cpu().numpy())[:-1]
            indices = np.split(rows.indices.to(torch.int32).cpu().numpy(), fires)
            data = np.split(rows.values.cpu().numpy(), fires)
            for window, *row in zip(windows, indices, data, counts, strict=True):
                pieces[window].append(SparseRow(*row))
        return [join_rows(of_window, self._per_window) for of_window in pieces]

    def _pooled_chunks(self, values: torch.Tensor, lengths: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """Yield windows, their rows and how many tokens each has, chunk by chunk.

        A latent never falls with its pre-activation, so that the largest one gives its maximum.
        """
        for pre, segments in _chunks(self.sae, values, lengths):
            if self.pooling == "max" and self.sae.is_monotone:
                maxima = torch.stack([pre[part].amax(dim=0) for _, part in segments])
                rows = self.sae.firing(maxima)
            else:
                is_relu = self.sae.architecture == "relu"
                latents = pre.relu_() if is_relu else self.sae.activate(pre)
                reduce = torch.Tensor.amax if self.pooling == "max" else _sum_rows
                rows = _sparse(torch.stack([reduce(latents[part], dim=0) for _, part in segments]))
            if self.pooling == "max":
                rows = rows._replace(values=rows.values.float())
            yield [w for w, _ in segments], rows, [part.stop - part.start for _, part in segments]


@dataclass(frozen=True)
class PooledReader:
    """Keeps hidden states pooled in all ways, so that no change of pooling runs the model."""

    point: HookPoint
    d_model: int

    def read(self, values: torch.Tensor, lengths: np.ndarray) -> list[PooledItem]:
        """Pool the tokens of several windows."""
        acts = TokenActivations(values.cpu().numpy(), offsets_of(lengths))
        pooled = np.stack([pool_activations(acts, kind) for kind in STATE_POOLINGS], axis=1)
        return [PooledItem(row.copy(), int(n)) for row, n in zip(pooled, lengths, strict=True)]

    def join(self, windows: Sequence[PooledItem]) -> PooledItem:
        """Combine the windows of an item; one without tokens may have run for its embedding."""
        windows = [window for window in windows if window.n_tokens]
        if not windows:
            return PooledItem(np.zeros((len(STATE_POOLINGS), self.d_model), np.float32), 0)
        if len(windows) == 1:
            return windows[0]
        rows = np.stack([window.rows for window in windows])
        total = rows[:, 1].sum(axis=0, dtype=np.float64).astype(np.float32)
        joined = np.stack([rows[:, 0].max(axis=0), total, rows[0, 2], rows[-1, 3]])
        return PooledItem(joined, sum(window.n_tokens for window in windows))


def fires_often(sae: SparseAutoencoder, values: torch.Tensor) -> bool:
    """Return whether so many latents fire that dense pooling is better, judged by a few tokens."""
    if not sae.is_monotone or len(values) == 0:
        return False
    few = values[:: max(1, len(values) // 16)]
    with torch.inference_mode():
        fires = len(sae.encode_sparse(few.to(sae.device)).values)
    return fires > DENSE_SHARE * len(few) * sae.n_latents


def _chunks(
    sae: SparseAutoencoder, values: torch.Tensor, lengths: np.ndarray
) -> Iterator[tuple[torch.Tensor, list[tuple[int, slice]]]]:
    """Yield chunks of pre-activations, and which of their rows belong to which window."""
    ends = np.cumsum(lengths)
    start = window = 0
    with torch.inference_mode():
        for pre in sae.pre_activations(values):
            stop, segments, first = start + len(pre), [], start
            while first < stop:
                while ends[window] <= first:
                    window += 1
                last = min(stop, int(ends[window]))
                segments.append((window, slice(first - start, last - start)))
                first = last
            if segments:
                yield pre, segments
            start = stop


def _halved(values: np.ndarray) -> np.ndarray:
    """Return values in float16, which is right to 2**-11 of each (2**-25 of those below 6e-5).

    Raises
    ------
    InvalidParameterError
        If one is too large for it.
    """
    most = np.abs(values).max(initial=0)
    if most > MAX_FLOAT16:
        message = (
            f"Got a latent of {most:,.0f}, and float16 holds at most {MAX_FLOAT16:,}: unset "
            "SAE_FEATURES_CACHE_DTYPE."
        )
        raise InvalidParameterError(message)
    return values.astype(np.float16)


def _sum_rows(latents: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Return the sums over tokens, float64: a few tokens at a time are added in float32."""
    parts = [part.sum(dim=dim, dtype=torch.float32) for part in latents.split(SUM_ROWS)]
    return parts[0].double() if len(parts) == 1 else torch.stack(parts).sum(dim=0, dtype=torch.float64)


def _sparse(rows: torch.Tensor) -> SparseLatents:
    """Return what is not 0 in dense rows."""
    flat = above(rows, None)
    owner = torch.div(flat, rows.shape[1], rounding_mode="floor")
    counts = torch.bincount(owner, minlength=len(rows))
    return SparseLatents(rows.view(-1)[flat], flat - owner * rows.shape[1], counts)


def _pool_dense(latents: torch.Tensor) -> PooledCodes:
    """Pool the latents of some tokens of one item, (n, n_latents), none below 0, in all ways."""
    maximum = latents.amax(dim=0)
    indices = above(maximum[None], None)
    total = _sum_rows(latents)[indices]
    count = (latents > 0).sum(dim=0)[indices]
    first, last = (above(row[None], None) for row in (latents[0], latents[-1]))
    return PooledCodes(
        indices.to(torch.int32).cpu().numpy(),
        maximum[indices].float().cpu().numpy(),
        total.cpu().numpy(),
        count.to(torch.int32).cpu().numpy(),
        first.to(torch.int32).cpu().numpy(),
        latents[0][first].float().cpu().numpy(),
        last.to(torch.int32).cpu().numpy(),
        latents[-1][last].float().cpu().numpy(),
        len(latents),
    )


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
        latents.indices.cpu().numpy().astype(index_type(sae.n_latents)),
        latents.values.float().cpu().numpy(),
        offsets_of(latents.counts.cpu().numpy()),
        item_offsets,
        sae.n_latents,
    )
