"""ReLU latents under an L1 penalty (Bricken et al., "Towards monosemanticity", 2023).

``f = ReLU((x − b_dec) W_enc + b_enc)``, ``x̂ = f W_dec + b_dec``; minimised is ``‖x − x̂‖² + λ Σᵢ fᵢ``
with decoder rows of norm 1, or ``‖x − x̂‖² + λ Σᵢ fᵢ ‖W_dec,i‖`` with free ones (Anthropic, "April
update", 2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sae_features.saes.firing import above
from sae_features.training.kernels import Support, decode, encode
from sae_features.training.objectives.step import (
    FIRST_NORM,
    Context,
    Parameters,
    Step,
    base,
    decoder_norms,
    pre_of,
    squared,
    tied,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.training.settings import TrainingSettings


def initial(d_in: int, settings: TrainingSettings, generator: torch.Generator) -> Parameters:
    """Return parameters to begin with."""
    decoder = 1.0 if settings.unit_norm else FIRST_NORM
    first = tied(d_in, settings.n_latents, generator, encoder=FIRST_NORM, decoder=decoder)
    return first | {"b_enc": torch.zeros(settings.n_latents)}


def step(parameters: Mapping[str, torch.Tensor], x: torch.Tensor, context: Context) -> Step:
    """Return losses of a batch: ``mse`` and ``l1``."""
    W_enc, b_enc, W_dec, b_dec = (parameters[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    pre = pre_of(parameters, x, context)
    support = Support(above(pre, None), *pre.shape)
    latents = encode(x, W_enc, b_dec, b_enc, support, pre).relu()
    error = x - decode(latents, support, W_dec) - b_dec
    weights = decoder_norms(W_dec, support, unit_norm=context.settings.unit_norm)
    losses = {"mse": squared(error), "l1": context.sparsity * (latents * weights).sum() / len(x)}
    return Step(losses, error.detach(), support.counts())


def finished(
    parameters: Mapping[str, torch.Tensor],
    scale: float,
    least: float,  # noqa: ARG001
) -> dict[str, Any]:
    """Return what makes a SparseAutoencoder."""
    return {"architecture": "relu", **base(parameters, scale)}
