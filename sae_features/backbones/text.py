"""Text models: tokenise, run up to the hook points, hand out the activations of counted tokens."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError

from sae_features.backbones.hooks import check_point, find_blocks, read_points
from sae_features.backbones.tokens import TokenPolicy, Windows, tokenize
from sae_features.checkpoints import has_vocabulary, read_context, weight_files
from sae_features.errors import CheckpointError, InvalidInputError, InvalidParameterError
from sae_features.hook_point import HookPoint
from sae_features.items import check_texts
from sae_features.notices import Notices
from sae_features.ragged import TokenActivations, offsets_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

TOKEN_BUDGET = 4096
"""Padded tokens in a batch, where no batch size is given."""


@dataclass(frozen=True)
class Batch:
    """What one run of the model gives.

    Attributes
    ----------
    windows : ndarray of int64
        The windows of this batch.
    lengths : ndarray of int64
        Counted tokens of each of them.
    values : dict of HookPoint to tensor of shape (sum of lengths, d), float32
        Their activations, window after window.
    """

    windows: np.ndarray
    lengths: np.ndarray
    values: dict[HookPoint, torch.Tensor]


class TextBackbone:
    """A pretrained text model that is read at hook points.

    Made by :func:`sae_features.load_backbone`.

    Attributes
    ----------
    model : torch.nn.Module
        The model without a head, in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerFast
        Its tokenizer.
    n_layers, d_model : int
        Number of blocks and size of the residual stream.
    max_length : int
        The most that model and tokenizer can take, in tokens, special ones included.
    context : int
        The longest window where none is asked for: what the model's files advise.
    """

    def __init__(self, model: Any, tokenizer: Any, *, context: int | None = None) -> None:
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.tokenizer = tokenizer
        self.n_layers = int(model.config.num_hidden_layers)
        self.d_model = int(model.config.hidden_size)
        self.blocks = find_blocks(model, self.n_layers)
        self.max_length = _longest(model, tokenizer)
        self.context = min(self.max_length, context or self.max_length)
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: str) -> TextBackbone:
        """Load model and tokenizer from a local folder.

        Raises
        ------
        CheckpointError
            If weights are missing in the files (they would be random), there is no fast tokenizer,
            or the files cannot be read.
        """
        tokenizer = _load_tokenizer(folder)
        model = _load_model(folder, getattr(torch, dtype)).to(device)
        return cls(model, tokenizer, context=read_context(folder))

    def activations(
        self,
        items: Any,
        *,
        layer: int = -1,
        site: str = "resid_post",
        tokens: str = "content",
        prompt: str | None = None,
        max_length: int | None = None,
        overflow: str = "truncate",
        batch_size: int | None = None,
    ) -> TokenActivations:
        """Return the activations of the texts' tokens.

        Parameters
        ----------
        items : sequence of str
            Texts.
        layer : int, default=-1
            Block, counted from 0; -1 is the last.
        site : str, default="resid_post"
            What to read of it.
        tokens, prompt, max_length, overflow, batch_size
            As in :class:`sae_features.SAEFeaturizer`.

        Returns
        -------
        TokenActivations
            ``values`` (n_tokens, d) float32 and ``offsets`` (n_items + 1,) int64.

        Raises
        ------
        InvalidParameterError, InputTypeError, InvalidInputError
            As the message says; also if activations are not finite.

        Warns
        -----
        SAEFeaturesWarning
            If texts were truncated, or have no token that counts.

        Examples
        --------
        >>> from sae_features import load_backbone
        >>> backbone = load_backbone("minilm")
        >>> acts = backbone.activations(["a fine day", "rain"], layer=3)
        >>> acts[0].shape
        (3, 384)
        """
        texts = check_texts(items)
        point = check_point(HookPoint(layer, site), self.n_layers)
        policy = self.token_policy(
            tokens=tokens, prompt=prompt, max_length=max_length, overflow=overflow
        )
        windows = self.tokenize(texts, policy)
        Notices(
            texts, windows.truncated, windows.empty, policy.max_length, "they have no activations"
        ).warn()
        parts: list[np.ndarray] = [np.empty((0, self.d_model), np.float32)] * len(windows.ids)
        for batch in self.run(windows, [point], batch_size=batch_size):
            pieces = torch.split(batch.values[point], batch.lengths.tolist())
            for window, piece in zip(batch.windows, pieces, strict=True):
                parts[window] = piece.cpu().numpy()
        lengths = np.zeros(len(texts), np.int64)
        np.add.at(lengths, windows.items, [len(part) for part in parts])
        return TokenActivations(np.concatenate(parts), offsets_of(lengths))

    def token_policy(self, *, max_length: int | None = None, **choices: Any) -> TokenPolicy:
        """Return a token policy whose ``max_length`` this model can take.

        Raises
        ------
        InvalidParameterError
            If ``max_length`` is more than that.
        """
        if max_length is None:
            max_length = self.context
        if max_length > self.max_length:
            message = f"Got max_length={max_length}; this model takes at most {self.max_length} tokens."
            raise InvalidParameterError(message)
        return TokenPolicy(max_length=max_length, **choices)

    def tokenize(self, texts: Sequence[str], policy: TokenPolicy) -> Windows:
        """Return the token windows of texts."""
        return tokenize(self.tokenizer, texts, policy)

    def run(
        self,
        windows: Windows,
        points: Sequence[HookPoint],
        *,
        batch_size: int | None = None,
        positions: Sequence[int] | None = None,
    ) -> Iterator[Batch]:
        """Run the model over windows, the longest first, and yield what stands at the points.

        Windows without a counted token are not run.

        Parameters
        ----------
        windows : Windows
            From :meth:`tokenize`.
        points : sequence of HookPoint
            One run of the model serves all of them.
        batch_size : int, optional
            Windows in a batch; chosen by their length if not given.
        positions : sequence of int, optional
            What an error calls each text; its place among those of the windows if not given.

        Raises
        ------
        InvalidParameterError
            If a point cannot be read, or ``batch_size`` is below 1.
        InvalidInputError
            If activations are not finite, as when they are too large for float16.
        """
        for point in points:
            check_point(point, self.n_layers)
        if batch_size is not None and batch_size < 1:
            message = f"Got batch_size={batch_size}; expected None or an integer above 0."
            raise InvalidParameterError(message)
        device = self.model.device
        lengths = np.array([len(ids) for ids in windows.ids], np.int64)
        counts = np.array([mask.sum() for mask in windows.counted], np.int64)
        filled = np.flatnonzero(counts)
        order = filled[np.argsort(-lengths[filled], kind="stable")]
        start = 0
        while start < len(order):
            longest = int(lengths[order[start]])
            rows = batch_size or max(1, TOKEN_BUDGET // longest)
            chosen = order[start : start + rows]
            start += rows
            ids = np.zeros((len(chosen), longest), np.int64)
            attended, counted = (np.zeros(ids.shape, bool) for _ in range(2))
            for row, window in enumerate(chosen):
                length = lengths[window]
                ids[row, :length] = windows.ids[window]
                attended[row, :length] = True
                counted[row, :length] = windows.counted[window]
            if self.tokenizer.pad_token_id is not None:
                ids[~attended] = self.tokenizer.pad_token_id
            inputs = {
                "input_ids": torch.from_numpy(ids).to(device),
                "attention_mask": torch.from_numpy(attended.astype(np.int64)).to(device),
            }
            with self._lock:  # hooks sit on the shared model
                read = read_points(self.model, self.blocks, points, inputs)
            mask = torch.from_numpy(counted).to(device)
            batch = Batch(
                chosen,
                counts[chosen],
                {point: hidden[mask].float() for point, hidden in read.items()},
            )
            _check_finite(batch, windows, positions, self.model.dtype)
            yield batch


def _check_finite(
    batch: Batch, windows: Windows, positions: Sequence[int] | None, dtype: torch.dtype
) -> None:
    for point, values in batch.values.items():
        if bool(torch.isfinite(values).all()):
            continue
        is_broken = ~torch.isfinite(values).all(dim=1).cpu().numpy()
        item = min(windows.items[w] for w in np.repeat(batch.windows, batch.lengths)[is_broken])
        next_step = (
            "They are too large for it: use dtype='float32' or 'bfloat16'."
            if dtype == torch.float16
            else "The model's weights may be damaged."
        )
        message = (
            f"Got activations that are not finite for item {positions[item] if positions else item} "
            f"at {point}, computed in {str(dtype).removeprefix('torch.')}. {next_step}"
        )
        raise InvalidInputError(message)


def _load_model(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModel

    weight_files(folder)  # refuses what would make transformers load others
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with _quiet_transformers():
            model, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=None,  # transformers' choice: the config's may be code on the hub
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
            )
    except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"The model in {folder} could not be loaded: {error}") from error
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    misshapen = sorted(_misshapen(entry) for entry in report["mismatched_keys"])
    broken = missing + misshapen
    if broken:
        message = (
            f"The weights in {folder} lack or mis-shape {len(broken)} tensors of {type(model).__name__} "
            f"({', '.join(broken[:3])}{' …' if len(broken) > 3 else ''}); they would be random."
        )
        raise CheckpointError(message)
    return model


def _misshapen(entry: Any) -> str:
    if isinstance(entry, str):  # transformers 4 gives names only
        return f"{entry} of another shape"
    name, got, expected = entry
    return f"{name} of shape {tuple(got)} instead of {tuple(expected)}"


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not has_vocabulary(folder):
        raise CheckpointError(f"{folder} has no tokenizer (tokenizer.json).")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise CheckpointError(f"The tokenizer in {folder} could not be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise CheckpointError(f"{folder} has no fast tokenizer (tokenizer.json).")
    return tokenizer


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep the load report off the terminal: heads that we do not use are no news."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _longest(model: Any, tokenizer: Any) -> int:
    """Return the least of what model and tokenizer can take."""
    positions = int(model.config.max_position_embeddings)
    embeddings = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    if padding is not None:  # RoBERTa's positions start behind the padding index
        positions -= padding + 1
    return min(positions, int(tokenizer.model_max_length))
