"""What objectives take and give, and what several of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from sae_features.training.kernels import Support, pre_activations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.training.settings import TrainingSettings

FIRST_NORM = 0.1
"""Of encoder rows at first (Anthropic, "April update", 2024: 0.05 to 1): Adam's steps are of one size
whatever the weights, and turn rows of norm 1 too slowly in a short training."""

Parameters = dict[str, torch.Tensor]


class Step(NamedTuple):
    """What an objective makes of a batch."""

    losses: dict[str, torch.Tensor]
    """Scalars, already weighted: their sum is minimised.  ``mse`` is ``‖x − x̂‖²``, mean over rows."""
    error: torch.Tensor
    """Shape (n, d), detached: ``x − x̂``."""
    fires: torch.Tensor
    """Shape (n_latents,), int64: in how many rows each latent fires."""
    least: float = 0.0
    """For batchtopk and matryoshka: the smallest value that was kept."""


@dataclass(frozen=True)
class Context:
    """What a step depends on beside parameters and batch.

    Attributes
    ----------
    settings : TrainingSettings
    sparsity : float
        Weight of the penalty at this step.
    dead : tensor of shape (n_latents,), bool, optional
        Latents that have not fired for long; None where none has.
    """

    settings: TrainingSettings
    sparsity: float = 0.0
    dead: torch.Tensor | None = None

    @property
    def precision(self) -> torch.dtype | None:
        """Of the encoder's product."""
        return torch.bfloat16 if self.settings.dtype == "bfloat16" else None


class Objective(Protocol):
    """The functions of a module of this package."""

    def initial(self, d_in: int, settings: TrainingSettings, generator: torch.Generator) -> Parameters:
        """Return parameters to begin with."""

    def step(self, parameters: Mapping[str, torch.Tensor], x: torch.Tensor, context: Context) -> Step:
        """Return losses of a batch, (n, d)."""

    def finished(
        self, parameters: Mapping[str, torch.Tensor], scale: float, least: float
    ) -> dict[str, Any]:
        """Return what makes a SparseAutoencoder of inputs that were ``scale`` times as large."""


def tied(
    d_in: int, n_latents: int, generator: torch.Generator, *, encoder: float = 1.0, decoder: float = 1.0
) -> Parameters:
    """Return random directions as rows of encoder and decoder, of the norms given; ``b_dec`` is 0."""
    rows = torch.nn.functional.normalize(torch.randn(n_latents, d_in, generator=generator))
    return {"W_enc": encoder * rows, "W_dec": decoder * rows, "b_dec": torch.zeros(d_in)}


def pre_of(parameters: Mapping[str, torch.Tensor], x: torch.Tensor, context: Context) -> torch.Tensor:
    """Return pre-activations without gradients, (n, n_latents)."""
    bias = parameters.get("b_enc")
    return pre_activations(x, parameters["W_enc"], parameters["b_dec"], bias, context.precision)


def squared(error: torch.Tensor) -> torch.Tensor:
    """Return ``‖error‖²``, mean over rows."""
    return error.square().sum(dim=1).mean()


def fires_of(support: Support, values: torch.Tensor) -> torch.Tensor:
    """Return in how many rows each latent is above 0, (n_latents,), int64."""
    positive = values.detach() > 0
    return (support if bool(positive.all()) else support.take(positive)).counts()


def decoder_norms(W_dec: torch.Tensor, support: Support, *, unit_norm: bool) -> torch.Tensor | float:
    """Return the norm of the decoder row of each value: 1 where rows are kept at it."""
    return 1.0 if unit_norm else W_dec.norm(dim=1).index_select(0, support.latents)


def base(parameters: Mapping[str, torch.Tensor], scale: float) -> dict[str, Any]:
    """Return the tensors that all architectures have, in the units of the inputs."""
    tensors = {
        "W_enc": parameters["W_enc"].T.contiguous(),
        "W_dec": parameters["W_dec"].clone(),
        "b_dec": parameters["b_dec"] / scale,
    }
    if "b_enc" in parameters:
        tensors["b_enc"] = parameters["b_enc"] / scale
    return tensors
