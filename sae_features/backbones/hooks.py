"""Reading a model at hook points, stopping it right after the last one; replacing what stands there."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from sae_features.backbones.sites import Tap, normalize
from sae_features.errors import CheckpointError, InvalidParameterError
from sae_features.hook_point import EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
def replace_point(
    model: torch.nn.Module,
    point: HookPoint,
    tap: Tap,
    function: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """Let a model go on with ``function(what stands at a hook point)`` inside the ``with`` block.

    Parameters
    ----------
    model : torch.nn.Module
        Any transformers model that the tap is in, with or without a head.
    point : HookPoint
        Where; all that the model makes of it later follows.
    tap : Tap
        What :meth:`sae_features.backbones.sites.Stack.tap` gives for the point.
    function : callable
        Takes activations (batch, tokens, d), or (batch · tokens, d) in blocks that lay them so, and
        returns as many of the same type and on the same device; they are not to be changed in place.
        Where it returns what it took, the model's output is the same to the last bit.

    Raises
    ------
    InvalidParameterError
        If the point cannot be written: ``embedding`` is made of the model's output, and ``resid_mid`` is
        read in front of the MLP, but flows on beside it, too.
    CheckpointError
        If nothing ran past the point.
    """
    if point.site in {"resid_mid", EMBEDDING}:
        message = (
            f"Got the hook point ({point}), which can be read but not replaced: "
            + ("it is made of what the model gives." if point.site == EMBEDDING else
               "the residual stream flows on beside the MLP, in front of which it is read.")
            + " Choose another site, such as resid_post."
        )  # fmt: skip
        raise InvalidParameterError(message)
    runs = 0

    def replaced(value: torch.Tensor) -> torch.Tensor:
        nonlocal runs
        runs += 1
        new = function(value)
        if new.shape != value.shape:
            message = f"Got activations of shape {tuple(new.shape)}; expected {tuple(value.shape)}."
            raise InvalidParameterError(message)
        return new

    handle = _write(tap, replaced)
    try:
        yield
    finally:
        handle.remove()
    if not runs:
        message = f"{type(model).__name__} ran without using what is at {point}; expected it on the way."
        raise CheckpointError(message)


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


def _write(tap: Tap, replaced: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Register the hook that replaces what stands at a tap, and return its handle."""
    module, side = tap

    def change_output(_module: torch.nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (replaced(output[0]), *output[1:])
        return replaced(output)

    def change_input(
        _module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (replaced(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": replaced(kwargs["hidden_states"])}

    def change_normalized(
        norm: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor:
        value = _taken(norm, args, kwargs, "normalized")
        # The difference only: what is not replaced stays the same to the last bit.
        return output + ((replaced(value) - value) * _gain(norm, value)).to(output.dtype)

    if side == "in":
        return module.register_forward_pre_hook(change_input, with_kwargs=True)
    if side == "out":
        return module.register_forward_hook(change_output)
    return module.register_forward_hook(change_normalized, with_kwargs=True)


def _taken(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], side: str) -> Any:
    """Return what a module takes, or what it normalises that to."""
    value = args[0] if args else kwargs["hidden_states"]
    return normalize(module, value) if side == "normalized" else value


def _gain(norm: torch.nn.Module, normalized: torch.Tensor) -> torch.Tensor:
    """Return what a norm multiplies by, (d,) float32: its weight, or 1 + its weight, as in Gemma."""
    if isinstance(norm, torch.nn.LayerNorm):
        return norm.weight.float() if norm.elementwise_affine else normalized.new_ones(())
    ones = normalized.new_ones(1, normalized.shape[-1])
    gained: torch.Tensor = norm.forward(ones)  # not called: hooks sit on it
    return gained[0].float() / normalize(norm, ones)[0]
