"""Where activations lie and how far they spread: what inputs are shifted and scaled by in training."""

from __future__ import annotations

import torch

from sae_features.errors import InvalidInputError, InvalidParameterError

SAMPLE_ROWS = 32_768
MEDIAN_STEPS = 100
MEDIAN_TOLERANCE = 1e-6


def center_and_scale(sample: torch.Tensor, kind: str) -> tuple[torch.Tensor, float]:
    """Return centre, (d,), and scale of a sample of rows, (n, d), as far as they are finite.

    Those that are not are told by the batch that they come in.

    Raises
    ------
    InvalidInputError
        If they do not vary, or none is finite.
    """
    finite = sample[torch.isfinite(sample).all(dim=1)]
    if not len(finite):
        message = f"Got {len(sample)} rows of activations, none of them finite; expected finite numbers."
        raise InvalidInputError(message)
    center = center_of(finite, kind)
    return center, scale_of(finite, center)


def center_of(rows: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the centre of rows, (n, d), as float32: their mean, their geometric median, or 0."""
    wide = rows.double()
    if kind == "none":
        return torch.zeros(rows.shape[1])
    center = wide.mean(dim=0)
    return (center if kind == "mean" else geometric_median(wide, center)).float()


def geometric_median(rows: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Return the point with the smallest sum of distances to rows (Weiszfeld's algorithm).

    Parameters
    ----------
    rows : tensor of shape (n, d), float64
    start : tensor of shape (d,), float64

    Returns
    -------
    tensor of shape (d,), float64
    """
    median = start
    for _ in range(MEDIAN_STEPS):
        distances = torch.linalg.vector_norm(rows - median, dim=1)
        weights = 1 / distances.clamp_min(torch.finfo(rows.dtype).tiny ** 0.5)
        moved = (rows * weights[:, None]).sum(dim=0) / weights.sum()
        step = torch.linalg.vector_norm(moved - median)
        median = moved
        if step <= MEDIAN_TOLERANCE * distances.mean():
            break
    return median


def scale_of(rows: torch.Tensor, center: torch.Tensor) -> float:
    """Return what makes the mean squared norm of centred rows 1.

    Raises
    ------
    InvalidInputError
        If they do not vary, or are not finite.
    """
    mean = float((rows.double() - center.double()).square().sum(dim=1).mean())
    if not 0 < mean < float("inf"):
        message = f"Got activations of variance {mean}; expected finite values that differ."
        raise InvalidInputError(message)
    return mean**-0.5


def check_width(n_latents: int, d_in: int, k: int) -> str | None:
    """Return a warning where an SAE is narrower than its inputs; raise where k cannot be."""
    if k > n_latents:
        raise InvalidParameterError(f"Got k={k}; expected 1 to {n_latents} (n_latents).")
    if n_latents < d_in:
        return (
            f"Got n_latents={n_latents} for activations of size {d_in}: fewer latents than dimensions "
            "are no overcomplete dictionary. Usual are 4 to 32 times as many as dimensions."
        )
    return None
