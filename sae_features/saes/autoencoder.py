"""The sparse autoencoder in one canonical form, whatever release it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sae_features.errors import (
    InvalidParameterError,
    SAEFormatError,
    expected_one_of,
)
from sae_features.parameters import check_dtype
from sae_features.saes.activations import gated, jumprelu, normalize
from sae_features.saes.conventions import (
    ARCHITECTURES,
    OPTIONAL_TENSORS,
    WITH_K,
    check_conventions,
    check_input_norm,
    digest_of,
    expected_shapes,
)
from sae_features.saes.firing import above, largest, largest_of_groups
from sae_features.saes.labels import neuronpedia_url
from sae_features.saes.provenance import ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sae_features.hook_point import HookPoint
    from sae_features.saes.activations import Restore
    from sae_features.saes.conventions import Architecture, InputNorm
    from sae_features.saes.provenance import FilesRead

TENSORS = (
    "W_enc", "b_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec", "threshold", "latent_scale",
    "selection_scale", "W_skip",
)  # fmt: skip
"""Names of all tensors that an SAE of some architecture has."""
CHUNK_BYTES = 64 * 2**20
"""Most memory for pre-activations of all latents at a time, unless a single row takes more."""
CACHE_BYTES = 8 * 2**20
"""What a processor keeps close: pre-activations are read several times."""
CHUNK_ROWS = 64
"""Rows at a time that the multiplication needs to be fast, if they fit into ``CHUNK_BYTES``."""
GPU_BYTES = 2**30
"""The most on a GPU, which is fast at many rows only; less where less is free."""


class SparseLatents(NamedTuple):
    """Latents that fire, for several rows, laid end to end."""

    values: torch.Tensor
    """Shape (nnz,): how strongly each fires; never 0."""
    indices: torch.Tensor
    """Shape (nnz,), int64: which latent, ascending within a row."""
    counts: torch.Tensor
    """Shape (n,), int64: how many fire in each row."""


class SAEOutput(NamedTuple):
    """What :meth:`SparseAutoencoder.forward` gives."""

    latents: torch.Tensor
    """Shape (n, n_latents)."""
    reconstruction: torch.Tensor
    """Shape (n, d_out), in the units of the input."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SparseAutoencoder:
    """A sparse autoencoder: ``x ≈ decode(encode(x))`` with few latents that are not 0.

    ``encode(x) = activation((norm(x) - subtract_b_dec * b_dec) @ W_enc + b_enc)`` and
    ``decode(f) = (f * latent_scale) @ W_dec + b_dec``.  A transcoder is one that gives the activations
    of another place than it takes; it may add ``x @ W_skip``.

    Parameters
    ----------
    architecture : {"relu", "gated", "topk", "groupmax", "jumprelu"}
        The activation of pre-activations ``p``: ``relu`` [1]_; ``gated`` is
        ``1[p + b_gate > 0] * relu(p * exp(r_mag) + b_mag)``, with ``p`` without a bias [2]_; ``topk``
        keeps the ``k`` largest of a row, and of these the positive ones (unless ``topk_relu`` is
        False) [3]_; ``groupmax`` keeps the largest of each of ``k`` equal groups of neighbours, if it
        is positive [4]_; ``jumprelu`` keeps those above ``threshold`` that are positive [5]_, which
        also is BatchTopK and Matryoshka BatchTopK once trained [6]_.
    W_enc : tensor of shape (d_in, n_latents)
    b_dec : tensor of shape (d_out,)
    b_enc : tensor of shape (n_latents,), optional
        All but ``gated`` have it.
    W_dec : tensor of shape (n_latents, d_out), optional
        Without it only :meth:`encode` works.
    b_gate, b_mag, r_mag : tensor of shape (n_latents,), optional
        For ``gated``.
    threshold : tensor of shape (n_latents,), optional
        For ``jumprelu``.
    latent_scale : tensor of shape (n_latents,), optional
        Multiplies latents on their way into the decoder.
    selection_scale : tensor of shape (n_latents,), optional
        For ``topk``: multiplies pre-activations where they are compared, not those that are kept.
    W_skip : tensor of shape (d_in, d_out), optional
        Skip connection of a transcoder, from the raw input.
    k : int, optional
        For ``topk`` and ``groupmax``.
    topk_relu : bool, default=True
        Whether ``topk`` drops negative values among the ``k`` largest.
    subtract_b_dec : bool, default=True
        Whether ``b_dec`` is taken off the normalised input; needs ``d_out == d_in``.
    input_norm : {"none", "scale", "center", "layer_norm", "rms_norm"}, default="none"
        What is done to each input first: multiplied by ``norm_scale``; its mean over dimensions
        subtracted (and multiplied by ``norm_scale``, if there is one), as TransformerLens does to
        what is written to the residual stream [7]_; its mean subtracted and divided by its standard
        deviation (of ``d_in - 1``) plus 1e-5; or scaled to the norm √d_in.
    norm_scale : float, optional
        For ``input_norm="scale"``, and maybe for ``"center"``.
    denormalize : bool, default=True
        Whether the output is brought back to the units of the input.
    hook_point, hook_point_out : HookPoint, optional
        Where in the model the inputs were read and, for a transcoder, the outputs.
    metadata : mapping, optional
        Plain JSON values: ``model`` (``id``, ``revision``, ``digest``), ``max_length``,
        ``prepend_bos``, ``neuronpedia_id`` and what else is known.  No influence on the numbers.
    labels : mapping of int to str, optional
        Names of latents.

    Attributes
    ----------
    d_in, d_out, n_latents : int
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
    .. [2] Rajamanoharan et al., "Improving dictionary learning with gated sparse autoencoders",
       arXiv 2404.16014, eq. 5 to 7.
    .. [3] Gao et al., "Scaling and evaluating sparse autoencoders", arXiv 2406.04093, eq. 3.
    .. [4] Belrose et al., sparsify, https://github.com/EleutherAI/sparsify.
    .. [5] Rajamanoharan et al., "Jumping ahead", arXiv 2407.14435, eq. 4.
    .. [6] Bussmann et al., "BatchTopK sparse autoencoders", arXiv 2412.06410, eq. 6.
    .. [7] ``HookedTransformer.center_writing_weights``,
       https://github.com/TransformerLensOrg/TransformerLens.

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

    architecture: Architecture = field(kw_only=False)
    W_enc: torch.Tensor
    b_dec: torch.Tensor
    b_enc: torch.Tensor | None = None
    W_dec: torch.Tensor | None = None
    b_gate: torch.Tensor | None = None
    b_mag: torch.Tensor | None = None
    r_mag: torch.Tensor | None = None
    threshold: torch.Tensor | None = None
    latent_scale: torch.Tensor | None = None
    selection_scale: torch.Tensor | None = None
    W_skip: torch.Tensor | None = None
    k: int | None = None
    topk_relu: bool = True
    subtract_b_dec: bool = True
    input_norm: InputNorm = "none"
    norm_scale: float | None = None
    denormalize: bool = True
    hook_point: HookPoint | None = None
    hook_point_out: HookPoint | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise SAEFormatError(expected_one_of("architecture", self.architecture, ARCHITECTURES))
        if self.W_enc.ndim != 2 or self.W_enc.numel() == 0:
            raise SAEFormatError(f"Got W_enc of shape {tuple(self.W_enc.shape)}; expected (d, F).")
        if not self.W_enc.is_floating_point():
            raise SAEFormatError(f"Got W_enc of type {self.W_enc.dtype}; expected floats.")
        if self.b_dec.ndim != 1 or self.b_dec.numel() == 0:
            raise SAEFormatError(f"Got b_dec of shape {tuple(self.b_dec.shape)}; expected (d,).")
        check_conventions(self.architecture, self.k, self.n_latents)
        check_input_norm(self.input_norm, self.norm_scale, self.d_in)
        if self.subtract_b_dec and self.d_out != self.d_in:
            message = (
                f"Got b_dec of shape {(self.d_out,)} and d_in={self.d_in}; expected {(self.d_in,)}, or "
                "subtract_b_dec=False for a transcoder."
            )
            raise SAEFormatError(message)
        self._check_tensors()
        wrong = [latent for latent in self.labels if not self._is_latent(latent)]
        if wrong:
            message = f"Got a label of latent {wrong[0]!r}; expected 0 to {self.n_latents - 1}."
            raise SAEFormatError(message)

    def _check_tensors(self) -> None:
        shapes = self._shapes()
        for name in TENSORS:
            tensor, shape = getattr(self, name), shapes.get(name)
            if tensor is None:
                if shape is not None and name not in OPTIONAL_TENSORS:
                    message = f"Got no {name}; expected one with architecture={self.architecture!r}."
                    raise SAEFormatError(message)
                continue
            if shape is None:
                message = f"Got {name} with architecture={self.architecture!r}; expected none."
                raise SAEFormatError(message)
            if tuple(tensor.shape) != shape:
                message = f"Got {name} of shape {tuple(tensor.shape)}; expected {shape}."
                raise SAEFormatError(message)
            if tensor.dtype != self.dtype:
                message = f"Got {name} of type {tensor.dtype}; expected {self.dtype}, as W_enc has."
                raise SAEFormatError(message)

    def __repr__(self) -> str:
        parts = [repr(self.architecture), f"d_in={self.d_in}", f"n_latents={self.n_latents}"]
        parts += [f"d_out={self.d_out}"] if self.d_out != self.d_in else []
        parts += [f"k={self.k}"] if self.k is not None else []
        parts += [f"hook_point=({self.hook_point})"] if self.hook_point is not None else []
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def d_in(self) -> int:
        """Size of the activations that go in."""
        return int(self.W_enc.shape[0])

    @property
    def d_out(self) -> int:
        """Size of the activations that come out; that of the input unless it is a transcoder."""
        return int(self.b_dec.shape[0])

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
        files: FilesRead | None = vars(self).get(ATTRIBUTE)
        if files is not None:
            return files.digest()
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
        if self.k is not None:
            conventions["k"] = self.k
        if self.architecture == "topk":
            conventions["topk_relu"] = self.topk_relu
        if self.input_norm != "none":
            conventions |= {"input_norm": self.input_norm, "denormalize": self.denormalize}
        if self.norm_scale is not None:
            conventions["norm_scale"] = self.norm_scale
        return conventions

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and tensor of all weights that are there."""
        for name in self._shapes():
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
        return self.activate(self._pre_activations(self._normalize(self._rows(x))[0]))

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
        parts = [self.firing(pre) for pre in self.pre_activations(x)]
        return SparseLatents(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))

    def pre_activations(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield pre-activations of consecutive rows, in chunks of bounded memory (one if empty).

        Each chunk is overwritten by the next one.  Those of a gated SAE are without a bias.

        Parameters
        ----------
        x : tensor or ndarray of shape (n, d_in)

        Yields
        ------
        tensor of shape (rows, n_latents)
        """
        given = _real_rows("x", x, self.d_in)
        wants_grad = torch.is_grad_enabled() and (
            given.requires_grad or any(tensor.requires_grad for _, tensor in self.tensors())
        )
        rows, start, out = self._chunk_rows(), 0, None
        while start < len(given) or start == 0:
            chunk = given[start : start + rows]
            try:
                if out is None and not wants_grad:
                    out = self.W_enc.new_empty(min(rows, len(given)), self.n_latents)
                normalized = self._normalize(chunk.to(self.W_enc))[0]
                pre = self._pre_activations(normalized, None if out is None else out[: len(chunk)])
            except torch.cuda.OutOfMemoryError:
                if rows == 1:
                    raise
                rows, out = (rows + 1) // 2, None
                torch.cuda.empty_cache()
                continue
            yield pre
            start += max(1, len(chunk))

    def _chunk_rows(self) -> int:
        """Return how many rows are encoded at a time."""
        row = self.n_latents * self.W_enc.element_size()
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return int(max(1, min(GPU_BYTES, free // 8) // row))
        return max(1, CACHE_BYTES // row, min(CHUNK_ROWS, CHUNK_BYTES // row))

    def decode(self, f: torch.Tensor | SparseLatents) -> torch.Tensor:
        """Return the activations that latents stand for.

        With ``input_norm="layer_norm"`` or ``"rms_norm"`` they are in normalised units, and with
        ``"center"`` less the input's mean, since its own mean and norm are not known here; and a
        skip connection is left out.
        :meth:`reconstruct` has both.

        Parameters
        ----------
        f : tensor or ndarray of shape (n, n_latents), or SparseLatents
            As :meth:`encode` or :meth:`encode_sparse` gives them.

        Returns
        -------
        tensor of shape (n, d_out)
        """
        decoded = self._decode(f)
        return decoded / self.norm_scale if self.norm_scale and self.denormalize else decoded

    def forward(self, x: torch.Tensor) -> SAEOutput:
        """Return latents and reconstruction of each row.

        Parameters
        ----------
        x : tensor or ndarray of shape (n, d_in)

        Returns
        -------
        SAEOutput
            ``latents`` as of :meth:`encode`, ``reconstruction`` as of :meth:`reconstruct`.
        """
        rows = self._rows(x)
        normalized, restore = self._normalize(rows)
        latents = self.activate(self._pre_activations(normalized))
        return SAEOutput(latents, self._restored(rows, self._decode(latents), restore))

    def reconstruct(self, x: torch.Tensor, latents: SparseLatents | None = None) -> torch.Tensor:
        """Return what the latents of each row stand for, in the units of the input.

        The normalisation of the input is undone and the skip connection added.

        Parameters
        ----------
        x : tensor or ndarray of shape (n, d_in)
        latents : SparseLatents, optional
            Those of ``x``, if :meth:`encode_sparse` gave them: then nothing of shape (n, n_latents)
            is made.

        Returns
        -------
        tensor of shape (n, d_out)
        """
        if latents is None:
            return self.forward(x).reconstruction
        rows = self._rows(x)
        return self._restored(rows, self._decode(latents), self._normalize(rows)[1])

    def __call__(self, x: torch.Tensor) -> SAEOutput:
        """Return ``forward(x)``."""
        return self.forward(x)

    def to(
        self, device: str | torch.device | None = None, dtype: str | None = None
    ) -> SparseAutoencoder:
        """Return the SAE on another device, or in another type; a loaded one keeps its files' digest.

        Parameters
        ----------
        device : str or torch.device, optional
            Where the weights go.
        dtype : {"float32", "float16", "bfloat16", "float64"}, optional
            Type that is computed in.

        Raises
        ------
        SAEFormatError
            If a weight is not finite in that type.
        """
        from sae_features.saes.formats.conversion import check_finite

        check_dtype(dtype)
        wanted = self.dtype if dtype is None else getattr(torch, dtype)
        tensors: dict[str, Any] = {name: t.to(device=device, dtype=wanted) for name, t in self.tensors()}
        for name, tensor in tensors.items():
            check_finite(name, tensor, "The SAE")
        moved = replace(self, **tensors)
        if ATTRIBUTE in vars(self):  # nothing is hashed for it
            vars(moved)[ATTRIBUTE] = vars(self)[ATTRIBUTE]
        return moved

    def latent_url(self, latent: int) -> str | None:
        """Return the page of a latent on Neuronpedia, or None where the metadata name none.

        Parameters
        ----------
        latent : int
            Its index, from 0.

        Raises
        ------
        InvalidParameterError
            If there is no such latent.
        """
        if not self._is_latent(latent):
            message = f"Got latent={latent!r}; expected 0 to {self.n_latents - 1}."
            raise InvalidParameterError(message)
        return neuronpedia_url(self.metadata, int(latent))

    def save(
        self,
        folder: str | Path,
        *,
        format: str = "sae-features",  # noqa: A002
        dtype: str | None = None,
    ) -> Path:
        """Write the SAE to a folder; :func:`load_sae` gives it back.

        Parameters
        ----------
        folder : str or Path
            Created if needed; files of an SAE that stands there are replaced.
        format : {"sae-features", "saelens", "sparsify"} or another that can write
            Our own gives everything back bit for bit.  In the others constant scales are folded into
            the weights, and what they cannot express is an error.
        dtype : {"float32", "float16", "bfloat16", "float64"}, optional
            Type on disk; that of the weights when not given.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        SAEFormatError
            If the format cannot express this SAE, or a weight is not finite in that type.
        """
        from sae_features.saes.formats import writer_of

        check_dtype(dtype)
        return writer_of(format)(self, Path(folder), dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: elsewhere the files may not be."""
        state = dict(vars(self))
        if state.pop(ATTRIBUTE, None) is not None:
            state["digest"] = self.digest
        return state

    def _is_latent(self, latent: Any) -> bool:
        is_number = isinstance(latent, Integral) and not isinstance(latent, bool)
        return is_number and 0 <= latent < self.n_latents

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return expected_shapes(self.architecture, self.d_in, self.n_latents, self.d_out)

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        return _real_rows("x", x, self.d_in).to(self.W_enc)

    def _normalize(self, x: torch.Tensor) -> tuple[torch.Tensor, Restore]:
        return normalize(x, self.input_norm, self.norm_scale)

    def _restored(self, rows: torch.Tensor, decoded: torch.Tensor, restore: Restore) -> torch.Tensor:
        """Return decoded activations with the skip connection, in the units of the input."""
        if self.W_skip is not None:
            decoded = torch.addmm(decoded, rows, self.W_skip)
        return restore(decoded) if self.denormalize else decoded

    def _pre_activations(
        self, normalized: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return pre-activations; those of a gated SAE are without a bias."""
        if self.subtract_b_dec:
            normalized = normalized - self.b_dec
        if self.b_enc is None:
            return torch.mm(normalized, self.W_enc, out=out)
        return torch.addmm(self.b_enc, normalized, self.W_enc, out=out)

    @property
    def is_nonnegative(self) -> bool:
        """Whether no latent is ever below 0."""
        return self.topk_relu or self.architecture != "topk"

    def activate(self, pre: torch.Tensor) -> torch.Tensor:
        """Return latents, dense, of pre-activations as :meth:`pre_activations` gives them.

        Parameters
        ----------
        pre : tensor of shape (n, n_latents)

        Returns
        -------
        tensor of shape (n, n_latents)
        """
        if self.architecture in WITH_K:
            flat = self._positions(pre)
            kept = torch.zeros_like(pre).view(-1).scatter(0, flat, pre.reshape(-1)[flat])
            return kept.view_as(pre)
        if self.b_gate is not None and self.r_mag is not None and self.b_mag is not None:
            return gated(pre, self.b_gate, self.r_mag, self.b_mag)
        return pre.relu() if self.threshold is None else jumprelu(pre, self.threshold)

    @property
    def is_monotone(self) -> bool:
        """Whether each latent is a function of its own pre-activation, at least 0, that never falls."""
        return self.architecture not in WITH_K

    def firing(self, pre: torch.Tensor) -> SparseLatents:
        """Return the latents that fire, of pre-activations as :meth:`pre_activations` gives them.

        Parameters
        ----------
        pre : tensor of shape (n, n_latents), contiguous

        Returns
        -------
        SparseLatents
        """
        flat = self._positions(pre)
        rows = torch.div(flat, self.n_latents, rounding_mode="floor")
        values, indices = pre.reshape(-1)[flat], flat - rows * self.n_latents
        if self.b_mag is not None and self.r_mag is not None:
            values = torch.addcmul(self.b_mag[indices], values, self.r_mag[indices].exp())
            fires = values > 0
        else:
            fires = values != 0  # a top-k may keep zeros
        if not bool(fires.all()):
            values, indices, rows = values[fires], indices[fires], rows[fires]
        return SparseLatents(values, indices, torch.bincount(rows, minlength=len(pre)))

    def _positions(self, pre: torch.Tensor) -> torch.Tensor:
        """Return where latents may fire, as positions in the flattened pre-activations, ascending."""
        if self.k is None:
            return above(pre, self._bound)
        if self.architecture == "groupmax":
            return largest_of_groups(pre, self.k)
        if self.selection_scale is None:
            return largest(pre, self.k, positive=self.topk_relu)
        flat = largest(pre * self.selection_scale, self.k, positive=False)
        return flat[pre.reshape(-1)[flat] > 0] if self.topk_relu else flat

    @cached_property
    def _bound(self) -> torch.Tensor | None:
        """What pre-activations must exceed to fire, at least 0; for gates whatever it is."""
        if self.b_gate is not None:
            return 0.0 - self.b_gate  # never -0.0, whose bits are those of a negative number
        return None if self.threshold is None else self.threshold.relu() + 0.0

    def _decode(self, f: torch.Tensor | SparseLatents) -> torch.Tensor:
        if self.W_dec is None:
            message = "This SAE has no decoder: loaded with decoder=False, or its files have none."
            raise InvalidParameterError(message)
        if isinstance(f, SparseLatents):
            return self._decode_sparse(f, self.W_dec)
        f = _real_rows("f", f, self.n_latents).to(self.W_dec)
        if self.latent_scale is not None:
            f = f * self.latent_scale
        return torch.addmm(self.b_dec, f, self.W_dec)

    def _decode_sparse(self, f: SparseLatents, W_dec: torch.Tensor) -> torch.Tensor:
        values = f.values.to(W_dec)
        if self.latent_scale is not None:
            values = values * self.latent_scale[f.indices]
        starts = f.counts.cumsum(0) - f.counts
        summed = torch.nn.functional.embedding_bag(
            f.indices, W_dec, starts, per_sample_weights=values, mode="sum"
        )
        return summed + self.b_dec


def _real_rows(name: str, given: Any, n_columns: int) -> torch.Tensor:
    """Return rows as a tensor of real numbers with so many columns."""
    try:
        rows = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        message = (
            f"Got {name} of type {type(given).__name__}; expected (n, {n_columns}) numbers: {error}"
        )
        raise InvalidParameterError(message) from error
    if rows.is_complex():
        raise InvalidParameterError(f"Got {name} of type {rows.dtype}; expected real numbers.")
    if rows.ndim != 2 or rows.shape[1] != n_columns:
        message = f"Got {name} of shape {tuple(rows.shape)}; expected (n, {n_columns})."
        raise InvalidParameterError(message)
    return rows
