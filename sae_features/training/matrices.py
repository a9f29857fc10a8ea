"""Dense and CSR matrices as scikit-learn hands them over, and as rows and latents in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
import torch
from scipy import sparse

from sae_features.saes.autoencoder import SparseLatents
from sae_features.training.sources import ArraySource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sae_features.saes.autoencoder import SparseAutoencoder

CHUNK_ROWS = 4096
"""Rows that are encoded or decoded at a time."""


class _SparseRows(ArraySource):
    """Rows of a CSR matrix, made dense batch by batch."""

    def __init__(self, rows: Any) -> None:
        self.activations, self.hook_point, self.metadata = rows, None, {}

    def _rows(self, rows: np.ndarray) -> torch.Tensor:
        return _dense(self.activations[rows])


def source_of_matrix(X: Any) -> ArraySource:
    """Return a source of the rows of an array or a CSR matrix, (n, d), float32."""
    return ArraySource(X) if isinstance(X, np.ndarray) else _SparseRows(X)


def encoded(sae: SparseAutoencoder, X: Any) -> np.ndarray:
    """Return the latents of each row of an array or a CSR matrix: dense, (n, n_latents), float32."""
    codes = np.empty((X.shape[0], sae.n_latents), dtype=np.float32)
    for first, part in _chunks(X):
        codes[first : first + CHUNK_ROWS] = sae.encode(_dense(part)).cpu().numpy()
    return codes


def encoded_sparse(sae: SparseAutoencoder, X: Any) -> Any:
    """Return the same as CSR, a matrix or an array as scikit-learn's ``sparse_interface`` says."""
    parts = [sae.encode_sparse(_dense(part)) for _, part in _chunks(X)]
    values, indices, counts = (torch.cat(pieces).cpu().numpy() for pieces in zip(*parts, strict=True))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    interface = sklearn.get_config().get("sparse_interface", "spmatrix")
    container = sparse.csr_array if interface == "sparray" else sparse.csr_matrix
    return container((values, indices, offsets), shape=(X.shape[0], sae.n_latents))


def decoded(sae: SparseAutoencoder, codes: Any) -> np.ndarray:
    """Return the rows that codes stand for, an array or a CSR matrix: (n, d), float32."""
    rows = np.empty((codes.shape[0], sae.d_in), dtype=np.float32)
    for first, part in _chunks(codes):
        latents = _dense(part).to(sae.device) if isinstance(part, np.ndarray) else _latents(part, sae)
        rows[first : first + CHUNK_ROWS] = sae.decode(latents).cpu().numpy()
    return rows


def _chunks(X: Any) -> Iterator[tuple[int, Any]]:
    for first in range(0, X.shape[0], CHUNK_ROWS):
        yield first, X[first : first + CHUNK_ROWS]


def _dense(part: Any) -> torch.Tensor:
    """Return rows as a tensor of their own: torch does not take arrays that cannot be written to."""
    is_dense = isinstance(part, np.ndarray)
    return torch.from_numpy(np.array(part, order="C") if is_dense else part.toarray())


def _latents(codes: Any, sae: SparseAutoencoder) -> SparseLatents:
    parts = codes.data, codes.indices.astype(np.int64), np.diff(codes.indptr).astype(np.int64)
    return SparseLatents(*(torch.from_numpy(np.array(part)).to(sae.device) for part in parts))
