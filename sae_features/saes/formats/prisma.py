"""Prisma (ViT-Prisma): ``weights.pt`` and ``config.json`` of SAEs and transcoders on vision models.

https://github.com/Prisma-Multimodal/ViT-Prisma
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError, expected_one_of
from sae_features.hook_point import parse_hook_name
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import metadata_of
from sae_features.saes.json_files import MAX_SIZE

if TYPE_CHECKING:
    import torch

    from sae_features.saes.formats.files import SAEFiles
    from sae_features.saes.json_files import Config

CONFIG = "config.json"
NORMS = {"layer_norm": "layer_norm", "constant_norm_rescale": "rms_norm", "none": "none"}
MARKS = ("hook_point_layer", "activation_fn_str", "layer_subtype", "normalize_activations")


def _detects(files: SAEFiles) -> bool:
    config = files.config(CONFIG)
    has_config = config is not None and "d_in" in config and any(mark in config for mark in MARKS)
    return has_config and files.weights.suffix == ".pt" and files.has("W_enc", "W_dec", "b_dec")


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:
    config = files.needed_config(CONFIG)
    d_in = config.integer("d_in")
    n_latents = config.integer("d_sae", _width(files, config, d_in))
    is_transcoder = config.flag("is_transcoder", default=False)
    architecture, conventions, settled = _activation(config, overrides)
    norm = config.choice("normalize_activations", NORMS, "layer_norm")
    conventions |= {"subtract_b_dec": not is_transcoder}
    if norm != "none":
        conventions["input_norm"] = NORMS[norm]
    vectors = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    pieces = {name: Piece(name) for name in ("W_enc", *vectors, "W_dec", "b_dec")}
    extras = {}
    if is_transcoder:
        pieces["b_dec"] = Piece("b_dec_out")
        extras["b_in"] = ("b_dec", (d_in,))
        if config.flag("transcoder_with_skip_connection", default=files.has("W_skip")):
            pieces["W_skip"] = Piece("W_skip", transposed=True)
    name, name_out = _hook_names(config)
    return Plan(
        architecture,
        d_in,
        n_latents,
        pieces,
        d_out=config.integer("d_out", d_in) if is_transcoder else d_in,
        extras=extras,
        conventions=conventions,
        fold=_fold_bias if is_transcoder else None,
        hook_point=parse_hook_name(name),
        hook_point_out=parse_hook_name(name_out) if is_transcoder else None,
        metadata=metadata_of(
            model=config.get("model_name"),
            hook_name=name,
            hook_name_out=name_out if is_transcoder else None,
            cls_token_only=config.get("cls_token_only"),
            use_patches_only=config.get("use_patches_only"),
        ),
        settled=settled,
        unused=frozenset({"b_enc"} if architecture == "gated" else ()),
    )


def _width(files: SAEFiles, config: Config, d_in: int) -> int:
    """Return the number of latents where the configuration has it only as a multiple of ``d_in``."""
    if "expansion_factor" in config:
        return int(d_in * min(config.number("expansion_factor", above=0), MAX_SIZE))
    return files.matrix("W_enc")[1]


def _activation(config: Config, overrides: Overrides) -> tuple[Any, dict[str, Any], frozenset[str]]:
    architecture = config.choice("architecture", ("standard", "gated"), "standard")
    activation = config.text("activation_fn_str")
    known = ("relu", "topk") if architecture == "standard" else ("relu",)
    if activation not in known:
        message = expected_one_of("activation_fn_str", activation[:60], known)
        raise SAEFormatError(f"{config.path}: {message}")
    if architecture == "gated":
        return "gated", {}, frozenset()
    if activation != "topk":
        return "relu", {}, frozenset()
    stated = config.section("activation_fn_kwargs", {})
    if "k" in stated:
        return "topk", {"k": stated.integer("k")}, frozenset()
    if overrides.k is None:
        raise SAEFormatError(f"{config.path}: got topk without k in activation_fn_kwargs. Give k=.")
    return "topk", {"k": overrides.k}, frozenset({"k"})


def _hook_names(config: Config) -> tuple[str | None, str | None]:
    """Return the names of the input and the output, from the parts that the configuration holds."""
    names = []
    for layer, site in (
        ("hook_point_layer", "layer_subtype"),
        ("out_hook_point_layer", "layer_out_subtype"),
    ):
        number, kind = config.get(layer), config.get(site)
        known = isinstance(number, int) and isinstance(kind, str)
        names.append(f"blocks.{number}.{kind}" if known else None)
    return names[0], names[1]


def _fold_bias(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take off the input what a transcoder subtracts there, by way of the encoder's bias."""
    offset = tensors.pop("b_in")
    return tensors | {"b_enc": tensors["b_enc"] - offset @ tensors["W_enc"]}


FORMAT = ConvertedFormat("prisma", _detects, _plan)
