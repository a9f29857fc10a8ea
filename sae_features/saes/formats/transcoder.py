"""Per-layer transcoders of circuit-tracer: ``layer_N.safetensors``, both matrices (n_latents, d).

https://huggingface.co/mwhanna/qwen3-4b-transcoders, https://github.com/decoderesearch/circuit-tracer;
those of https://huggingface.co/facebook/crv-8b-instruct-transcoders keep the ``k`` largest, no ReLU.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sae_features.hook_point import HookPoint, parse_hook_name
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import metadata_of

if TYPE_CHECKING:
    from sae_features.saes.conventions import Architecture
    from sae_features.saes.formats.files import SAEFiles

KEYS = {"W_enc", "W_dec", "b_enc", "b_dec"}
FILE = re.compile(r"layer_(\d{1,4})\.safetensors", re.ASCII)


def _detects(files: SAEFiles) -> bool:
    names = files.names
    return FILE.fullmatch(files.weights.name) is not None and names - {"W_skip", "threshold"} == KEYS


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:  # noqa: ARG001 files say all
    n_latents, d_in = files.matrix("W_enc")
    pieces = {name: Piece(name, transposed=name == "W_enc") for name in sorted(KEYS)}
    if files.has("W_skip"):
        pieces["W_skip"] = Piece("W_skip", transposed=True)
    has_threshold = files.has("threshold")
    if has_threshold:
        pieces["threshold"] = Piece("threshold")
    config = files.config("config.yaml")
    model = config.get("model_name") if config is not None else None
    file = FILE.fullmatch(files.weights.name)
    layer = int(file[1]) if file is not None else None
    architecture: Architecture = "jumprelu" if has_threshold else "relu"
    conventions: dict[str, Any] = {"subtract_b_dec": False}
    if config is not None and not has_threshold and config.text("activation", "relu").lower() == "topk":
        architecture = "topk"
        conventions |= {"k": config.integer("k"), "topk_relu": False}
    hook = config.get("feature_input_hook") if config is not None else None
    if isinstance(hook, str) and layer is not None:
        hook = f"blocks.{layer}.{hook}"  # the configuration is that of all blocks
    return Plan(
        architecture,
        d_in,
        n_latents,
        pieces,
        d_out=files.matrix("W_dec")[1],
        conventions=conventions,
        hook_point=parse_hook_name(hook),
        hook_point_out=HookPoint(layer, "mlp_out") if layer is not None else None,
        metadata=metadata_of(model=model, hook_name=hook if isinstance(hook, str) else None),
    )


FORMAT = ConvertedFormat("transcoder", _detects, _plan)
