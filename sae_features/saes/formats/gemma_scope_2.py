"""Gemma Scope 2 (Gemma 3): ``params.safetensors`` of JumpReLU SAEs and transcoders, ``config.json``.

https://huggingface.co/google/gemma-scope-2
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError
from sae_features.hook_point import parse_hook_name
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import metadata_of

if TYPE_CHECKING:
    from sae_features.saes.formats.files import SAEFiles

KEYS = {"W_enc": "w_enc", "W_dec": "w_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
SKIP = "affine_skip_connection"


def _detects(files: SAEFiles) -> bool:
    return files.has(*KEYS.values())


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:  # noqa: ARG001 files say all
    if len(files.shape("w_dec")) == 3:
        message = (
            f"{files.weights}: got w_dec of shape {files.shape('w_dec')}, a cross-layer transcoder that "
            "writes to many layers; expected an SAE or a transcoder of one."
        )
        raise SAEFormatError(message)
    d_in, n_latents = files.matrix("w_enc")
    pieces = {name: Piece(key) for name, key in KEYS.items()}
    config = files.config("config.json")
    if files.has(SKIP) or (config is not None and config.flag("affine_connection", default=False)):
        pieces["W_skip"] = Piece(SKIP)
    facts: dict[str, Any] = {}
    if config is not None:
        if config.text("architecture", "jump_relu") != "jump_relu":
            got = config.get("architecture")
            raise SAEFormatError(f"{config.path}: got architecture={got!r}; expected 'jump_relu'.")
        facts = {
            "model": _model(config.text("model_name", None)),
            "hook_name": config.text("hf_hook_point_in", None),
            "hook_name_out": config.text("hf_hook_point_out", None),
        }
    if facts.get("hook_name_out") == facts.get("hook_name"):
        facts["hook_name_out"] = None
    return Plan(
        "jumprelu",
        d_in,
        n_latents,
        pieces,
        d_out=files.matrix("w_dec")[1],
        conventions={"subtract_b_dec": False},
        hook_point=parse_hook_name(facts.get("hook_name")),
        hook_point_out=parse_hook_name(facts.get("hook_name_out")),
        metadata=metadata_of(**facts),
    )


def _model(name: str | None) -> str | None:
    """Return the model's repository: the files call it ``gemma-v3-270m-pt`` and the like."""
    if name is None:
        return None
    size = re.fullmatch(r"(?:google/)?gemma-v?3-(.*)", name)
    if size is None:
        return name
    return f"google/gemma-3-{size[1].removesuffix('-pt') if size[1] == '270m-pt' else size[1]}"


FORMAT = ConvertedFormat("gemma_scope_2", _detects, _plan)
