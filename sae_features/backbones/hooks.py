"""Reading a model at hook points, and stopping it right after the last one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from sae_features.backbones.sites import Tap, normalize
from sae_features.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sae_features.hook_point import HookPoint


class _Stop(Exception):  # noqa: N818 not an error
    """Raised inside the model when all that was asked for has been read."""


def read_points(
    model: torch.nn.Module,
    taps: Mapping[HookPoint, Tap],
    inputs: Mapping[str, Any],
    *,
    to_the_end: bool = False,
) -> tuple[dict[HookPoint, torch.Tensor], Any]:
    """Run the model up to the last of the points and return what stands there.

    Parameters
    ----------
    model : torch.nn.Module
        Any transformers model.
    taps : mapping of HookPoint to Tap
        Where to read.  No module after the last of them runs.
    inputs : mapping of str to tensor
        What the model takes.
    to_the_end : bool, default=False
        Whether to run the whole model, because its output is wanted, too.

    Returns
    -------
    read : dict of HookPoint to tensor of shape (batch, tokens, d)
    output : Any
        The model's own, or None where it was stopped.

    Raises
    ------
    CheckpointError
        If the model does not pass one of the points.
    """
    output = None
    with _reading(taps, stop=not to_the_end) as read, torch.inference_mode(), contextlib.suppress(_Stop):
        output = model(**inputs)
    unread = [point for point in taps if point not in read]
    if unread:
        message = (
            f"{type(model).__name__} ran without using what is at {unread[0]}; expected it on the way."
        )
        raise CheckpointError(message)
    return read, output


@contextlib.contextmanager
def _reading(taps: Mapping[HookPoint, Tap], *, stop: bool) -> Iterator[dict[HookPoint, torch.Tensor]]:
    """Fill a dictionary while the model runs; stop it after the last point."""
    read: dict[HookPoint, torch.Tensor] = {}
    handles = []

    def keep(point: HookPoint, value: Any) -> None:
        read[point] = value[0] if isinstance(value, tuple) else value
        if stop and len(read) == len(taps):
            raise _Stop

    for point, (module, side) in taps.items():
        if side == "out":
            hook = module.register_forward_hook(
                lambda _module, _args, output, point=point: keep(point, output)
            )
        else:
            hook = module.register_forward_pre_hook(
                lambda module, args, kwargs, point=point, side=side: keep(
                    point, _taken(module, args, kwargs, side)
                ),
                with_kwargs=True,
            )
        handles.append(hook)
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def _taken(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], side: str) -> Any:
    """Return what a module takes, or what it normalises that to."""
    value = args[0] if args else kwargs["hidden_states"]
    return normalize(module, value) if side == "normalized" else value
