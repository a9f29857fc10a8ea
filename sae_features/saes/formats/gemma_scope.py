"""Gemma Scope (Gemma 2): ``params.npz`` of JumpReLU SAEs and transcoders.

https://huggingface.co/google/gemma-scope, arXiv 2408.05147
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import settle_norm_scale

if TYPE_CHECKING:
    from sae_features.saes.formats.files import SAEFiles

KEYS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
EMBEDDING = "embedding"
"""Folder of the SAEs that were trained on embeddings before Gemma scales them."""


def _detects(files: SAEFiles) -> bool:
    return files.weights.suffix == ".npz" and files.has(*KEYS)


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:
    d_in, n_latents = files.matrix("W_enc")
    conventions: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()
    settled = frozenset[str]()
    if files.weights.parent.parts[-3:-2] == (EMBEDDING,):  # embedding/width_4k/average_l0_6/params.npz
        reason = (
            "reads embeddings before Gemma multiplies them by √d, which none of its blocks sees "
            "(norm_scale=1/√d makes it read what goes into block 0)"
        )
        conventions, warnings, settled = settle_norm_scale(files.folder, overrides, reason)
    return Plan(
        "jumprelu",
        d_in,
        n_latents,
        {name: Piece(name) for name in KEYS},
        conventions={"subtract_b_dec": False, **conventions},
        warnings=warnings,
        settled=settled,
        site_is_open=True,
    )


FORMAT = ConvertedFormat("gemma_scope", _detects, _plan)
