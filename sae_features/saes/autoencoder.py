"""The sparse autoencoder in one canonical form, whatever release it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from sae_features.errors import InvalidParameterError, SAEFormatError, expected_one_of
from sae_features.saes.conventions import (
    ARCHITECTURES,
    check_conventions,
    digest_of,
    expected_shapes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sae_features.hook_point import HookPoint
    from sae_features.saes.conventions import Architecture

CHUNK_BYTES = 64 * 2**20
"""Memory for pre-activations of all latents at a time."""


class SparseLatents(NamedTuple):
    """Latents that fire, for several rows, laid end to end."""

    values: torch.Tensor
    """Shape (nnz,): how strongly each fires; never 0."""
    indices: torch.Tensor
    """Shape (nnz,), int64: which latent, ascending within a row."""
    counts: torch.Tensor
    """Shape (n,), int64: how many fire in each row."""


@dataclass(frozen=True, eq=False, repr=False)
class SparseAutoencoder:
    """A sparse autoencoder: ``x ≈ decode(encode(x))`` with few latents that are not 0.

    ``encode(x) = activation((x - subtract_b_dec * b_dec) @ W_enc + b_enc)`` and
    ``decode(f) = f @ W_dec + b_dec``.

    Parameters
    ----------
    architecture : {"relu", "topk", "jumprelu"}
        The activation: ``relu`` [1]_; ``topk`` keeps the ``k`` largest pre-activations of a row, and
        of these the positive ones (unless ``topk_relu`` is False) [2]_; ``jumprelu`` keeps
        pre-activations above ``threshold`` [3]_.
    W_enc : tensor of shape (d_in, n_latents)
    b_enc : tensor of shape (n_latents,)
    b_dec : tensor of shape (d_in,)
    W_dec : tensor of shape (n_latents, d_in), optional
        Without it only :meth:`encode` works.
    threshold : tensor of shape (n_latents,), optional
        For ``jumprelu``, not negative.
    k : int, optional
        For ``topk``.
    topk_relu : bool, default=True
        Whether ``topk`` drops negative values among the ``k`` largest.
    subtract_b_dec : bool, default=True
        Whether ``b_dec`` is taken off the input first.
    hook_point : HookPoint, optional
        Where in the model the inputs were read.
    metadata : mapping, optional
        Plain JSON values: ``model`` (``id``, ``revision``, ``digest``), ``max_length``,
        ``prepend_bos`` and what else is known.  No influence on the numbers.
    labels : mapping of int to str, optional
        Names of latents.

    Attributes
    ----------
    d_in, n_latents : int
        Sizes.
    digest : str
        SHA-256 of weights and conventions.  A loaded SAE has that of its files, whatever type it
        computes in; one that was made or changed in memory has that of its own tensors.

    Raises
    ------
    SAEFormatError
        If shapes or conventions do not fit together.

    References
    ----------
    .. [1] Bricken et al., "Towards monosemanticity", 2023.
    .. [2] Gao et al., "Scaling and evaluating sparse autoencoders", arXiv 2406.04093, eq. 3.
    .. [3] Rajamanoharan et al., "Jumping ahead", arXiv 2407.14435, eq. 4.

    Examples
    --------
    >>> import torch
    >>> from sae_features import SparseAutoencoder
    >>> eye = torch.eye(3)
    >>> sae = SparseAutoencoder(
    ...     "topk", W_enc=eye, b_enc=torch.zeros(3), b_dec=torch.zeros(3), W_dec=eye, k=1)
    >>> sae.encode(torch.tensor([[1.0, 3.0, 2.0]]))
    tensor([[0., 3., 0.]])
    """

    architecture: Architecture
    W_enc: torch.Tensor
    b_enc: torch.Tensor
    b_dec: torch.Tensor
    W_dec: torch.Tensor | None = None
    threshold: torch.Tensor | None = None
    k: int | None = None
    topk_relu: bool = True
    subtract_b_dec: bool = True
    hook_point: HookPoint | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise SAEFormatError(expected_one_of("architecture", self.architecture, ARCHITECTURES))
        if self.W_enc.ndim != 2 or self.W_enc.numel() == 0:
            raise SAEFormatError(f"Got W_enc of shape {tuple(self.W_enc.shape)}; expected (d, F).")
        if not self.W_enc.is_floating_point():
            raise SAEFormatError(f"Got W_enc of type {self.W_enc.dtype}; expected floats.")
        check_conventions(self.architecture, self.k, self.n_latents)
        if (self.threshold is not None) != (self.architecture == "jumprelu"):
            message = "Expected a threshold with architecture='jumprelu', and only there."
            raise SAEFormatError(message)
        for name, shape in expected_shapes(self.d_in, self.n_latents).items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                message = f"Got {name} of shape {tuple(tensor.shape)}; expected {shape}."
                raise SAEFormatError(message)
            if tensor is not None and tensor.dtype != self.dtype:
                message = f"Got {name} of type {tensor.dtype}; expected {self.dtype}, as W_enc has."
                raise SAEFormatError(message)

    def __repr__(self) -> str:
        parts = [repr(self.architecture), f"d_in={self.d_in}", f"n_latents={self.n_latents}"]
        parts += [f"k={self.k}"] if self.k is not None else []
        parts += [f"hook_point=({self.hook_point})"] if self.hook_point is not None else []
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def d_in(self) -> int:
        """Size of the activations that go in."""
        return int(self.W_enc.shape[0])

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return int(self.W_enc.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_enc.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that is computed in."""
        return self.W_enc.dtype

    @cached_property
    def digest(self) -> str:
        """SHA-256 of weights and conventions; a loaded SAE has that of its files, in any type."""
        weights = hashlib.sha256()
        for name, tensor in self.tensors():
            weights.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
            weights.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest_of(self.conventions(), weights.hexdigest())

    def conventions(self) -> dict[str, Any]:
        """Return what, beside the tensors, determines the numbers, as plain values."""
        conventions: dict[str, Any] = {
            "architecture": self.architecture,
            "subtract_b_dec": self.subtract_b_dec,
        }
        if self.architecture == "topk":
            conventions |= {"k": self.k, "topk_relu": self.topk_relu}
        return conventions

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and tensor of all weights that are there."""
        for name in expected_shapes(self.d_in, self.n_latents):
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return the latents of each row.

        Parameters
        ----------
        x : tensor or ndarray of shape (n, d_in)
            Converted to the SAE's type and device.

        Returns
        -------
        tensor of shape (n, n_latents)
            Dense; see :meth:`encode_sparse`.
        """
        pre = self._pre_activations(x)
        if self.architecture == "topk":
            values, indices = self._top_k(pre)
            return torch.zeros_like(pre).scatter(-1, indices, values)
        latents = pre.relu()
        return latents if self.threshold is None else torch.where(pre > self.threshold, latents, 0)

    def encode_sparse(self, x: torch.Tensor) -> SparseLatents:
        """Return only the latents that fire; equal to :meth:`encode`.

        Parameters
        ----------
        x : tensor or ndarray of shape (n, d_in)
            Any number of rows: they are taken in chunks of bounded memory.

        Returns
        -------
        SparseLatents
            ``values``, ``indices`` and ``counts`` per row.
        """
        rows = max(1, CHUNK_BYTES // (self.n_latents * self.W_enc.element_size()))
        parts = [self._encode_chunk(chunk) for chunk in torch.split(torch.as_tensor(x), rows)]
        return SparseLatents(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))

    def decode(self, f: torch.Tensor) -> torch.Tensor:
        """Return the activations that latents stand for.

        Parameters
        ----------
        f : tensor of shape (n, n_latents)

        Returns
        -------
        tensor of shape (n, d_in)
        """
        if self.W_dec is None:
            message = "This SAE has no decoder: loaded with decoder=False, or its files have none."
            raise InvalidParameterError(message)
        _check_columns("f", f, self.n_latents)
        return f.to(self.W_dec) @ self.W_dec + self.b_dec

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``decode(encode(x))``.

        Parameters
        ----------
        x : tensor of shape (n, d_in)

        Returns
        -------
        tensor of shape (n, d_in)
        """
        return self.decode(self.encode(x))

    def save(self, folder: str | Path, *, dtype: str | None = None) -> Path:
        """Write ``sae.safetensors`` and ``sae.json``; :func:`load_sae` gives them back bit for bit.

        Parameters
        ----------
        folder : str or Path
            Created if needed; files of an SAE that stands there are replaced.
        dtype : {"float32", "float16", "bfloat16", "float64"}, optional
            Type on disk; that of the weights when not given.

        Returns
        -------
        Path
            The folder.
        """
        from sae_features.saes.formats.native import save_folder

        return save_folder(self, folder, dtype=dtype)

    def _pre_activations(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.as_tensor(x)
        _check_columns("x", x, self.d_in)
        x = x.to(self.W_enc)
        if self.subtract_b_dec:
            x = x - self.b_dec
        return torch.addmm(self.b_enc, x, self.W_enc)

    def _top_k(self, pre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.k is None:  # excluded by __post_init__; tells the type checker
            raise SAEFormatError("A topk SAE needs k.")
        values, indices = pre.topk(self.k, dim=-1, sorted=False)
        return (values.relu() if self.topk_relu else values), indices

    def _encode_chunk(self, x: torch.Tensor) -> SparseLatents:
        if self.architecture == "topk":
            values, indices = self._top_k(self._pre_activations(x))
            indices, order = indices.sort(dim=-1)
            values = values.gather(-1, order)
            fires = values != 0
            return SparseLatents(values[fires], indices[fires], fires.sum(dim=-1))
        latents = self.encode(x)
        rows, indices = latents.nonzero(as_tuple=True)
        return SparseLatents(
            latents[rows, indices], indices, torch.bincount(rows, minlength=len(latents))
        )


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


def _check_columns(name: str, rows: torch.Tensor, n_columns: int) -> None:
    if rows.ndim != 2 or rows.shape[1] != n_columns:
        message = f"Got {name} of shape {tuple(rows.shape)}; expected (n, {n_columns})."
        raise InvalidParameterError(message)
