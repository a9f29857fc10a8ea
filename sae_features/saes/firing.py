"""Which latents fire, as positions in a flattened chunk of pre-activations, ascending.

The chunk fits the processor's cache; positions of what fires are few, so that nothing else of its
size is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

GROUPS_PER_K = 3
"""Groups of latents whose maxima bound the k-th largest: more make the bound closer and dearer."""


def above(pre: torch.Tensor, bound: torch.Tensor | None) -> torch.Tensor:
    """Return where pre-activations exceed their bounds.

    Parameters
    ----------
    pre : tensor of shape (n, n_latents), contiguous
    bound : tensor of shape (n_latents,), optional
        Of the same type; 0 if not given.

    Returns
    -------
    tensor of shape (nnz,), int64
    """
    if pre.device.type != "cpu":
        return (pre > (0 if bound is None else bound)).view(-1).nonzero()[:, 0]
    if pre.dtype == torch.bfloat16 and bound is not None and bool((bound < 0).any()):
        pre, bound = pre.float(), bound.float()
    least = 0 if bound is None else _comparable(bound)
    return torch.from_numpy(np.flatnonzero(_comparable(pre) > least))


def largest(pre: torch.Tensor, k: int, *, positive: bool) -> torch.Tensor:
    """Return where the k largest of each row are (arXiv 2406.04093, eq. 3).

    Of equal ones those with the lowest numbers are taken; on a GPU, any.

    Parameters
    ----------
    pre : tensor of shape (n, n_latents), contiguous
    k : int
    positive : bool
        Whether only those above 0 are wanted.

    Returns
    -------
    tensor of shape (nnz,), int64
        At most k of a row; exactly k if ``positive`` is False.
    """
    pre = pre.detach()
    n, width = pre.shape
    if pre.device.type != "cpu" or (pre.dtype == torch.bfloat16 and not positive):
        return _by_sorting(pre, k, positive=positive)
    values = _comparable(pre)
    bound = _bound(pre, values, k)
    if positive:
        least = np.nextafter(np.zeros((), values.dtype), 1) if values.dtype.kind == "f" else 1
        bound = np.maximum(bound, least)
    candidates = np.flatnonzero(values >= bound[:, None])
    ends = np.searchsorted(candidates, np.arange(1, n + 1) * width)
    counts = np.diff(ends, prepend=0)
    crowded = counts > k
    if not crowded.any():
        return torch.from_numpy(candidates)
    return torch.from_numpy(candidates[_kept(values.reshape(-1)[candidates], counts, k)])


def largest_of_groups(pre: torch.Tensor, k: int) -> torch.Tensor:
    """Return where the largest of each of k groups of neighbours is, if it is above 0.

    Parameters
    ----------
    pre : tensor of shape (n, n_latents)
    k : int
        A divisor of ``n_latents``.

    Returns
    -------
    tensor of shape (nnz,), int64
    """
    groups = pre.reshape(-1, pre.shape[1] // k)
    values, within = groups.max(dim=-1)
    flat = within + torch.arange(len(groups), device=pre.device) * groups.shape[1]
    return flat[values > 0]


def _comparable(pre: torch.Tensor) -> Any:
    """Return an array that compares with positive numbers, and with 0, as the tensor does.

    numpy has no bfloat16; but the bits of floats that are not negative ascend as integers do, and
    those of negative ones are negative.
    """
    if pre.dtype == torch.bfloat16:
        return pre.detach().view(torch.int16).numpy()
    return pre.detach().numpy()


def _bound(pre: torch.Tensor, values: np.ndarray, k: int) -> np.ndarray:
    """Return, for each row, a number that at least k values reach: the k-th largest group maximum."""
    n, width = values.shape
    groups = GROUPS_PER_K * k
    size = width // groups
    if size < 2:
        return np.partition(values, width - k, axis=1)[:, width - k]
    whole = values[:, : groups * size]
    if values.dtype == np.float32:
        maxima = pre[:, : groups * size].unflatten(1, (size, groups)).amax(dim=1).numpy()
    else:
        maxima = whole.reshape(n, size, groups).max(axis=1)
    return np.partition(maxima, groups - k, axis=1)[:, groups - k]


def _kept(values: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Return which candidates are among the k largest of their rows, of ``counts`` candidates each."""
    widest = int(counts.max())
    least = np.iinfo(values.dtype).min if values.dtype.kind == "i" else -np.inf
    rows = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    padded = np.full((len(counts), widest), least, values.dtype)
    padded[rows, np.arange(len(values)) - starts[rows]] = values
    kth = np.partition(padded, widest - k, axis=1)[:, widest - k]
    kept = values >= kth[rows]
    surplus = np.bincount(rows[kept], minlength=len(counts)) - k
    for row in np.flatnonzero(surplus > 0):  # equal values: the last ones go
        mine = slice(starts[row], starts[row] + counts[row])
        equal = np.flatnonzero(values[mine] == kth[row])
        kept[starts[row] + equal[-surplus[row] :]] = False
    return kept


def _by_sorting(pre: torch.Tensor, k: int, *, positive: bool) -> torch.Tensor:
    """Return the same by torch's own selection, on any device and of any type."""
    indices = pre.topk(k, dim=-1, sorted=False).indices
    starts = torch.arange(len(pre), device=pre.device)[:, None] * pre.shape[1]
    flat = (indices + starts).sort(dim=-1).values.view(-1)
    return flat[pre.view(-1)[flat] > 0] if positive else flat
