"""The random control: an SAE that learned nothing, of any size."""

from __future__ import annotations

import numpy as np
import torch

from sae_features.saes.autoencoder import SparseAutoencoder


def random_autoencoder(
    d_in: int, n_latents: int, k: int, *, seed: int = 0, device: str = "cpu"
) -> SparseAutoencoder:
    """Return a TopK SAE with random unit encoder directions and no biases: a control.

    Parameters
    ----------
    d_in, n_latents, k : int
        Sizes and number of latents that fire.
    seed : int, default=0
        Seed of numpy's PCG64, so that the weights are the same everywhere.
    device : str, default="cpu"
        Where the weights go.

    Returns
    -------
    SparseAutoencoder
        Without a decoder.
    """
    generator = np.random.default_rng(seed)
    directions = generator.standard_normal((n_latents, d_in), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sae = SparseAutoencoder(
        "topk",
        W_enc=torch.from_numpy(np.ascontiguousarray(directions.T)).to(device),
        b_enc=torch.zeros(n_latents, device=device),
        b_dec=torch.zeros(d_in, device=device),
        k=k,
        subtract_b_dec=False,
    )
    vars(sae)["digest"] = f"random:{n_latents}:{k}:{seed}:{d_in}"  # fills the cached property
    return sae
