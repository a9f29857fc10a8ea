"""Windows in batches, and what the model gives of them as rows of counted tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sae_features.backbones.windows import Batch, position_of
from sae_features.errors import CheckpointError, InvalidInputError
from sae_features.hook_point import EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sae_features.backbones.windows import Windows
    from sae_features.hook_point import HookPoint

TOKEN_BUDGET = 4096
"""Padded tokens in a batch, where no batch size is given."""
GPU_TOKEN_BUDGET = 32768
"""The same on a GPU, which is idle with less; halved where the memory does not suffice."""


def will_run(windows: Windows, points: Sequence[HookPoint]) -> np.ndarray:
    """Return which windows are run: those with a counted token; all, if one vector each is wanted."""
    embeds = any(point.site == EMBEDDING for point in points)
    mask: np.ndarray = (windows.counts > 0) | embeds
    return mask


def batches_of(
    windows: Windows,
    runs: np.ndarray,
    shape_of: Callable[[Windows, int], tuple[int, ...]],
    batch_size: int | None,
    device: str = "cpu",
) -> Iterator[np.ndarray]:
    """Yield the windows that are run in batches of one shape, the longest first.

    Parameters
    ----------
    windows : Windows
        All of them.
    runs : ndarray of bool
        Which are run.
    shape_of : callable
        What must be equal for windows to run together.
    batch_size : int, optional
        Windows in a batch; by their length if not given.
    device : str, default="cpu"
        Kind of device that they run on.
    """
    budget = GPU_TOKEN_BUDGET if device == "cuda" else TOKEN_BUDGET
    lengths = windows.lengths
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for window in np.flatnonzero(runs):
        by_shape.setdefault(shape_of(windows, int(window)), []).append(int(window))
    for shape in sorted(by_shape, reverse=True):
        alike = np.array(by_shape[shape])
        order = alike[np.argsort(-lengths[alike], kind="stable")]
        start = 0
        while start < len(order):
            longest = max(1, int(lengths[order[start]]))
            rows = batch_size or max(1, budget // longest)
            yield order[start : start + rows]
            start += rows


def counted_mask(windows: Windows, chosen: np.ndarray) -> torch.Tensor:
    """Return which tokens of some windows count, (windows, tokens), False in the padding."""
    longest = max(len(windows.counted[window]) for window in chosen)
    mask = np.zeros((len(chosen), longest), bool)
    for row, window in enumerate(chosen):
        mask[row, : len(windows.counted[window])] = windows.counted[window]
    return torch.from_numpy(mask)


def counted_rows(hidden: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return the rows of counted tokens, (sum of counts, d), float32."""
    return by_item(hidden, *counted.shape)[counted.to(hidden.device)].float()


def by_item(hidden: torch.Tensor, n_items: int, n_tokens: int) -> torch.Tensor:
    """Return activations as (items, tokens, d); some blocks lay the tokens of all items end to end.

    Raises
    ------
    CheckpointError
        If there are more or fewer.
    """
    if hidden.shape[:2] == (n_items, n_tokens):
        return hidden
    if hidden.ndim == 2 and hidden.shape[0] == n_items * n_tokens:
        return hidden.reshape(n_items, n_tokens, -1)
    message = (
        f"The model gives activations of shape {tuple(hidden.shape)} for {n_items} items of {n_tokens} "
        "tokens: it has other tokens than its family declares (for images: class_token, registers and "
        "n_extra of Patches)."
    )
    raise CheckpointError(message)


def check_finite(
    batch: Batch, windows: Windows, positions: Sequence[int] | None, dtype: torch.dtype
) -> None:
    """Raise InvalidInputError where activations are not finite; the message names the item."""
    for point, values in batch.values.items():
        if bool(torch.isfinite(values).all()):
            continue
        is_broken = ~torch.isfinite(values).all(dim=1).cpu().numpy()
        of_rows = np.repeat(batch.windows, batch.lengths[point])
        item = min(windows.items[w] for w in of_rows[is_broken])
        next_step = (
            "They are too large for it: use dtype='float32' or 'bfloat16'."
            if dtype == torch.float16
            else "The model's weights may be damaged."
        )
        message = (
            f"Got activations that are not finite for item {position_of(item, positions)} "
            f"at {point}, computed in {str(dtype).removeprefix('torch.')}. {next_step}"
        )
        raise InvalidInputError(message)
