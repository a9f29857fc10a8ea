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
    "mlp_out",
    "mlp_hidden",
    "embedding",
)
BLOCK_SITES = ("resid_pre", "resid_post")
"""Sites that every stack of blocks has: what goes into a block, and what comes out."""


class HookPoint(NamedTuple):
    """A place in a backbone.

    ``HookPoint(12, "resid_post")`` is the output of block 12, counted from 0: it equals
    ``hidden_states[13]`` of a transformers model, except when block 12 is the last one and a final
    norm follows.
    """

    layer: int
    """Number of the block, counted from 0."""
    site: str = "resid_post"
    """One of :data:`SITES`."""

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.site}"


_TRANSFORMER_LENS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_z": "attn_z",
    "mlp.hook_post": "mlp_hidden",
}
_BLOCKS = {"": "resid_post", ".output": "resid_post", ".input": "resid_pre"}
_MODULES = {
    "layers": {
        ".post_feedforward_layernorm.output": "mlp_out",  # Gemma 2 and 3, which alone have it
        ".mlp.down_proj.input": "mlp_hidden",
        ".self_attn.o_proj.input": "attn_z",
    },
    "gpt_neox.layers": {
        ".mlp": "mlp_out",
        ".attention": "attn_out",
        ".mlp.dense_4h_to_h.input": "mlp_hidden",
        ".attention.dense.input": "attn_z",
    },
    "h": {
        ".mlp": "mlp_out",
        ".attn": "attn_out",
        ".mlp.c_proj.input": "mlp_hidden",
        ".attn.c_proj.input": "attn_z",
    },
    "layer": {},
}
"""By the name of a list of blocks; a module is left out where families mean different places by it, as
``layers.3.mlp`` is before a norm in some and what is added to the residual stream in others."""


def parse_hook_name(name: object) -> HookPoint | None:
    """Return the hook point that another library's name stands for, or None.

    Parameters
    ----------
    name : str
        A name of TransformerLens (``blocks.12.hook_resid_post``), or the path of a module in a
        transformers model, with or without ``.input`` or ``.output`` (``model.layers.12``,
        ``gpt_neox.layers.3``, ``h.3.attn``).

    Returns
    -------
    HookPoint or None
        None where the name says nothing that every family understands alike.

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
    module = re.fullmatch(
        r"(?:base_model\.|model\.|transformer\.|language_model\.|encoder\.)*"
        r"((?:gpt_neox\.)?layers|h|layer)\.(\d{1,4})((?:\.\w+)*)",
        name,
        re.ASCII,
    )
    if module is None:
        return None
    site = _BLOCKS.get(module[3]) or _MODULES[module[1]].get(module[3])
    return HookPoint(int(module[2]), site) if site is not None else None
