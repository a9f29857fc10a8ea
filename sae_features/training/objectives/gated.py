"""Gated SAEs (Rajamanoharan et al., arXiv 2404.16014, eq. 5 to 10 and appendix G).

``π = (x − b_dec) W_gate + b_gate`` says which latents fire, ``(x − b_dec) W_mag + b_mag`` how strongly,
with ``W_mag,i = exp(r_mag,i) W_gate,i``.  Minimised is
``‖x − x̂(f̃)‖² + λ ‖ReLU(π)‖₁ + ‖x − x̂_frozen(ReLU(π))‖²``, where the frozen decoder gets no gradient: the
penalty shrinks only the gate's own values, not what is decoded.
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
    fires_of,
    pre_of,
    squared,
    tied,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.training.settings import TrainingSettings


def initial(d_in: int, settings: TrainingSettings, generator: torch.Generator) -> Parameters:
    """Return parameters to begin with; ``W_enc`` is the gate's."""
    biases = {name: torch.zeros(settings.n_latents) for name in ("b_gate", "r_mag", "b_mag")}
    first = tied(d_in, settings.n_latents, generator, encoder=FIRST_NORM)
    return first | biases


def step(parameters: Mapping[str, torch.Tensor], x: torch.Tensor, context: Context) -> Step:
    """Return losses of a batch: ``mse``, ``l1`` and ``aux``."""
    W_gate, W_dec, b_dec = (parameters[name] for name in ("W_enc", "W_dec", "b_dec"))
    settings = context.settings
    products = pre_of(parameters, x, context)
    gate = parameters["b_gate"].detach()
    support = Support(above(products.to(gate.dtype), 0.0 - gate), *products.shape)
    at = support.latents
    product = encode(x, W_gate, b_dec, None, support, products)
    gates = (product + parameters["b_gate"].index_select(0, at)).relu()
    r_mag = parameters["r_mag"] if settings.tie_gate else parameters["r_mag"].detach()
    scales = r_mag.exp().index_select(0, at)
    latents = (product * scales + parameters["b_mag"].index_select(0, at)).relu()
    error = x - decode(latents, support, W_dec) - b_dec
    weights = decoder_norms(W_dec, support, unit_norm=settings.unit_norm)
    frozen = (W_dec.detach(), b_dec.detach()) if settings.freeze_aux_decoder else (W_dec, b_dec)
    losses = {
        "mse": squared(error),
        "l1": context.sparsity * (gates * weights).sum() / len(x),
        "aux": squared(x - decode(gates, support, frozen[0]) - frozen[1]),
    }
    return Step(losses, error.detach(), fires_of(support, latents))


def finished(
    parameters: Mapping[str, torch.Tensor],
    scale: float,
    least: float,  # noqa: ARG001
) -> dict[str, Any]:
    """Return what makes a SparseAutoencoder."""
    tensors = base(parameters, scale)
    biases = {name: parameters[name] / scale for name in ("b_gate", "b_mag")}
    return {"architecture": "gated", **tensors, **biases, "r_mag": parameters["r_mag"].clone()}
