"""Train a TopK sparse autoencoder (Gao et al., arXiv 2406.04093) on activations in memory.

Only the encoder's forward pass is a dense product; decoder and gradients touch the ``k`` latents
that fire, as sparse products.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.saes.autoencoder import SparseAutoencoder

if TYPE_CHECKING:
    from sae_features.hook_point import HookPoint


@dataclass(frozen=True)
class TopKSettings:
    """How to train.

    Attributes
    ----------
    n_latents, k : int
        Width, and latents that fire per row.
    epochs : int
        Passes over the activations.
    batch_size : int
        Rows per step.
    learning_rate : float
        Adam's, after a warm-up over 5 % of the steps, with a linear decay over the last 30 %.
    aux_k : int
        Dead latents that reconstruct the error in the auxiliary loss (eq. 7 of the paper's
        appendix A.2).
    aux_weight : float
        Weight of that loss.
    dead_after : int
        Rows without firing after which a latent counts as dead.
    seed : int
        Of initialisation and order.
    """

    n_latents: int
    k: int
    epochs: int = 4
    batch_size: int = 2048
    learning_rate: float = 1e-3
    aux_k: int = 192
    aux_weight: float = 1 / 32
    dead_after: int = 200_000
    seed: int = 0


def train_topk(
    activations: np.ndarray,
    settings: TopKSettings,
    *,
    hook_point: HookPoint | None = None,
    metadata: dict[str, Any] | None = None,
    verbose: bool = False,
) -> SparseAutoencoder:
    """Train a TopK SAE.

    Inputs are centred and scaled to mean squared norm ``d_in`` for training; the SAE that is
    returned takes and gives them as they are, and its decoder directions have unit norm.

    Parameters
    ----------
    activations : ndarray of shape (n, d_in), float32
        One row per token, in any order.
    settings : TopKSettings
        How to train.
    hook_point, metadata : optional
        Put into the SAE.
    verbose : bool, default=False
        Whether to show progress.

    Returns
    -------
    SparseAutoencoder

    Raises
    ------
    InvalidInputError
        If activations are too few, or not finite.
    InvalidParameterError
        If ``k`` is not between 1 and ``n_latents``, or there would be no step.
    """
    if not 1 <= settings.k <= settings.n_latents:
        message = f"Got k={settings.k}; expected 1 to {settings.n_latents} (n_latents)."
        raise InvalidParameterError(message)
    for name in ("epochs", "batch_size"):
        if getattr(settings, name) < 1:
            raise InvalidParameterError(f"Got {name}={getattr(settings, name)}; expected at least 1.")
    data = torch.from_numpy(np.asarray(activations, np.float32))
    if data.ndim != 2 or len(data) < settings.batch_size:
        message = f"Got activations {tuple(data.shape)}; expected at least {settings.batch_size} rows."
        raise InvalidInputError(message)
    center = data.mean(dim=0, dtype=torch.float64).float()
    scale = _scale(data, center)
    generator = torch.Generator().manual_seed(settings.seed)
    weights = _Weights(data.shape[1], settings, generator)
    n_batches = len(data) // settings.batch_size
    n_steps = n_batches * settings.epochs
    optimizer = torch.optim.Adam(weights.all(), lr=settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, n_steps))
    silent = torch.zeros(settings.n_latents, dtype=torch.int64)

    progress = tqdm(total=n_steps, unit="step", disable=not verbose)
    for _ in range(settings.epochs):
        order = torch.randperm(len(data), generator=generator)
        for rows in torch.split(order[: n_batches * settings.batch_size], settings.batch_size):
            x = (data[rows] - center) * scale
            loss, indices, fired = weights.loss(x, settings, silent > settings.dead_after)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            weights.remove_parallel_gradient()
            optimizer.step()
            schedule.step()
            weights.normalize_decoder()
            silent += len(rows)
            silent[indices[fired]] = 0
            progress.update()
            if progress.n % 20 == 0:
                dead = int((silent > settings.dead_after).sum())
                progress.set_postfix(fvu=f"{loss.item():.4f}", dead=dead, refresh=False)
    progress.close()
    return SparseAutoencoder(
        "topk",
        W_enc=weights.W_enc.detach().T.contiguous(),
        b_enc=weights.b_enc.detach() / scale,
        b_dec=weights.b_dec.detach() / scale + center,
        W_dec=weights.W_dec.detach(),
        k=settings.k,
        hook_point=hook_point,
        metadata=metadata or {},
    )


class _Weights:
    """Parameters in training; both matrices have one row per latent."""

    def __init__(self, d_in: int, settings: TopKSettings, generator: torch.Generator) -> None:
        directions = torch.randn(settings.n_latents, d_in, generator=generator)
        self.W_dec = torch.nn.functional.normalize(directions).requires_grad_()
        self.W_enc = self.W_dec.detach().clone().requires_grad_()
        self.b_enc = torch.zeros(settings.n_latents, requires_grad=True)
        self.b_dec = torch.zeros(d_in, requires_grad=True)

    def all(self) -> list[torch.Tensor]:
        return [self.W_enc, self.b_enc, self.W_dec, self.b_dec]

    def loss(
        self, x: torch.Tensor, settings: TopKSettings, dead: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the loss (as a fraction of variance), and which latents fired."""
        z = x - self.b_dec
        values, indices = _TopKEncode.apply(  # type: ignore[no-untyped-call]
            z, self.W_enc, self.b_enc, settings.k
        )
        decoded = _SparseDecode.apply(values, indices, self.W_dec)  # type: ignore[no-untyped-call]
        error = x - decoded - self.b_dec
        variance = x.var(dim=0, correction=0).sum()
        loss = error.square().sum(dim=1).mean() / variance
        if bool(dead.any()):
            loss = loss + settings.aux_weight * self._aux_loss(
                z.detach(), error.detach(), dead.nonzero().flatten(), settings.aux_k
            )
        return loss, indices, values.detach() > 0

    def _aux_loss(
        self, z: torch.Tensor, error: torch.Tensor, dead: torch.Tensor, aux_k: int
    ) -> torch.Tensor:
        pre = torch.addmm(self.b_enc[dead], z, self.W_enc[dead].T)
        values, indices = pre.topk(min(aux_k, len(dead)), dim=-1)
        codes = torch.zeros_like(pre).scatter(-1, indices, values.relu())
        remainder = (error - codes @ self.W_dec[dead]).square().sum(dim=1).mean()
        return remainder / error.square().sum(dim=1).mean()

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        grad = self.W_dec.grad
        if grad is not None:
            grad -= (grad * self.W_dec).sum(dim=1, keepdim=True) * self.W_dec

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)


class _TopKEncode(torch.autograd.Function):
    """``relu(topk(z @ W_enc.T + b_enc))`` whose backward pass touches only the latents kept."""

    @staticmethod
    def forward(
        ctx: Any, z: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, k: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        values, indices = torch.addmm(b_enc, z, W_enc.T).topk(k, dim=-1, sorted=False)
        values = values.relu()
        ctx.save_for_backward(z, W_enc, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        z, W_enc, values, indices = ctx.saved_tensors
        grad = torch.where(values > 0, grad, 0)
        grad_b = grad.new_zeros(len(W_enc)).index_add_(0, indices.flatten(), grad.flatten())
        grad_W = _by_latent(indices, grad, len(W_enc)) @ z
        return _weighted_rows(grad, indices, W_enc), grad_W, grad_b, None


class _SparseDecode(torch.autograd.Function):
    """``codes @ W_dec`` for codes given as values and indices."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, indices: torch.Tensor, W_dec: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(values, indices, W_dec)
        return _weighted_rows(values, indices, W_dec)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        values, indices, W_dec = ctx.saved_tensors
        grad_values = _row_products(grad, indices, W_dec)
        return grad_values, None, _by_latent(indices, values, len(W_dec)) @ grad


def _weighted_rows(weights: torch.Tensor, indices: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return ``Σ_j weights[i, j] · matrix[indices[i, j]]`` for each row ``i``."""
    return torch.nn.functional.embedding_bag(indices, matrix, per_sample_weights=weights, mode="sum")


def _row_products(rows: torch.Tensor, indices: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return ``rows[i] · matrix[indices[i, j]]`` for each row ``i`` and ``j``."""
    n, k = indices.shape
    bags = torch.arange(n).repeat_interleave(k)
    products: torch.Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(  # noqa: SLF001
        rows.contiguous(), matrix, indices.flatten(), torch.arange(0, n * k, k), bags, 0, -1
    )
    return products.view(n, k)


def _by_latent(indices: torch.Tensor, values: torch.Tensor, n_latents: int) -> torch.Tensor:
    """Return the transposed codes, (n_latents, n) in compressed rows."""
    flat = indices.flatten()
    small = np.uint16 if n_latents <= 2**16 else np.int64  # 16 bits: numpy's radix sort
    order = torch.from_numpy(np.argsort(flat.numpy().astype(small), kind="stable"))
    starts = torch.zeros(n_latents + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(flat, minlength=n_latents), 0, out=starts[1:])
    rows = order.div(indices.shape[1], rounding_mode="floor")
    size = (n_latents, len(indices))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            starts, rows, values.flatten()[order], size=size, check_invariants=False
        )


def _scale(data: torch.Tensor, center: torch.Tensor) -> float:
    total = 0.0
    for rows in torch.split(data, 65_536):
        total += float((rows - center).square().sum(dtype=torch.float64))
    mean = total / len(data)
    if not 0 < mean < float("inf"):
        message = f"Got activations of variance {mean}; expected finite values that differ."
        raise InvalidInputError(message)
    return float((data.shape[1] / mean) ** 0.5)


def _rate(step: int, n_steps: int) -> float:
    """Return the learning rate's factor: up over 5 % of the steps, down over the last 30 %."""
    return min(1.0, (step + 1) / (0.05 * n_steps), max(0.0, (n_steps - step) / (0.3 * n_steps)))
