"""Conventions folded into weights: the same function with fewer of them.

Each function takes tensors of an SAE by name and returns new ones; what is not named stays as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError

if TYPE_CHECKING:
    import torch

    from sae_features.saes.autoencoder import SparseAutoencoder
    from sae_features.saes.conventions import InputNorm

    Tensors = dict[str, torch.Tensor]


def scale_inputs(tensors: Tensors, scale: float) -> Tensors:
    """Return an encoder that takes ``x`` where it took ``scale * x``."""
    return tensors | {"W_enc": tensors["W_enc"] * scale}


def scale_outputs(tensors: Tensors, scale: float) -> Tensors:
    """Return a decoder whose output is ``scale`` times what it was."""
    return tensors | {name: tensors[name] * scale for name in ("W_dec", "b_dec") if name in tensors}


def scale_latents(tensors: Tensors, factors: torch.Tensor) -> Tensors:
    """Return an SAE whose latents are ``factors`` times what they were, with the same outputs.

    Of ``topk`` and ``groupmax`` the latents that are chosen may be others, since larger ones win.

    Parameters
    ----------
    tensors : dict of str to tensor
    factors : tensor of shape (n_latents,)
        Above 0.
    """
    scaled = tensors | {"W_enc": tensors["W_enc"] * factors}
    for name in ("b_enc", "b_gate", "b_mag", "threshold"):
        if name in tensors:
            scaled[name] = tensors[name] * factors
    if "W_dec" in tensors:
        scaled["W_dec"] = tensors["W_dec"] / factors[:, None]
    return scaled


def decoder_norms(tensors: Tensors) -> torch.Tensor:
    """Return the norm of each latent's decoder row, 1 where it is 0."""
    norms = tensors["W_dec"].norm(dim=1)
    return norms.where(norms > 0, 1.0)


def unit_decoder(tensors: Tensors) -> Tensors:
    """Return an SAE with decoder rows of norm 1 and the same outputs; see :func:`scale_latents`."""
    return scale_latents(tensors, decoder_norms(tensors))


def fold_center(sae: SparseAutoencoder) -> SparseAutoencoder:
    """Return an SAE that takes inputs as they are where it took them less their mean: same latents.

    Taking the mean off is linear, and is done to ``W_enc`` in place of the inputs; a bias makes up for
    what that does to ``b_dec`` where it is subtracted.  In outputs the mean of the input is missing, as
    with ``denormalize=False``.
    """
    import torch

    if sae.input_norm != "center":
        return sae
    encoder = sae.W_enc.to(torch.promote_types(sae.dtype, torch.float32))
    mean = encoder.mean(dim=0)
    tensors = {"W_enc": encoder - mean}
    if sae.subtract_b_dec:
        given_back = -sae.b_dec.to(encoder).sum() * mean
        for name in ("b_enc", "b_gate", "b_mag"):
            bias = getattr(sae, name)
            if bias is not None:
                factor = sae.r_mag.exp() if name == "b_mag" and sae.r_mag is not None else 1.0
                tensors[name] = bias + given_back * factor
    folded: dict[str, Any] = {name: tensor.to(sae.dtype) for name, tensor in tensors.items()}
    input_norm: InputNorm = "none" if sae.norm_scale is None else "scale"
    return replace(sae, **folded, input_norm=input_norm)


def fold_scales(sae: SparseAutoencoder) -> SparseAutoencoder:
    """Return an SAE without ``norm_scale`` and ``latent_scale``: same latents, same outputs.

    Raises
    ------
    SAEFormatError
        If its ``norm_scale`` cannot be folded.
    """
    tensors: dict[str, Any] = dict(sae.tensors())
    scale = sae.norm_scale
    if scale is not None:
        if sae.subtract_b_dec and not sae.denormalize:
            message = "Got subtract_b_dec with denormalize=False; its norm_scale cannot be folded."
            raise SAEFormatError(message)
        tensors = scale_inputs(tensors, scale)
        if sae.denormalize:
            tensors = scale_outputs(tensors, 1 / scale)
            if "W_skip" in tensors:
                tensors["W_skip"] = tensors["W_skip"] / scale
    factors = tensors.pop("latent_scale", None)
    if factors is not None and "W_dec" in tensors:
        tensors["W_dec"] = tensors["W_dec"] * factors[:, None]
    input_norm = "none" if sae.input_norm == "scale" else sae.input_norm
    return replace(sae, **tensors, latent_scale=None, input_norm=input_norm, norm_scale=None)
