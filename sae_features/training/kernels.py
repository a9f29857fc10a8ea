"""Encoding and decoding whose cost follows what fires, with gradients.

Of a step's five dense products only the encoder's forward pass needs all latents.  The others touch the
latents that fire, and are sums over those: :class:`Support` says which they are, values are vectors of
one entry for each, and what happens to values in between is plain autograd.  Where many fire, as in the
first steps of an L1 penalty, dense products are faster, and are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

DENSE_SHARE = 1 / 12
"""Where more of the latents fire, dense products are faster."""


@dataclass(frozen=True, eq=False)
class Support:
    """Which latents fire in each of n rows.

    Attributes
    ----------
    flat : tensor of shape (nnz,), int64
        ``row * n_latents + latent``, ascending.
    n_rows, n_latents : int
    """

    flat: torch.Tensor
    n_rows: int
    n_latents: int

    @cached_property
    def rows(self) -> torch.Tensor:
        """The row of each, shape (nnz,), int64."""
        return torch.div(self.flat, self.n_latents, rounding_mode="floor")

    @cached_property
    def latents(self) -> torch.Tensor:
        """The latent of each, shape (nnz,), int64."""
        return self.flat - self.rows * self.n_latents

    @cached_property
    def starts(self) -> torch.Tensor:
        """Where each row begins, shape (n_rows,), int64."""
        return _starts(self.rows, self.n_rows)

    @cached_property
    def is_dense(self) -> bool:
        """Whether so many fire that dense products are faster."""
        return len(self.flat) > DENSE_SHARE * self.n_rows * self.n_latents

    @cached_property
    def by_latent(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The order that sorts them by latent, their rows in it, and where each latent begins."""
        if self.latents.device.type == "cpu":
            small = np.uint16 if self.n_latents <= 2**16 else np.int64  # 16 bits: numpy's radix sort
            order = torch.from_numpy(np.argsort(self.latents.numpy().astype(small), kind="stable"))
        else:
            order = self.latents.argsort(stable=True)
        return order, self.rows[order], _starts(self.latents, self.n_latents)

    def counts(self) -> torch.Tensor:
        """Return in how many rows each latent fires, shape (n_latents,), int64."""
        return torch.bincount(self.latents, minlength=self.n_latents)

    def take(self, chosen: torch.Tensor) -> Support:
        """Return some of them; ``chosen`` is a mask of shape (nnz,)."""
        return Support(self.flat[chosen], self.n_rows, self.n_latents)


def encode(  # noqa: PLR0917 private in effect: parameters, then what they meet
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_dec: torch.Tensor,
    b_enc: torch.Tensor | None,
    support: Support,
    pre: torch.Tensor,
) -> torch.Tensor:
    """Return the pre-activations at a support, with gradients to the weights.

    Parameters
    ----------
    x : tensor of shape (n, d)
        Gets no gradient.
    W_enc : tensor of shape (n_latents, d)
    b_dec : tensor of shape (d,)
        Taken off ``x``.
    b_enc : tensor of shape (n_latents,), optional
    support : Support
    pre : tensor of shape (n, n_latents)
        ``(x - b_dec) @ W_enc.T + b_enc``, as :func:`pre_activations` gives it.  Of lower precision than
        the weights, it only decides what fires, and values are computed anew.

    Returns
    -------
    tensor of shape (nnz,)
    """
    values: torch.Tensor = _Encode.apply(x, W_enc, b_dec, b_enc, support, pre)  # type: ignore[no-untyped-call]
    return values


@torch.no_grad()
def pre_activations(
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_dec: torch.Tensor,
    b_enc: torch.Tensor | None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Return ``(x - b_dec) @ W_enc.T + b_enc``, without gradients: the one dense product.

    Parameters
    ----------
    x, W_enc, b_dec, b_enc
        As of :func:`encode`.
    dtype : torch.dtype, optional
        A lower precision for this product.

    Returns
    -------
    tensor of shape (n, n_latents), in that precision
    """
    z = x - b_dec
    if dtype is not None and dtype != z.dtype:
        z, W_enc = z.to(dtype), W_enc.to(dtype)
        b_enc = None if b_enc is None else b_enc.to(dtype)
    return z @ W_enc.T if b_enc is None else torch.addmm(b_enc, z, W_enc.T)


def decode(values: torch.Tensor, support: Support, W_dec: torch.Tensor) -> torch.Tensor:
    """Return the sums of decoder rows weighted by values, with gradients to both.

    Parameters
    ----------
    values : tensor of shape (nnz,)
    support : Support
    W_dec : tensor of shape (n_latents, d)

    Returns
    -------
    tensor of shape (n, d)
    """
    decoded: torch.Tensor = _Decode.apply(values, support, W_dec)  # type: ignore[no-untyped-call]
    return decoded


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 torch calls it so
        ctx: Any,
        x: torch.Tensor,
        W_enc: torch.Tensor,
        b_dec: torch.Tensor,
        b_enc: torch.Tensor | None,
        support: Support,
        pre: torch.Tensor,
    ) -> torch.Tensor:
        z = x - b_dec
        ctx.save_for_backward(z, W_enc)
        ctx.support, ctx.has_bias = support, b_enc is not None
        if pre.dtype == W_enc.dtype:
            return pre.reshape(-1)[support.flat]
        values = _row_products(z, support, W_enc)
        return values if b_enc is None else values + b_enc[support.latents]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        z, W_enc = ctx.saved_tensors
        by_latent = grad.new_zeros(len(W_enc)).index_add_(0, ctx.support.latents, grad)
        grad_W = _transposed_product(grad, ctx.support, z) if ctx.needs_input_grad[1] else None
        grad_b_dec = -(by_latent @ W_enc) if ctx.needs_input_grad[2] else None
        return None, grad_W, grad_b_dec, by_latent if ctx.has_bias else None, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, support: Support, W_dec: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.support = support
        return _product(values, support, W_dec)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        values, W_dec = ctx.saved_tensors
        of_values = _row_products(grad, ctx.support, W_dec) if ctx.needs_input_grad[0] else None
        of_W = _transposed_product(values, ctx.support, grad) if ctx.needs_input_grad[2] else None
        return of_values, None, of_W


def _product(values: torch.Tensor, support: Support, matrix: torch.Tensor) -> torch.Tensor:
    """Return ``S @ matrix`` for codes S of shape (n, n_latents): shape (n, d)."""
    if support.is_dense:
        return _dense(values, support) @ matrix
    return torch.nn.functional.embedding_bag(
        support.latents, matrix, support.starts, per_sample_weights=values, mode="sum"
    )


def _transposed_product(values: torch.Tensor, support: Support, rows: torch.Tensor) -> torch.Tensor:
    """Return ``S.T @ rows`` for codes S of shape (n, n_latents): shape (n_latents, d)."""
    if support.is_dense:
        return _dense(values, support).T @ rows
    order, owners, starts = support.by_latent
    return torch.nn.functional.embedding_bag(
        owners, rows.contiguous(), starts, per_sample_weights=values[order], mode="sum"
    )


def _row_products(rows: torch.Tensor, support: Support, matrix: torch.Tensor) -> torch.Tensor:
    """Return ``rows[i] · matrix[j]`` for each row i and latent j of the support: shape (nnz,)."""
    if support.is_dense:
        return (rows @ matrix.T).view(-1)[support.flat]
    products: torch.Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(  # noqa: SLF001
        rows.contiguous(), matrix, support.latents, support.starts, support.rows, 0, -1
    )
    return products


def _dense(values: torch.Tensor, support: Support) -> torch.Tensor:
    codes = values.new_zeros(support.n_rows * support.n_latents)
    codes[support.flat] = values
    return codes.view(support.n_rows, support.n_latents)


def _starts(ascending_or_not: torch.Tensor, n: int) -> torch.Tensor:
    """Return where each of n groups begins when sorted, from the group of each entry."""
    counts = torch.bincount(ascending_or_not, minlength=n)
    return counts.cumsum(0) - counts
