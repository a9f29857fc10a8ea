"""Hook points: where in a backbone activations are read."""

from __future__ import annotations

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
