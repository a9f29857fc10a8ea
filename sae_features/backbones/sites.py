"""Where the sites of a block are, found by structure: module names that say what a module does."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from sae_features.errors import CheckpointError, InvalidParameterError
from sae_features.hook_point import (
    SITES,
    HookPoint,
    ModulePlace,
    parse_hook_name,
    parse_module_name,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLACES: Final[dict[str, tuple[str, ...]]] = {
    "resid_pre": (":in",),
    "resid_post": (":out",),
    "resid_mid": (
        "post_attention_layernorm:in", "ln_2:in", "layer_norm2:in", "norm2:in", "layernorm_after:in",
        "mlp_norm:in", "layer.1:in", "intermediate:in",
    ),
    "attn_out": (
        "layer_scale1:out", "attention.output.dense:out", "attention.attn.o:out",
        "layer.0.SelfAttention:out", "self_attn:out", "attn:out", "attention:out",
    ),
    "attn_z": (
        "self_attn.o_proj:in", "self_attn.out_proj:in", "attn.c_proj:in", "attn.Wo:in",
        "attention.dense:in", "attention.o_proj:in", "attention.output.dense:in",
        "attention.attn.o:in", "layer.0.SelfAttention.o:in",
    ),
    "mlp_in": ("mlp:in", "intermediate:in", "layer.1.DenseReluDense:in"),
    "mlp_normalized": (
        "post_attention_layernorm:normalized", "ln_2:normalized", "layer_norm2:normalized",
        "norm2:normalized", "layernorm_after:normalized", "mlp_norm:normalized",
        "layer.1.layer_norm:normalized",
    ),
    "mlp_hidden": (
        "mlp.down_proj:in", "mlp.c_proj:in", "mlp.fc2:in", "mlp.weights_out:in", "mlp.Wo:in",
        "mlp.dense_4h_to_h:in", "layer.1.DenseReluDense.wo:in", "output.dense:in",
    ),
    "mlp_out": ("layer_scale2:out", "layer.1.DenseReluDense:out", "mlp:out", "output.dense:out"),
}  # fmt: skip
"""By site: places in a block, ``module.path:side``; the first whose module is there counts.

The names are those of transformers 4.57 and 5 for GPT-2, GPT-NeoX, Llama and its kin, BERT, MPNet,
ModernBERT, T5, ViT, DINOv2 and 3, CLIP and SigLIP.  What another architecture means by the same name is
an exception that its family declares, and that the conformance kit finds by numbers.
"""


class Tap(NamedTuple):
    """A module whose input or output is read."""

    module: torch.nn.Module
    """The module."""
    side: str
    """``"in"``, ``"out"`` or ``"normalized"``."""


@dataclass(frozen=True)
class Stack:
    """The blocks of a model and where their sites are.

    Attributes
    ----------
    blocks : torch.nn.ModuleList
        In order.
    exceptions : mapping of str to tuple of str
        Places that a family declares in place of :data:`PLACES`.
    """

    blocks: torch.nn.ModuleList
    exceptions: Mapping[str, tuple[str, ...]]

    def sites(self, layer: int = 0) -> tuple[str, ...]:
        """Return the sites that a block has."""
        return tuple(site for site in SITES if self._find(layer, site) is not None)

    def tap(self, point: HookPoint) -> Tap:
        """Return what to read for a hook point.

        Raises
        ------
        InvalidParameterError
            If the block lacks the site; the message says which it has.
        """
        found = self._find(point.layer, point.site)
        if found is None:
            sites = self.sites(point.layer)
            near = [] if point.site in SITES else difflib.get_close_matches(point.site, sites, n=1)
            message = (
                f"Got site={point.site!r}, which block {point.layer} of this model does not have; it "
                f"has {', '.join(sites)}." + (f" Did you mean {near[0]!r}?" if near else "")
            )
            raise InvalidParameterError(message)
        path, side = found
        block = self.blocks[point.layer]
        return Tap(block.get_submodule(path), side)

    def width(self, point: HookPoint, d_model: int) -> int:
        """Return the size of the activations at a hook point."""
        module, side = self.tap(point)
        if side == "in" and point.site in {"attn_z", "mlp_hidden"}:
            return _input_size(module)
        return d_model

    def parse(self, place: ModulePlace) -> HookPoint | None:
        """Return the hook point that is read at the input or output of a module, or None."""
        if place.layer >= len(self.blocks):
            return None
        for site in self.sites(place.layer):
            if self._find(place.layer, site) == (place.path, place.side):
                return HookPoint(place.layer, site)
        return None

    def _find(self, layer: int, site: str) -> tuple[str, str] | None:
        block = self.blocks[layer]
        for place in self.exceptions.get(site, PLACES.get(site, ())):
            path, _, side = place.partition(":")
            if _has_module(block, path):
                return path, side
        return None


def find_stack(
    model: torch.nn.Module, n_layers: int, tower: str, exceptions: Mapping[str, tuple[str, ...]]
) -> Stack:
    """Return the blocks of a model.

    Parameters
    ----------
    model : torch.nn.Module
        Any transformers model; on the meta device, too.
    n_layers : int
        Number of blocks that its configuration says.
    tower : str
        Module that they are in, ``""`` for the model itself.
    exceptions : mapping of str to tuple of str
        As in :class:`Stack`.

    Raises
    ------
    CheckpointError
        If there is no such tower, or not one list of that many blocks in it.
    """
    if not _has_module(model, tower):
        raise CheckpointError(
            f"{type(model).__name__} has no module {tower!r}; expected its blocks there."
        )
    return Stack(find_blocks(model.get_submodule(tower), n_layers), exceptions)


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


def count_layer(layer: Any, n_layers: int) -> int:
    """Return a layer counted from 0; -1 is the last block.

    Raises
    ------
    InvalidParameterError
        If there is no such layer.
    """
    if isinstance(layer, bool) or not hasattr(layer, "__index__"):
        raise InvalidParameterError(f"Got layer={layer!r}; expected an integer.")
    if not -n_layers <= layer < n_layers:
        message = (
            f"Got layer={layer}; expected 0 to {n_layers - 1} (or -{n_layers} to -1): the model "
            f"has {n_layers} blocks."
        )
        raise InvalidParameterError(message)
    return int(layer) % n_layers


def parse_point(name: str, stack: Stack, sites: Sequence[str]) -> HookPoint:
    """Return the hook point that another library's name stands for in this model.

    Parameters
    ----------
    name : str
        As in :func:`sae_features.hook_point.parse_hook_name`.
    stack : Stack
        The model's blocks.
    sites : sequence of str
        What an error says that there is.

    Raises
    ------
    InvalidParameterError
        If no site is read there.
    """
    point = parse_hook_name(name)
    if point is not None:
        return point
    place = parse_module_name(name)
    found = stack.parse(place) if place is not None else None
    if found is None:
        message = (
            f"Got the hook point {name!r}, which no site of this model stands for; expected a name such "
            "as 'blocks.3.hook_resid_post' or 'model.layers.3.output', or a pair (layer, site) with "
            f"one of {', '.join(sites)}."
        )
        raise InvalidParameterError(message)
    return found


def normalize(norm: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what a LayerNorm or RMSNorm makes of its input before gain and bias, in float32."""
    x = x.float()
    if isinstance(norm, torch.nn.LayerNorm):
        return torch.nn.functional.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    eps = getattr(norm, "eps", None)
    eps = getattr(norm, "variance_epsilon", None) if eps is None else eps
    if eps is None:
        message = f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm; expected one of them."
        raise CheckpointError(message)
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)


def _has_module(module: torch.nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _input_size(module: torch.nn.Module) -> int:
    """Return how wide the input of a projection is."""
    size: Any = getattr(module, "in_features", None) or getattr(module, "nx", None)  # GPT-2's Conv1D
    if not isinstance(size, int):
        raise CheckpointError(f"{type(module).__name__} does not say how wide its input is.")
    return size


def unique_points(points: Sequence[HookPoint]) -> list[HookPoint]:
    """Return each point once, in order."""
    return list(dict.fromkeys(points))
