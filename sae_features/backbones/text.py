"""Texts for a model: windows of token ids, padded on the right."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_features.backbones.loading import load_tokenizer
from sae_features.backbones.tokens import tokenize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sae_features.architectures import Architecture, Text
    from sae_features.backbones.tokens import TokenPolicy
    from sae_features.backbones.windows import Windows


class TextInput:
    """Turns texts into token ids.

    Attributes
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The model's own.
    first_token_is_sink : bool
        As in :class:`sae_features.architectures.Text`.
    """

    modality = "text"

    def __init__(self, tokenizer: Any, *, first_token_is_sink: bool = False) -> None:
        self.tokenizer = tokenizer
        self.first_token_is_sink = first_token_is_sink
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, declared: Text, architecture: Architecture, config: Any) -> TextInput:  # noqa: ARG003
        """Load the tokenizer of a folder.

        Raises
        ------
        CheckpointError
            If there is no fast tokenizer.
        """
        return cls(load_tokenizer(folder), first_token_is_sink=declared.first_token_is_sink)

    def windows(
        self,
        items: Sequence[str],
        policy: TokenPolicy,
        positions: Sequence[int] | None = None,  # noqa: ARG002
    ) -> Windows:
        """Return the token windows of texts."""
        with self._lock:  # a tokenizer is not for several threads at a time
            return tokenize(self.tokenizer, items, policy, first_token_is_sink=self.first_token_is_sink)

    def shape(self, windows: Windows, window: int) -> tuple[int, ...]:  # noqa: ARG002
        """Return the same for all: they are padded."""
        return ()

    def model_inputs(
        self,
        windows: Windows,
        chosen: np.ndarray,
        positions: Sequence[int] | None,  # noqa: ARG002
    ) -> dict[str, torch.Tensor]:
        """Return ``input_ids`` and ``attention_mask``, (windows, tokens), padded on the right."""
        longest = max(len(windows.ids[window]) for window in chosen)
        padding = self.tokenizer.pad_token_id
        ids = np.full((len(chosen), longest), 0 if padding is None else padding, np.int64)
        attended = np.zeros(ids.shape, np.int64)
        for row, window in enumerate(chosen):
            length = len(windows.ids[window])
            ids[row, :length] = windows.ids[window]
            attended[row, :length] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(attended)}
