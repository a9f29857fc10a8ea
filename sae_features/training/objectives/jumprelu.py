"""JumpReLU SAEs (Rajamanoharan et al., arXiv 2407.14435).

``f = p · H(p − θ)`` of pre-activations ``p`` and thresholds ``θ > 0``.  Minimised is
``‖x − x̂‖² + λ ‖f‖₀`` or, with a target,
``‖x − x̂‖² + λ (L0/target − 1)²`` (Gemma Scope 2).  Steps have no slope, so that a
rectangular kernel K of width ε stands in for it (eq. 11 and 12): ``∂f/∂θ = −(θ/ε) K((p − θ)/ε)``,
``∂H/∂θ = −(1/ε) K((p − θ)/ε)``.  Thresholds are learnt themselves, in float32, not their logarithms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sae_features.saes.firing import above
from sae_features.training.kernels import Support, decode, encode
from sae_features.training.objectives.step import (
    Context,
    Parameters,
    Step,
    base,
    fires_of,
    pre_of,
    squared,
    tied,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.training.settings import TrainingSettings

FIRST_THRESHOLD = 2.0
"""In standard deviations of a pre-activation at first, which are 1/√d for inputs of norm 1."""


def initial(d_in: int, settings: TrainingSettings, generator: torch.Generator) -> Parameters:
    """Return parameters to begin with."""
    n = settings.n_latents
    return tied(d_in, n, generator) | {
        "b_enc": torch.zeros(n),
        "threshold": torch.full((n,), FIRST_THRESHOLD / d_in**0.5),
    }


def step(parameters: Mapping[str, torch.Tensor], x: torch.Tensor, context: Context) -> Step:
    """Return losses of a batch: ``mse`` and ``l0_penalty``."""
    W_enc, b_enc, W_dec, b_dec = (parameters[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    settings, threshold = context.settings, parameters["threshold"]
    pre = pre_of(parameters, x, context)
    reach = (threshold.detach() - settings.bandwidth / 2).to(pre.dtype)
    support = Support(above(pre, reach), *pre.shape)
    values = encode(x, W_enc, b_dec, b_enc, support, pre)
    at = threshold.index_select(0, support.latents)
    latents: torch.Tensor = _JumpReLU.apply(values, at, settings.bandwidth)  # type: ignore[no-untyped-call]
    fires: torch.Tensor = _Heaviside.apply(values.detach(), at, settings.bandwidth)  # type: ignore[no-untyped-call]
    error = x - decode(latents, support, W_dec) - b_dec
    l0 = fires.sum() / len(x)
    goal = settings.goal
    penalty = l0 if goal is None else (l0 / goal - 1).square()
    losses = {"mse": squared(error), "l0_penalty": context.sparsity * penalty}
    return Step(losses, error.detach(), fires_of(support, latents))


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: torch.Tensor, threshold: torch.Tensor, bandwidth: float) -> torch.Tensor:
        ctx.save_for_backward(p, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(p > threshold, p, 0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        p, threshold = ctx.saved_tensors
        near = (p - threshold).abs() < ctx.bandwidth / 2
        of_threshold = torch.where(near, -threshold / ctx.bandwidth * grad, 0)
        return torch.where(p > threshold, grad, 0), of_threshold, None


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: torch.Tensor, threshold: torch.Tensor, bandwidth: float) -> torch.Tensor:
        ctx.save_for_backward(p, threshold)
        ctx.bandwidth = bandwidth
        return (p > threshold).to(p.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        p, threshold = ctx.saved_tensors
        near = (p - threshold).abs() < ctx.bandwidth / 2
        return None, torch.where(near, -grad / ctx.bandwidth, 0), None


def finished(
    parameters: Mapping[str, torch.Tensor],
    scale: float,
    least: float,  # noqa: ARG001
) -> dict[str, Any]:
    """Return what makes a SparseAutoencoder."""
    threshold = parameters["threshold"] / scale
    return {"architecture": "jumprelu", **base(parameters, scale), "threshold": threshold}
