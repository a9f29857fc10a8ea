"""BatchTopK SAEs (Bussmann et al., arXiv 2412.06410).

Of a batch of n rows the ``n k`` largest positive pre-activations are kept, so that a row may have more
latents than another.  At inference a threshold takes their place, the running mean of the smallest one
that was kept (eq. 6): a JumpReLU SAE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sae_features.training.kernels import Support, decode, encode
from sae_features.training.objectives import topk
from sae_features.training.objectives.step import Context, Step, base, pre_of, squared

if TYPE_CHECKING:
    from collections.abc import Mapping

initial = topk.initial


def step(parameters: Mapping[str, torch.Tensor], x: torch.Tensor, context: Context) -> Step:
    """Return losses of a batch: ``mse`` and, where latents are dead, ``aux``."""
    W_enc, b_enc, W_dec, b_dec = (parameters[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    pre = pre_of(parameters, x, context)
    support = Support(largest_of_batch(pre, context.settings.k), *pre.shape)
    latents = encode(x, W_enc, b_dec, b_enc, support, pre).relu()
    error = x - decode(latents, support, W_dec) - b_dec
    losses = {"mse": squared(error)} | topk.revival(parameters, x, error.detach(), context)
    return Step(losses, error.detach(), support.counts(), smallest(latents))


def largest_of_batch(pre: torch.Tensor, k: int) -> torch.Tensor:
    """Return where the ``n k`` largest of n rows are, as far as they are positive.

    Parameters
    ----------
    pre : tensor of shape (n, n_latents), contiguous
    k : int

    Returns
    -------
    tensor of shape (nnz,), int64
        Positions in the flattened rows, ascending.
    """
    wanted = k * len(pre)
    candidates = _many(pre, wanted)
    values = pre.view(-1)[candidates]
    if len(candidates) > wanted:
        chosen = values.topk(wanted, sorted=False).indices
        candidates = candidates[chosen.sort().values]
    return candidates


def _many(pre: torch.Tensor, wanted: int) -> torch.Tensor:
    """Return where positive values are that reach a bound, which at least ``wanted`` reach.

    The bound is guessed from a few rows; where the guess is too high, all positive ones are taken.
    """
    from sae_features.saes.firing import above

    few = pre[:: max(1, len(pre) // 64)].float()
    share = min(1.0, 1.25 * wanted / pre.numel())
    rank = max(1, round(share * few.numel()))
    bound = few.flatten().topk(rank, sorted=False).values.min()
    if bound > 0:
        found = above(pre, torch.full((pre.shape[1],), float(bound), dtype=pre.dtype, device=pre.device))
        if len(found) >= wanted:
            return found
    return above(pre, None)


def smallest(latents: torch.Tensor) -> float:
    """Return the smallest positive value, 0 if there is none."""
    positive = latents.detach()
    positive = positive[positive > 0]
    return float(positive.min()) if len(positive) else 0.0


def finished(parameters: Mapping[str, torch.Tensor], scale: float, least: float) -> dict[str, Any]:
    """Return what makes a SparseAutoencoder: a JumpReLU one, whose thresholds are all the same."""
    tensors = base(parameters, scale)
    threshold = torch.full_like(tensors["b_enc"], least / scale)
    return {"architecture": "jumprelu", **tensors, "threshold": threshold}
