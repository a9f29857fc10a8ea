"""Reading a model at hook points, and stopping it right after the last one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from sae_features.errors import CheckpointError, InvalidParameterError
from sae_features.hook_point import BLOCK_SITES, HookPoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class _Stop(Exception):  # noqa: N818 not an error
    """Raised inside the model when all that was asked for has been read."""


def find_blocks(model: torch.nn.Module, n_layers: int) -> torch.nn.ModuleList:
    """Return the model's list of blocks: the outermost ``ModuleList`` of that length.

    Parameters
    ----------
    model : torch.nn.Module
        Any transformers model.
    n_layers : int
        Number of blocks that its configuration says.

    Raises
    ------
    CheckpointError
        If there is none, or more than one at the same depth.
    """
    found = [
        (name.count("."), module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_layers
    ]
    depth = min((depth for depth, _ in found), default=0)
    outermost = [module for d, module in found if d == depth]
    if len(outermost) != 1:
        message = (
            f"Found {len(outermost)} lists of {n_layers} blocks in {type(model).__name__}; expected "
            "one. This architecture needs a family of its own."
        )
        raise CheckpointError(message)
    return outermost[0]


def check_point(point: HookPoint, n_layers: int) -> HookPoint:
    """Return the hook point with a layer counted from 0; -1 is the last block.

    Raises
    ------
    InvalidParameterError
        If there is no such layer, or its site cannot be read.
    """
    if point.site not in BLOCK_SITES:
        message = f"Got site={point.site!r}; this family reads {', '.join(BLOCK_SITES)}."
        raise InvalidParameterError(message)
    if not -n_layers <= point.layer < n_layers:
        message = (
            f"Got layer={point.layer}; expected 0 to {n_layers - 1} (or -{n_layers} to -1): the model "
            f"has {n_layers} blocks."
        )
        raise InvalidParameterError(message)
    return HookPoint(point.layer % n_layers, point.site)


@contextlib.contextmanager
def _reading(
    blocks: torch.nn.ModuleList, points: Sequence[HookPoint]
) -> Iterator[dict[HookPoint, torch.Tensor]]:
    """Fill a dictionary while the model runs; stop it after the last point."""
    read: dict[HookPoint, torch.Tensor] = {}
    wanted = set(points)
    handles = []

    def keep(point: HookPoint, value: Any) -> None:
        read[point] = value[0] if isinstance(value, tuple) else value
        if len(read) == len(wanted):
            raise _Stop

    for point in wanted:
        block = blocks[point.layer]
        if point.site == "resid_post":
            hook = block.register_forward_hook(
                lambda _module, _args, output, point=point: keep(point, output)
            )
        else:
            hook = block.register_forward_pre_hook(
                lambda _module, args, kwargs, point=point: keep(
                    point, args[0] if args else kwargs["hidden_states"]
                ),
                with_kwargs=True,
            )
        handles.append(hook)
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def read_points(
    model: torch.nn.Module,
    blocks: torch.nn.ModuleList,
    points: Sequence[HookPoint],
    inputs: dict[str, torch.Tensor],
) -> dict[HookPoint, torch.Tensor]:
    """Run the model up to the last of the points and return what stands there.

    Parameters
    ----------
    model : torch.nn.Module
        Any transformers model.
    blocks : torch.nn.ModuleList
        Its blocks, see :func:`find_blocks`.
    points : sequence of HookPoint
        With layers counted from 0.  No module after the last of them runs.
    inputs : dict of tensors
        What the model takes.

    Returns
    -------
    dict of HookPoint to tensor of shape (batch, tokens, d)
    """
    with _reading(blocks, points) as read, contextlib.suppress(_Stop), torch.inference_mode():
        model(**inputs)
    return read
