"""What an SAE does to inputs and to pre-activations, as functions of tensors of shape (n, …)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sae_features.saes.conventions import InputNorm

LAYER_NORM_EPS = 1e-5
Restore = Callable[[torch.Tensor], torch.Tensor]
"""Undoes a normalisation: from outputs of shape (n, d_out) to the units of the inputs."""


def normalize(
    x: torch.Tensor, input_norm: InputNorm, norm_scale: float | None
) -> tuple[torch.Tensor, Restore]:
    """Return normalised inputs and what undoes it; the statistics are at least float32.

    Parameters
    ----------
    x : tensor of shape (n, d_in)
    input_norm : str
        As of :class:`~sae_features.SparseAutoencoder`.
    norm_scale : float, optional
        For ``"scale"`` and ``"center"``.
    """
    if input_norm == "none":
        return x, lambda decoded: decoded
    scale = 1.0 if norm_scale is None else norm_scale
    if input_norm == "scale":
        return x * scale, lambda decoded: decoded / scale
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # squares of half precision overflow
    if input_norm == "center":
        mean = wide.mean(dim=-1, keepdim=True)
        normalized = ((wide - mean) * scale).to(x.dtype)
        return normalized, lambda decoded: (decoded / scale + mean).to(x.dtype)
    if input_norm == "layer_norm":
        mean = wide.mean(dim=-1, keepdim=True)
        centred = wide - mean
        deviation = centred.std(dim=-1, keepdim=True)
        normalized = (centred / (deviation + LAYER_NORM_EPS)).to(x.dtype)
        return normalized, lambda decoded: (decoded * deviation + mean).to(x.dtype)
    norms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    factors = x.shape[-1] ** 0.5 / norms.clamp_min(torch.finfo(wide.dtype).tiny)
    factors = factors.where(norms > 0, 1.0)  # an input of zeros stays one
    return (wide * factors).to(x.dtype), lambda decoded: (decoded / factors).to(x.dtype)


def jumprelu(pre: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Return what is positive and above its threshold (arXiv 2407.14435, eq. 4)."""
    return torch.where(pre > threshold, pre.relu(), 0)


def gated(
    pre: torch.Tensor, b_gate: torch.Tensor, r_mag: torch.Tensor, b_mag: torch.Tensor
) -> torch.Tensor:
    """Return gated magnitudes; ``pre`` is without a bias (arXiv 2404.16014, eq. 5 to 7)."""
    magnitudes = torch.addcmul(b_mag, pre, r_mag.exp()).relu()
    return torch.where(pre + b_gate > 0, magnitudes, 0)
