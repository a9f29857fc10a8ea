"""Language models with their heads, and what they have to predict."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_features.backbones.backbone import Backbone
from sae_features.backbones.batches import counted_mask
from sae_features.backbones.loading import load_config, load_model
from sae_features.checkpoints import read_context
from sae_features.discovery import import_object
from sae_features.errors import CheckpointError, InvalidParameterError
from sae_features.models import ModelFiles, find_model
from sae_features.weights import choose_device

if TYPE_CHECKING:
    from pathlib import Path

    from sae_features.backbones.windows import Windows

MASKED_SHARE = 0.15
"""Share of the counted tokens of a window that a masked model predicts (Devlin et al., 2018)."""


@dataclass(frozen=True)
class LanguageModel:
    """A language model with its head, and the same modules as a backbone.

    Made by :func:`load_language_model`.

    Attributes
    ----------
    files : ModelFiles
        Where it is from.
    model : torch.nn.Module
        With its head, in evaluation mode.
    backbone : Backbone
        The model below the head: hook points, tokenizer, windows.
    is_masked : bool
        Whether it fills in masked tokens, and does not predict the next one.
    """

    files: ModelFiles
    model: Any
    backbone: Backbone
    is_masked: bool


@dataclass(frozen=True)
class Predictions:
    """A batch of windows as a language model takes them, and which tokens it has to predict.

    Attributes
    ----------
    inputs : dict of str to tensor of shape (windows, tokens)
        On the model's device; in a masked model with masks in place of what is to be predicted.
    counted : tensor of shape (windows, tokens), bool
        Tokens whose activations are replaced.
    predicts : tensor of shape (windows, tokens), bool
        Positions whose logits count.
    targets : tensor of shape (n_predictions,), int64
        What stands there, in the order of the positions.
    """

    inputs: dict[str, torch.Tensor]
    counted: torch.Tensor
    predicts: torch.Tensor
    targets: torch.Tensor


def load_language_model(model: str | Path, *, device: str | None = None) -> LanguageModel:
    """Load a model with its language-model head, in float32.

    Parameters
    ----------
    model : str or Path
        As in :func:`sae_features.load_backbone`.
    device : str, optional
        As there, but a single one.

    Raises
    ------
    CheckpointError
        If the files hold no such head (it would be random), no mask token for a masked model, or
        cannot be read.
    InvalidParameterError
        If this kind of model has none, or takes no texts.
    AssetNotFoundError, PluginError
        As the message says.
    """
    files = find_model(model)
    architecture = files.architecture
    loader = _loader(files)
    place = choose_device(device)
    try:
        lm, _ = load_model(files.folder, loader, device=place, dtype=torch.float32)
    except CheckpointError as error:
        message = (
            f"The model {files.name!r} has no whole language-model head ({loader}), without which it "
            f"predicts nothing; take files that were saved with it. {error}"
        )
        raise CheckpointError(message) from error
    lm.config.use_cache = False
    config = load_config(files.folder)
    text = architecture.input_of("text")
    reader = import_object(text.reader).load(files.folder, text, architecture, config)
    is_masked = loader.endswith("MaskedLM")
    if is_masked and reader.tokenizer.mask_token_id is None:
        message = f"The tokenizer of {files.name!r} has no mask token; expected one in its files."
        raise CheckpointError(message)
    lm.eval().requires_grad_(requires_grad=False)
    context = read_context(files.folder, architecture.sizes(config.to_dict()))
    backbone = Backbone(lm.base_model, architecture, {"text": reader}, context=context)
    return LanguageModel(files, lm, backbone, is_masked=is_masked)


def predictions_of(lm: LanguageModel, windows: Windows, chosen: np.ndarray, seed: int) -> Predictions:
    """Return a batch of windows with what is to be predicted in them.

    A causal model predicts each counted token that others precede.  For a masked model 15 % of the
    counted tokens of a window, at least one, are replaced by its mask token (never by random tokens);
    seed and tokens of the window decide which ones, not what is beside it.
    """
    inputs = lm.backbone.inputs["text"].model_inputs(windows, chosen, None)
    counted = counted_mask(windows, chosen)
    ids = inputs["input_ids"]
    if lm.is_masked:
        predicts = torch.zeros_like(counted)
        for row, window in enumerate(chosen):
            where = _masked_positions(windows.ids[window], windows.counted[window], seed)
            predicts[row, torch.from_numpy(where)] = True
        targets = ids[predicts]
        inputs["input_ids"] = ids.masked_fill(predicts, lm.backbone.tokenizer.mask_token_id)
    else:
        predicts = torch.zeros_like(counted)
        predicts[:, :-1] = counted[:, 1:]
        targets = ids[:, 1:][counted[:, 1:]]
    device = lm.model.device
    placed = {name: value.to(device) for name, value in inputs.items()}
    return Predictions(placed, counted.to(device), predicts.to(device), targets.to(device))


def predicted_counts(lm: LanguageModel, windows: Windows) -> np.ndarray:
    """Return how many tokens the model has to predict in each window."""
    if not lm.is_masked:
        return np.array([np.count_nonzero(counted[1:]) for counted in windows.counted], np.int64)
    return np.array([_n_masked(int(n)) for n in windows.counts], np.int64)


def _loader(files: ModelFiles) -> str:
    """Return the class of transformers that loads the model with its head."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = files.config.get("model_type")
    if "text" not in files.modalities:
        message = f"Got model={files.name!r}, which takes no texts; expected a language model."
        raise InvalidParameterError(message)
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:  # encoders, some of which may also be run as decoders
        return "AutoModelForMaskedLM"
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "AutoModelForCausalLM"
    message = (
        f"Got model={files.name!r} of type {kind!r}, which is neither a causal nor a masked language "
        "model; expected one of them."
    )
    raise InvalidParameterError(message)


def _masked_positions(ids: np.ndarray, counted: np.ndarray, seed: int) -> np.ndarray:
    where = np.flatnonzero(counted)
    of_tokens = hashlib.sha256(ids.astype("<i8").tobytes()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(of_tokens, "little")])
    return np.sort(generator.choice(where, _n_masked(len(where)), replace=False))


def _n_masked(n_counted: int) -> int:
    return max(1, round(MASKED_SHARE * n_counted)) if n_counted else 0
