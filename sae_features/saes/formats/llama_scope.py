"""Llama Scope: ``hyperparams.json`` and ``checkpoints/final.safetensors``.

The files are as trained; their authors fold the data set's norms and then the decoder's into the
weights, so that latents are in the units of raw inputs, and so is the one threshold.

https://huggingface.co/fnlp/Llama-Scope, arXiv 2410.20526
"""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError, expected_one_of
from sae_features.hook_point import parse_hook_name
from sae_features.saes.folding import scale_outputs, unit_decoder
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import metadata_of

if TYPE_CHECKING:
    import torch

    from sae_features.saes.formats.files import SAEFiles
    from sae_features.saes.json_files import Config

CONFIG = "hyperparams.json"
NORMS = {"dataset-wise": "none", "token-wise": "rms_norm", "inference": "none"}


def _detects(files: SAEFiles) -> bool:
    return files.config(CONFIG) is not None and files.has("encoder.weight", "decoder.weight")


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:  # noqa: ARG001 files say all
    config = files.needed_config(CONFIG)
    d_in = config.integer("d_model")
    n_latents = config.integer("d_sae")
    if config.flag("use_glu_encoder", default=False):
        raise SAEFormatError(f"{config.path}: got use_glu_encoder=true; expected a linear encoder.")
    norm = config.choice("norm_activation", NORMS, "token-wise")
    scale_in, scale_out = _scales(config, d_in) if norm == "dataset-wise" else (1.0, 1.0)
    threshold = config.number("jump_relu_threshold", 0.0)
    architecture = _architecture(config, threshold)
    by_norm = config.flag("sparsity_include_decoder_norm", default=True)
    has_bias = config.flag("use_decoder_bias", default=True)
    subtracts = has_bias and config.flag("apply_decoder_bias_to_pre_encoder", default=True)
    if subtracts and norm == "dataset-wise" and scale_in != scale_out:
        message = f"{config.path}: got a transcoder that subtracts its decoder's bias."
        raise SAEFormatError(message)
    conventions: dict[str, Any] = {"subtract_b_dec": subtracts}
    if architecture == "topk":
        conventions["k"] = config.integer("top_k")
    if NORMS[norm] != "none":
        conventions["input_norm"] = NORMS[norm]
    pieces = {
        "W_enc": Piece("encoder.weight", transposed=True),
        "b_enc": Piece("encoder.bias"),
        "W_dec": Piece("decoder.weight", transposed=True),
    }
    constants = {}
    if has_bias:
        pieces["b_dec"] = Piece("decoder.bias")
    else:
        constants["b_dec"] = 0.0
    if architecture == "jumprelu":
        constants["threshold"] = threshold
    name, name_out = config.text("hook_point_in", None), config.text("hook_point_out", None)
    return Plan(
        architecture,
        d_in,
        n_latents,
        pieces,
        constants=constants,
        conventions=conventions,
        fold=partial(_fold, scale_in=scale_in, scale_out=scale_out, by_norm=by_norm),
        folded={
            "scale_in": scale_in,
            "scale_out": scale_out,
            "threshold": threshold,
            "by_norm": by_norm,
        },
        fold_needs_decoder=by_norm,
        hook_point=parse_hook_name(name),
        hook_point_out=parse_hook_name(name_out) if name_out != name else None,
        metadata=metadata_of(
            model=_model(config), hook_name=name, hook_name_out=name_out if name_out != name else None
        ),
    )


def _fold(
    tensors: dict[str, torch.Tensor], *, scale_in: float, scale_out: float, by_norm: bool
) -> dict[str, torch.Tensor]:
    """Fold the norms of the data set, then those of the decoder where the gate counts by them.

    The threshold stays as it is.
    """
    threshold = {"threshold": tensors.pop("threshold")} if "threshold" in tensors else {}
    tensors["b_enc"] = tensors["b_enc"] / scale_in
    tensors = scale_outputs(tensors, 1 / scale_out)
    if "W_dec" in tensors:
        tensors["W_dec"] = tensors["W_dec"] * scale_in
    return (unit_decoder(tensors) if by_norm else tensors) | threshold


def _scales(config: Config, d_in: int) -> tuple[float, float]:
    norms = config.section("dataset_average_activation_norm")
    return sqrt(d_in) / norms.number("in", above=0), sqrt(d_in) / norms.number("out", above=0)


def _architecture(config: Config, threshold: float) -> Any:
    activation = config.text("act_fn", "relu").lower()
    if activation not in ("relu", "topk", "jumprelu"):
        message = expected_one_of("act_fn", activation[:60], ("relu", "topk", "jumprelu"))
        raise SAEFormatError(f"{config.path}: {message}")
    # Trained by top-k, published with the threshold that stands for it.
    return "jumprelu" if activation == "topk" and threshold > 0 else activation


def _model(config: Config) -> str | None:
    name = config.get("model_name") or config.get("model")
    return name if isinstance(name, str) else None


FORMAT = ConvertedFormat("llama_scope", _detects, _plan)
