"""A model over a corpus, as a source of activations: shuffled in bounded memory, resumed exactly."""

from __future__ import annotations

import hashlib
from functools import cached_property
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from sae_features.backbones.tokens import TokenPolicy
from sae_features.errors import InvalidInputError, InvalidParameterError, warn
from sae_features.hook_point import EMBEDDING
from sae_features.items import Items, check_items
from sae_features.parameters import check_count, check_device, check_dtype
from sae_features.progress import Progress
from sae_features.ragged import offsets_of
from sae_features.targets import Request, resolve_target
from sae_features.training.blocks import Block, plan_blocks
from sae_features.training.sources import check_order, cut, cut_into, spread_rows
from sae_features.weights import backbone_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sae_features.backbones.windows import Windows

BUFFER_ROWS: Final = 262_144
MAX_NORM: Final = 10.0
COUNTED_ITEMS: Final = 1024
"""Items that are tokenised at a time to count their rows."""
NORM_ROWS: Final = 4096


class BackboneSource:
    """The activations of a model over texts or images, computed when they are needed.

    Items come in an order that seed and pass decide, block by block; the rows of a block are shuffled
    together.  Which items make a block follows from their numbers of tokens alone, so that skipping
    runs the model over one block at most.

    Parameters
    ----------
    model : str or Path
        An alias, a local folder, or ``owner/name`` on the Hugging Face hub.
    items : sequence
        Texts or images, as in :class:`sae_features.SAEFeaturizer`; files of images are opened when
        they are needed.
    layer, site, tokens, prompt, max_length, dtype, device
        As in :class:`sae_features.ActivationFeaturizer`.
    overflow : {"chunk", "truncate"}, default="chunk"
        What happens to longer texts: read in several windows, or cut with a warning.
    batch_size : int, optional
        Texts or images that the model runs over at a time; by their length if not given.
    buffer_rows : int, default=262_144
        About how many rows are in memory, and shuffled together: a block has no more but by its longest
        item, or by one batch where batches are almost as large.
    max_norm : float, optional
        Rows whose norm is more than this many times the median of their block are left out: attention
        sinks, which would take most of the variance.  None keeps them.
    verbose : bool, default=False
        Whether to show progress of counting tokens and of each block.

    Raises
    ------
    InvalidParameterError, InputTypeError, InvalidInputError, AssetNotFoundError
        As the message says.

    Notes
    -----
    ``n_rows`` is counted by tokenising once, on first use, and counts rows that ``max_norm`` leaves out,
    too.  The model is loaded on first use and shared with all that use it in the process.

    Examples
    --------
    >>> source = BackboneSource("minilm", ["a fine day", "rain"], layer=3)
    >>> source.n_rows, source.d_in, next(source.batches(4)).shape
    (4, 384, torch.Size([4, 384]))
    """

    def __init__(
        self,
        model: str | Path,
        items: Any,
        *,
        layer: int | None = None,
        site: str = "resid_post",
        tokens: str = "content",
        prompt: str | None = None,
        max_length: int | None = None,
        overflow: str = "chunk",
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        buffer_rows: int = BUFFER_ROWS,
        max_norm: float | None = MAX_NORM,
        verbose: bool = False,
    ) -> None:
        TokenPolicy(max_length or 1, tokens, prompt, overflow)  # checks
        check_dtype(dtype)
        check_device(device)
        check_count("max_length", max_length)
        check_count("batch_size", batch_size)
        _check_bounds(buffer_rows, max_norm)
        target = resolve_target(Request(model, layer, site), with_sae=False)
        self.files, self.hook_point = target.model, target.point
        self.items: Items = check_items(items, self.files.modalities)
        self.tokens, self.prompt, self.overflow = tokens, prompt, overflow
        self.max_length = max_length
        self.dtype, self.device, self.batch_size = dtype or "float32", device, batch_size
        self.buffer_rows, self.max_norm, self.verbose = int(buffer_rows), max_norm, verbose

    def __repr__(self) -> str:
        return f"BackboneSource({self.files.name!r}, {len(self.items)} items, {self.hook_point})"

    @property
    def d_in(self) -> int:
        """Size of a row."""
        return int(self.files.width(self.hook_point))

    @property
    def n_rows(self) -> int:
        """Rows in one pass, those that ``max_norm`` leaves out included."""
        return int(self._counts.sum())

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """What made the rows: model, tokens, a digest of the corpus; all items are read for it."""
        digest = hashlib.sha256(b"".join(self.items.digests())).hexdigest()
        modality = self.items.modality
        of_texts = {"max_length": self._policy.max_length, "overflow": self.overflow}
        return {
            "model": self.files.record,
            "tokens": self.tokens,
            "prompt": self.prompt,
            **(of_texts if modality == "text" else {}),
            "dtype": self.dtype,
            "max_norm": self.max_norm,
            "buffer_rows": self.buffer_rows,
            "corpus": {"modality": modality, "n_items": len(self.items), "digest": digest},
        }

    def n_batches(self, batch_size: int) -> int:
        """Return how many batches one pass has."""
        return len(cut(self.n_rows, batch_size)) - 1

    def sample(self, n_rows: int) -> torch.Tensor:
        """Return at most ``n_rows`` rows, float32, always the same, of items spread over the corpus.

        The model runs over as many items as have so many rows, and no more.
        """
        spread_rows(self.n_rows, n_rows)  # checks
        order = np.random.default_rng(0).permutation(len(self.items))
        n_items = int(np.searchsorted(np.cumsum(self._counts[order]), n_rows)) + 1
        rows = self._run(np.sort(order[:n_items]), "sample")
        kept = _within(rows, self.max_norm, 1)
        return rows[torch.from_numpy(kept[spread_rows(len(kept), n_rows)])]

    def batches(self, batch_size: int, *, seed: int = 0, start: int = 0) -> Iterator[torch.Tensor]:
        """Yield batches for ever, as :meth:`ActivationSource.batches` says."""
        check_order(seed, start)
        n_batches = self.n_batches(batch_size)

        def endless() -> Iterator[torch.Tensor]:
            number, first = divmod(start, n_batches)
            while True:
                seeds = [int(seed), number]
                order = np.random.default_rng(seeds).permutation(len(self.items))
                yield from self._one_pass(order, n_batches, first, seeds)
                number, first = number + 1, 0

        return endless()

    def in_order(self, batch_size: int, *, start: int = 0) -> Iterator[torch.Tensor]:
        """Yield each row once, item after item, without the first ``start`` batches."""
        check_order(0, start)
        order = np.arange(len(self.items))
        return self._one_pass(order, self.n_batches(batch_size), start, None)

    def _one_pass(
        self, order: np.ndarray, n_batches: int, start: int, seeds: list[int] | None
    ) -> Iterator[torch.Tensor]:
        blocks = plan_blocks(self._counts[order], n_batches, self.buffer_rows)
        for number, block in enumerate(blocks, 1):
            if block.stop_batch > start:
                shuffler = None if seeds is None else np.random.default_rng([*seeds, number])
                name = f"block {number} of {len(blocks)}"
                yield from self._of_block(order, block, start - block.first_batch, shuffler, name)

    def _of_block(
        self,
        order: np.ndarray,
        block: Block,
        skipped: int,
        shuffler: np.random.Generator | None,
        name: str,
    ) -> Iterator[torch.Tensor]:
        """Yield the batches of a block; its rows are let go before the next one is run."""
        rows = self._run(order[block.first : block.stop], name)
        n_batches = block.stop_batch - block.first_batch
        kept = _within(rows, self.max_norm, n_batches)
        if shuffler is not None:
            kept = shuffler.permutation(kept)
        bounds = cut_into(len(kept), n_batches).tolist()
        for first, stop in pairwise(bounds):
            if skipped <= 0:
                yield rows[torch.from_numpy(kept[first:stop])]
            skipped -= 1

    def _run(self, chosen: np.ndarray, name: str) -> torch.Tensor:
        """Return the rows of some items, item after item, as (rows, d_in) on the CPU."""
        positions, backbone = chosen.tolist(), self._backbone
        windows = backbone.windows(self._some(positions), self._policy, positions)
        offsets = offsets_of(self._rows_of(windows))
        rows = torch.empty(int(offsets[-1]), self.d_in)
        point, size = self.hook_point, self.batch_size
        given = backbone.run(windows, [point], batch_size=size, positions=positions)
        with Progress(name, "row", len(rows), is_shown=self.verbose) as bar:
            for batch in given:
                spans = [np.arange(offsets[w], offsets[w + 1]) for w in batch.windows]
                values = batch.values[point]
                rows[torch.from_numpy(np.concatenate(spans))] = values.cpu()
                bar.tell(len(values))
        return rows

    @cached_property
    def _counts(self) -> np.ndarray:
        """Rows of each item."""
        counts = np.zeros(len(self.items), np.int64)
        n_truncated = 0
        with Progress("tokens", "item", len(counts), is_shown=self.verbose) as bar:
            for start in range(0, len(counts), COUNTED_ITEMS):
                positions = list(range(start, min(start + COUNTED_ITEMS, len(counts))))
                windows = self._backbone.windows(self._some(positions), self._policy, positions)
                np.add.at(counts, np.array(windows.items) + start, self._rows_of(windows))
                n_truncated += len(windows.truncated)
                bar.tell(len(positions))
        if n_truncated:
            message = (
                f"{n_truncated} of {len(counts)} texts are longer than {self._policy.max_length} tokens "
                "and are truncated; overflow='chunk' uses all of them."
            )
            warn(message)
        if not counts.any():
            message = (
                f"Got {len(counts)} items without a token that counts; expected at least one with a "
                "token. tokens='all' counts special tokens, too."
            )
            raise InvalidInputError(message)
        return counts

    def _rows_of(self, windows: Windows) -> np.ndarray:
        """Return how many rows each window has: its counted tokens, or one."""
        return np.ones(len(windows), np.int64) if self.hook_point.site == EMBEDDING else windows.counts

    def _some(self, positions: list[int]) -> Items:
        return Items(self.items.modality, [self.items.values[position] for position in positions])

    @property
    def _backbone(self) -> Any:
        return backbone_of(self.files, device=self.device, dtype=self.dtype)

    @cached_property
    def _policy(self) -> TokenPolicy:
        policy: TokenPolicy = self._backbone.token_policy(
            self.items.modality,
            tokens=self.tokens,
            prompt=self.prompt,
            max_length=self.max_length,
            # the number of an image's tokens is the model's: there is nothing to be chunked
            overflow=self.overflow if self.items.modality == "text" else "truncate",
        )
        return policy


def _within(rows: torch.Tensor, max_norm: float | None, least: int) -> np.ndarray:
    """Return the rows that are kept: at least some, so that no batch is empty."""
    if max_norm is None:
        return np.arange(len(rows))
    norms = torch.cat([part.double().norm(dim=1) for part in rows.split(NORM_ROWS)])
    median = norms.median()
    is_kept = (norms <= max_norm * median) | (median == 0)
    if int(is_kept.sum()) < least:  # batches of one or two rows
        is_kept[norms.argsort(stable=True)[:least]] = True
    return is_kept.nonzero().flatten().numpy()


def _check_bounds(buffer_rows: object, max_norm: object) -> None:
    if buffer_rows is None:
        raise InvalidParameterError("Got buffer_rows=None; expected an integer above 0.")
    check_count("buffer_rows", buffer_rows)
    is_number = isinstance(max_norm, Real) and not isinstance(max_norm, bool)
    if max_norm is not None and not (is_number and float(max_norm) >= 1):  # type: ignore[arg-type]
        message = f"Got max_norm={max_norm!r}; expected None or a number of at least 1."
        raise InvalidParameterError(message)
