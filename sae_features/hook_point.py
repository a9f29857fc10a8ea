"""Hook points: where in a backbone activations are read."""

from __future__ import annotations

import re
from typing import NamedTuple

SITES = (
    "resid_pre",
    "resid_post",
    "resid_mid",
    "attn_out",
    "attn_z",
    "mlp_in",
    "mlp_normalized",
    "mlp_hidden",
    "mlp_out",
    "embedding",
)
"""Where a block is read:

* ``resid_pre``, ``resid_mid``, ``resid_post``: the residual stream before the block, between attention
  and MLP, and after the block;
* ``attn_out``, ``mlp_out``: exactly what attention and MLP add to the residual stream;
* ``attn_z``: what the heads give, side by side, before they are projected back;
* ``mlp_in``, ``mlp_hidden``: what the MLP takes, and its activations before they are projected back;
* ``mlp_normalized``: the normalised residual stream before the gain of the norm ahead of the MLP;
* ``embedding``: not of a block but of the whole model: one pooled vector per item.
"""
BLOCK_SITES = ("resid_pre", "resid_post")
"""Sites that every stack of blocks has: what goes into a block, and what comes out."""
EMBEDDING = "embedding"


class HookPoint(NamedTuple):
    """A place in a backbone.

    ``HookPoint(12, "resid_post")`` is the output of block 12, counted from 0: it equals
    ``hidden_states[13]`` of a transformers model, except when block 12 is the last one and a final
    norm follows.
    """

    layer: int
    """Number of the block, counted from 0; the last one for ``embedding``."""
    site: str = "resid_post"
    """One of :data:`SITES`."""

    def __str__(self) -> str:
        return self.site if self.site == EMBEDDING else f"layer {self.layer}, {self.site}"


_TRANSFORMER_LENS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_z": "attn_z",
    "mlp.hook_in": "mlp_in",
    "mlp.hook_post": "mlp_hidden",
    "ln2.hook_normalized": "mlp_normalized",
}
_MODULES = {
    "layers": {
        "pre_feedforward_layernorm.output": "mlp_in",  # Gemma 2 and 3, which alone have it
        "post_feedforward_layernorm.output": "mlp_out",
        "mlp.down_proj.input": "mlp_hidden",
        "self_attn.o_proj.input": "attn_z",
    },
    "gpt_neox.layers": {
        "mlp.output": "mlp_out",
        "attention.output": "attn_out",
        "mlp.dense_4h_to_h.input": "mlp_hidden",
        "attention.dense.input": "attn_z",
    },
    "h": {
        "mlp.output": "mlp_out",
        "attn.output": "attn_out",
        "mlp.c_proj.input": "mlp_hidden",
        "attn.c_proj.input": "attn_z",
    },
    "layer": {},
    "block": {},
}
"""By the name of a list of blocks; a module is left out where families mean different places by it, as
``layers.3.mlp`` is before a norm in some and what is added to the residual stream in others."""


class ModulePlace(NamedTuple):
    """The input or output of a module in a block, as other libraries name hook points."""

    layer: int
    """Number of the block, counted from 0."""
    path: str
    """Module inside the block, ``""`` for the block itself."""
    side: str
    """``"in"`` or ``"out"``."""
    blocks: str
    """Name of the list of blocks."""


def parse_module_name(name: str) -> ModulePlace | None:
    """Return the place that the path of a module stands for, or None.

    Parameters
    ----------
    name : str
        The path in a transformers model, with or without ``.input`` or ``.output`` (the default):
        ``model.layers.12``, ``gpt_neox.layers.3``, ``h.3.attn``, ``layers.12.mlp.input``.

    Examples
    --------
    >>> parse_module_name("model.layers.3.self_attn.o_proj.input")
    ModulePlace(layer=3, path='self_attn.o_proj', side='in', blocks='layers')
    """
    match = re.fullmatch(
        r"(?:base_model\.|model\.|transformer\.|language_model\.|vision_tower\.|vision_model\.|encoder\.|"
        r"bert\.|roberta\.|mpnet\.|vit\.|dinov2\.|dinov2_with_registers\.)*"
        r"((?:gpt_neox\.)?layers|h|layer|block)\.(\d{1,4})((?:\.\w+)*?)(\.input|\.output)?",
        name,
        re.ASCII,
    )
    if match is None:
        return None
    path, side = match[3].removeprefix("."), "in" if match[4] == ".input" else "out"
    return ModulePlace(int(match[2]), path, side, match[1])


def parse_hook_name(name: object) -> HookPoint | None:
    """Return the hook point that another library's name stands for in every model, or None.

    Parameters
    ----------
    name : str
        A name of TransformerLens (``blocks.12.hook_resid_post``), or the path of a module in a
        transformers model, with or without ``.input`` or ``.output`` (``model.layers.12``,
        ``gpt_neox.layers.3``, ``h.3.attn``).

    Returns
    -------
    HookPoint or None
        None where the name says nothing that every family understands alike; a loaded model may
        understand it (:meth:`sae_features.backbones.backbone.Backbone.parse`).

    Examples
    --------
    >>> parse_hook_name("blocks.12.hook_resid_post")
    HookPoint(layer=12, site='resid_post')
    >>> parse_hook_name("model.layers.3.self_attn.o_proj.input")
    HookPoint(layer=3, site='attn_z')
    """
    if not isinstance(name, str):
        return None
    lens = re.fullmatch(r"blocks\.(\d{1,4})\.(\w+(?:\.\w+)?)", name, re.ASCII)
    if lens and lens[2] in _TRANSFORMER_LENS:
        return HookPoint(int(lens[1]), _TRANSFORMER_LENS[lens[2]])
    place = parse_module_name(name)
    if place is None:
        return None
    if not place.path:
        return HookPoint(place.layer, "resid_post" if place.side == "out" else "resid_pre")
    words = {"in": "input", "out": "output"}
    site = _MODULES[place.blocks].get(f"{place.path}.{words[place.side]}")
    return HookPoint(place.layer, site) if site is not None else None
