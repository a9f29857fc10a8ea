"""How well an SAE reconstructs activations, and how sparsely; sums in float64."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np

    from sae_features.saes.autoencoder import SparseAutoencoder

BATCH_ROWS = 4096


@dataclass(frozen=True)
class Reconstruction:
    """What an SAE makes of held-out activations.

    Attributes
    ----------
    n_tokens : int
        Rows that were looked at.
    fvu : float
        Fraction of variance unexplained, ``Σ‖x − x̂‖² / Σ‖x − mean(x)‖²`` over all rows.
    l0 : float
        Mean number of latents that fire per row.
    alive : float
        Share of latents that fire at least once.
    """

    n_tokens: int
    fvu: float
    l0: float
    alive: float

    def asdict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


def evaluate_reconstruction(sae: SparseAutoencoder, activations: np.ndarray) -> Reconstruction:
    """Measure an SAE on activations that it was not trained on.

    Parameters
    ----------
    sae : SparseAutoencoder
        With its decoder.
    activations : ndarray of shape (n, d_in), float32

    Returns
    -------
    Reconstruction
    """
    rows = torch.from_numpy(activations)
    mean = rows.mean(dim=0, dtype=torch.float64)
    error = variance = torch.zeros((), dtype=torch.float64)
    fires = torch.zeros(sae.n_latents, dtype=torch.int64)
    for batch in torch.split(rows, BATCH_ROWS):
        latents = sae.encode(batch)
        x = batch.double()
        error = error + (x - sae.decode(latents).cpu().double()).square().sum()
        variance = variance + (x - mean).square().sum()
        fires += (latents != 0).sum(dim=0).cpu()
    return Reconstruction(
        n_tokens=len(rows),
        fvu=float(error / variance),
        l0=float(fires.sum()) / len(rows),
        alive=float((fires > 0).double().mean()),
    )
