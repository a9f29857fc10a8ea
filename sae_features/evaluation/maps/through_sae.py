"""Activations of one model, mapped to those of another and read by the other's SAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from sae_features.errors import InvalidParameterError
from sae_features.evaluation.maps.columns import dense
from sae_features.evaluation.maps.correlations import paired_correlations
from sae_features.pooling import pool_codes
from sae_features.ragged import TokenCodes, index_type, offsets_of
from sae_features.releases import find_sae
from sae_features.weights import shared_sae

if TYPE_CHECKING:
    from pathlib import Path

    from sae_features.evaluation.maps.paired import Paired
    from sae_features.parameters import Pooling
    from sae_features.releases import SAEReference


class TargetSAE(NamedTuple):
    """An SAE of model A, found but not loaded: weights are shared by all that use them."""

    reference: SAEReference
    """What is known of it."""
    d_in: int
    """Size of A's activations."""
    device: str | None
    """Where it computes."""

    @classmethod
    def find(cls, sae: str | Path, d_in: int, device: str | None) -> TargetSAE:
        """Find an SAE that takes activations of a size.

        Raises
        ------
        InvalidParameterError
            If it takes others.
        AssetNotFoundError, SAEFormatError
            As :func:`sae_features.load_sae` raises them.
        """
        reference = find_sae(sae)
        takes = reference.d_in(d_in)
        if takes != d_in:
            message = (
                f"Got sae={str(sae)!r}, which takes activations of size {takes}, and rows of A of size "
                f"{d_in}; expected activations of its model as Y, such as ActivationFeaturizer gives."
            )
            raise InvalidParameterError(message)
        return cls(reference, d_in, device)

    @property
    def digest(self) -> str:
        """SHA-256 of what determines its numbers."""
        return self.reference.digest(self.d_in)

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return self.reference.n_latents

    def rows(self, activations: np.ndarray, offsets: np.ndarray | None, pooling: str) -> Any:
        """Return what the SAE reads in activations of A.

        Parameters
        ----------
        activations : ndarray of shape (n, d_in)
            One row per item, or per token.
        offsets : ndarray of shape (n_items + 1,), int64, optional
            The tokens of item ``i`` are the rows ``offsets[i]:offsets[i + 1]``; one each if not given.
        pooling : str
            How the latents of an item's tokens become one row.

        Returns
        -------
        csr_matrix of shape (n_items, n_latents), float32
        """
        import torch

        sae: Any = shared_sae(
            self.digest, self.device, "float32", lambda place: self.reference.load(self.d_in, place)
        )
        with torch.inference_mode():
            latents = sae.encode_sparse(torch.from_numpy(activations.astype(np.float32)))
        values, indices, counts = (part.cpu().numpy() for part in latents)
        is_rows = offsets is None
        codes = TokenCodes(
            indices.astype(index_type(self.n_latents)),
            values,
            offsets_of(counts),
            np.arange(len(activations) + 1) if offsets is None else offsets,
            self.n_latents,
        )
        return pool_codes(codes, cast("Pooling", "sum" if is_rows else pooling))


class Reading(NamedTuple):
    """How rows of A come about: as they are mapped, or as A's SAE reads them."""

    sae: TargetSAE | None
    """What reads them."""
    pooling: str
    """How the latents of an item's tokens become one row."""

    def aligned(self, learned: Any, rows: Paired) -> Any:
        """Return what a map and, if there is one, the SAE make of rows of B."""
        mapped = learned.apply(rows.X)
        return mapped if self.sae is None else self.sae.rows(mapped, rows.offsets, self.pooling)

    def truth(self, rows: Paired) -> Any:
        """Return the rows of A, read by the SAE if there is one."""
        return rows.Y if self.sae is None else self.sae.rows(dense(rows.Y), rows.offsets, self.pooling)

    def correlations(self, learned: Any, rows: Paired) -> np.ndarray:
        """Return how aligned features correlate with true ones; NaN where those are constant."""
        return paired_correlations(self.aligned(learned, rows), self.truth(rows))
