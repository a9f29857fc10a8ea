"""How alike the dictionaries of two SAEs are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sae_features.errors import InvalidParameterError
from sae_features.saes.autoencoder import SparseAutoencoder

if TYPE_CHECKING:
    import numpy as np

SIMILARITY_ROWS = 2048
"""Decoder rows at a time that are compared with all others."""


def mmcs(
    a: SparseAutoencoder | np.ndarray | torch.Tensor, b: SparseAutoencoder | np.ndarray | torch.Tensor
) -> float:
    """Return the mean max cosine similarity of the directions of ``a`` to those of ``b`` [1]_.

    ``mean_i max_j cos(a_i, b_j)``: for each direction of ``a`` the nearest of ``b``, which several may
    share.  It is not symmetric: ``mmcs(a, b)`` tells how much of ``a`` is found in ``b``, and
    ``mmcs(b, a)`` how much of ``b`` in ``a``.  With planted features as ``a`` it tells how many of them
    an SAE ``b`` has recovered.

    Parameters
    ----------
    a, b : SparseAutoencoder, or ndarray or tensor of shape (n_directions, d)
        Of an SAE the rows of its decoder are meant.  A row of zeros has no direction: its cosines are 0.

    Returns
    -------
    float
        From -1 to 1.

    Raises
    ------
    InvalidParameterError
        If widths differ, or an SAE has no decoder.

    References
    ----------
    .. [1] Sharkey et al., "Taking features out of superposition with sparse autoencoders", 2022.

    Examples
    --------
    >>> import numpy as np
    >>> mmcs(np.eye(2), np.eye(3)[:, :2]), mmcs(np.eye(3)[:, :2], np.eye(2))
    (1.0, 0.666...)
    """
    first = _directions("a", a)
    second = _directions("b", b).to(first.device)
    if first.shape[1] != second.shape[1]:
        message = f"Got directions of {first.shape[1]} and {second.shape[1]} dimensions; expected equal."
        raise InvalidParameterError(message)
    total = 0.0
    for rows in torch.split(first, SIMILARITY_ROWS):
        nearest = torch.full((len(rows),), -1.0, device=rows.device)
        for others in torch.split(second, SIMILARITY_ROWS):
            nearest = torch.maximum(nearest, (rows @ others.T).amax(dim=1))
        total += float(nearest.double().sum())
    return total / len(first)


def _directions(name: str, given: Any) -> torch.Tensor:
    """Return unit rows, float32; rows of zeros as they are."""
    rows = given
    if isinstance(given, SparseAutoencoder):
        rows = given.W_dec
        if rows is None:
            raise InvalidParameterError(f"Got {name} without a decoder; expected one with W_dec.")
        if given.latent_scale is not None:
            rows = rows * given.latent_scale[:, None]
    tensor = torch.as_tensor(rows).detach()
    if tensor.ndim != 2 or not tensor.numel():
        message = f"Got {name} of shape {tuple(tensor.shape)}; expected (n_directions, d)."
        raise InvalidParameterError(message)
    return torch.nn.functional.normalize(tensor.float(), eps=torch.finfo(torch.float32).tiny)
