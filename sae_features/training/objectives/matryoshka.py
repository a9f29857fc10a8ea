"""Matryoshka SAEs (Bussmann et al., arXiv 2503.17547): BatchTopK whose first latents must do alone.

Minimised is the mean of ``‖x − x̂ₘ‖²`` over nested dictionaries, each of which reconstructs from its
first m latents; ``mse`` is that of all latents' share in it, ``prefixes`` that of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sae_features.training.kernels import Support, decode, encode
from sae_features.training.objectives import batchtopk, topk
from sae_features.training.objectives.step import Context, Step, pre_of, squared

if TYPE_CHECKING:
    from collections.abc import Mapping

initial = topk.initial
finished = batchtopk.finished


def step(parameters: Mapping[str, torch.Tensor], x: torch.Tensor, context: Context) -> Step:
    """Return losses of a batch: ``mse``, ``prefixes`` and, where latents are dead, ``aux``."""
    W_enc, b_enc, W_dec, b_dec = (parameters[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    pre = pre_of(parameters, x, context)
    support = Support(batchtopk.largest_of_batch(pre, context.settings.k), *pre.shape)
    latents = encode(x, W_enc, b_dec, b_enc, support, pre).relu()
    ends = context.settings.ends
    error, start, of_prefixes = x - b_dec, 0, []
    for end in ends:
        within = (support.latents >= start) & (support.latents < end)
        error = error - decode(latents[within], support.take(within), W_dec)
        of_prefixes.append(squared(error))
        start = end
    losses = {"mse": of_prefixes[-1] / len(ends)}
    if len(ends) > 1:
        losses["prefixes"] = torch.stack(of_prefixes[:-1]).sum() / len(ends)
    losses |= topk.revival(parameters, x, error.detach(), context)
    return Step(losses, error.detach(), support.counts(), batchtopk.smallest(latents))
