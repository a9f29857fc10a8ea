"""TopK SAEs (Gao et al., arXiv 2406.04093, eq. 3 and appendix A.2).

``f = ReLU(TopK((x − b_dec) W_enc + b_enc))``.  Minimised is ``‖x − x̂‖²`` and a small part of
``‖e − ê‖² / ‖e‖²``, where ``ê`` reconstructs the error ``e = x − x̂`` from the ``aux_k`` largest dead
latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sae_features.saes.firing import largest
from sae_features.training.kernels import Support, decode, encode
from sae_features.training.objectives.step import (
    FIRST_NORM,
    Context,
    Parameters,
    Step,
    base,
    pre_of,
    squared,
    tied,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.training.settings import TrainingSettings


def initial(d_in: int, settings: TrainingSettings, generator: torch.Generator) -> Parameters:
    """Return parameters to begin with."""
    first = tied(d_in, settings.n_latents, generator, encoder=FIRST_NORM)
    return first | {"b_enc": torch.zeros(settings.n_latents)}


def step(parameters: Mapping[str, torch.Tensor], x: torch.Tensor, context: Context) -> Step:
    """Return losses of a batch: ``mse`` and, where latents are dead, ``aux``."""
    W_enc, b_enc, W_dec, b_dec = (parameters[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    pre = pre_of(parameters, x, context)
    support = Support(largest(pre, context.settings.k, positive=True), *pre.shape)
    latents = encode(x, W_enc, b_dec, b_enc, support, pre).relu()
    error = x - decode(latents, support, W_dec) - b_dec
    losses = {"mse": squared(error)} | revival(parameters, x, error.detach(), context)
    return Step(losses, error.detach(), support.counts())


def revival(
    parameters: Mapping[str, torch.Tensor], x: torch.Tensor, error: torch.Tensor, context: Context
) -> dict[str, torch.Tensor]:
    """Return the auxiliary loss, if latents are dead: what they make of the error, as a share of it.

    Parameters
    ----------
    error : tensor of shape (n, d)
        Without gradients.
    """
    settings, dead = context.settings, context.dead
    aux_k = x.shape[1] // 2 if settings.aux_k is None else settings.aux_k
    if dead is None or aux_k == 0 or settings.aux_weight == 0:
        return {}
    at = dead.nonzero().flatten()
    z = (x - parameters["b_dec"]).detach()
    W_enc, W_dec, b_enc = (parameters[name].index_select(0, at) for name in ("W_enc", "W_dec", "b_enc"))
    pre = torch.addmm(b_enc, z, W_enc.T)
    if aux_k < len(at):
        values, indices = pre.topk(aux_k, dim=-1, sorted=False)
        codes = torch.zeros_like(pre).scatter(-1, indices, values.relu())
    else:
        codes = pre.relu()
    remainder = squared(error - codes @ W_dec) / squared(error).clamp_min(torch.finfo(error.dtype).tiny)
    return {"aux": settings.aux_weight * remainder}


def finished(
    parameters: Mapping[str, torch.Tensor],
    scale: float,
    least: float,  # noqa: ARG001
) -> dict[str, Any]:
    """Return what makes a SparseAutoencoder, all but ``k``."""
    return {"architecture": "topk", **base(parameters, scale)}
