"""One vector per item, as sentence-transformers makes it: pooling, dense layers, normalisation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NoReturn

import torch

from sae_features.checkpoints import sentence_modules
from sae_features.errors import CheckpointError, InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

POOLING_MODES: Final = (
    "cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken",
)  # fmt: skip
ACTIVATIONS: Final = {"Identity": torch.nn.Identity, "Tanh": torch.nn.Tanh}


@dataclass(frozen=True)
class Dense:
    """A linear layer after pooling.

    Attributes
    ----------
    weight : tensor of shape (d_out, d_in)
    bias : tensor of shape (d_out,), optional
    activation : str
        One of :data:`ACTIVATIONS`.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: str

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, (n, d_out)."""
        weight = self.weight.to(x)
        bias = self.bias.to(x) if self.bias is not None else None
        return ACTIVATIONS[self.activation]()(torch.nn.functional.linear(x, weight, bias))


@dataclass(frozen=True)
class SentencePooling:
    """How a sentence-transformers model makes one vector of its last hidden states.

    Attributes
    ----------
    modes : tuple of str
        Of :data:`POOLING_MODES`; several lie side by side.
    dense : tuple of Dense
        Applied in order.
    normalizes : bool
        Whether the result has length 1.
    """

    modes: tuple[str, ...]
    dense: tuple[Dense, ...] = ()
    normalizes: bool = False

    def width(self, d_model: int) -> int:
        """Return the size of the vectors."""
        return int(self.dense[-1].weight.shape[0]) if self.dense else d_model * len(self.modes)

    def __call__(self, states: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Return one vector per window.

        Parameters
        ----------
        states : tensor of shape (n, tokens, d)
            What the model gives last, behind its final norm.
        attended : tensor of shape (n, tokens)
            1 where there is a token, padding on the right.

        Returns
        -------
        tensor of shape (n, width), float32
        """
        states, mask = states.float(), attended.to(states.device).float()[:, :, None]
        pooled = torch.cat([_pool(mode, states, mask) for mode in self.modes], dim=1)
        for layer in self.dense:
            pooled = layer(pooled)
        return torch.nn.functional.normalize(pooled) if self.normalizes else pooled


def _pool(mode: str, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if mode == "cls_token":
        return states[:, 0]
    if mode == "max_tokens":
        return states.masked_fill(mask == 0, -torch.inf).amax(dim=1)
    if mode == "lasttoken":
        last = mask[:, :, 0].sum(dim=1).long() - 1
        return states[torch.arange(len(states), device=states.device), last]
    if mode == "weightedmean_tokens":
        mask = mask * torch.arange(1, states.shape[1] + 1, device=states.device)[None, :, None]
    total = mask.sum(dim=1)
    divisor = total.sqrt() if mode == "mean_sqrt_len_tokens" else total
    return (states * mask).sum(dim=1) / divisor.clamp(min=1e-9)


class EmbeddingHead:
    """What makes one vector of what the model gives: its own head, or pooling as its files say.

    Parameters
    ----------
    attribute : str or None
        Attribute of the model's output that is the vector, if it pools by itself.
    folder : Path or None
        Where a sentence-transformers model says how it pools.
    has_random_weights : bool, default=False
        Whether weights of the model's own head are missing.
    """

    def __init__(
        self, attribute: str | None, folder: Path | None, *, has_random_weights: bool = False
    ) -> None:
        self.attribute = attribute
        self.folder = folder
        self.has_random_weights = has_random_weights

    @cached_property
    def pooling(self) -> SentencePooling | None:
        """How the files say that tokens are pooled."""
        return read_pooling(self.folder) if self.folder is not None else None

    @property
    def exists(self) -> bool:
        """Whether there is anything that makes one vector."""
        if self.attribute is not None:
            return not self.has_random_weights
        return self.pooling is not None

    def width(self, config: Any, d_model: int) -> int:
        """Return the size of the vectors."""
        if self.pooling is not None and self.attribute is None:
            return self.pooling.width(d_model)
        return int(config.projection_dim) if self.attribute == "image_embeds" else d_model

    def vectors(self, output: Any, attended: torch.Tensor | None) -> torch.Tensor:
        """Return one vector per window, (n, width), float32.

        Parameters
        ----------
        output : Any
            What the whole model gave.
        attended : tensor of shape (n, tokens), optional
            Of texts: 1 where there is a token.
        """
        if self.attribute is None:
            if self.pooling is None or attended is None:
                raise CheckpointError("Got no way of pooling; expected modules.json and a text.")
            return self.pooling(output.last_hidden_state, attended)
        own: torch.Tensor | None = getattr(output, self.attribute, None)
        if own is None:  # such as a SigLIP without its head
            self.refuse(())
        return own.float()

    def refuse(self, sites: Sequence[str]) -> NoReturn:
        """Raise, saying why there is no vector, and which sites there are."""
        if self.has_random_weights:
            reason = "whose weights lack the head that pools"
        elif self.attribute is not None:
            reason = f"that gives no {self.attribute}"
        else:
            reason = (
                "whose files do not say how tokens are pooled (modules.json of sentence-transformers)"
            )
        has = f"; it has {', '.join(sites)}" if sites else ""
        raise InvalidParameterError(f"Got site='embedding' for a model {reason}{has}.")


def read_pooling(folder: Path) -> SentencePooling | None:
    """Return how the model in a folder pools, or None where the folder does not say.

    Raises
    ------
    CheckpointError
        If it says so in a way that is not known here.
    """
    modules = sentence_modules(folder)
    if modules is None:
        return None
    modes: tuple[str, ...] = ()
    dense: list[Dense] = []
    normalizes = False
    for kind, place in modules[1:]:
        if kind == "Pooling" and not modes:
            modes = _modes(_read(place / "config.json"), place)
        elif kind == "Dense" and modes and not normalizes:
            dense.append(_read_dense(place))
        elif kind == "Normalize":
            normalizes = True
        else:
            message = (
                f"{folder} pools with a module {kind!r}; expected Pooling, then Dense, then Normalize."
            )
            raise CheckpointError(message)
    if not modules or modules[0][0] != "Transformer" or not modes:
        raise CheckpointError(f"{folder}/modules.json does not say how tokens are pooled.")
    return SentencePooling(modes, tuple(dense), normalizes)


def _modes(config: dict[str, Any], place: Path) -> tuple[str, ...]:
    stated = config.get("pooling_mode")
    if isinstance(stated, str):  # newer files name the mode
        names = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens",
                 "mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "weightedmean": "weightedmean_tokens",
                 "lasttoken": "lasttoken"}  # fmt: skip
        modes: Sequence[str] = [names[stated]] if stated in names else []
    else:
        modes = [mode for mode in POOLING_MODES if config.get(f"pooling_mode_{mode}")]
    if not modes:
        raise CheckpointError(f"{place / 'config.json'} names no mode of pooling that is known here.")
    if config.get("include_prompt", True) is not True:
        raise CheckpointError(
            f"{place / 'config.json'} leaves the prompt out of pooling; that is not known here."
        )
    return tuple(modes)


def _read_dense(place: Path) -> Dense:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = _read(place / "config.json")
    activation = str(config.get("activation_function", "torch.nn.modules.linear.Identity"))
    name = activation.rpartition(".")[2]
    if name not in ACTIVATIONS:
        message = f"{place} has the activation {activation!r}; expected one of {', '.join(ACTIVATIONS)}."
        raise CheckpointError(message)
    try:
        tensors = load_file(place / "model.safetensors")
        return Dense(tensors["linear.weight"], tensors.get("linear.bias"), name)
    except (OSError, KeyError, SafetensorError) as error:
        message = f"{place} has no readable model.safetensors with linear.weight: {error}."
        raise CheckpointError(message) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return content
