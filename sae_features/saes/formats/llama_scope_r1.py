"""Llama-Scope-R1 and llamascopium: ``config.json`` and ``sae_weights.safetensors``.

Inputs are scaled to the norm √d on average over the data set; latents stay in these units, since the
thresholds are in them.

https://huggingface.co/fnlp/Llama-Scope-R1-Distill, https://github.com/OpenMOSS/Language-Model-SAEs
"""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError, expected_one_of
from sae_features.hook_point import parse_hook_name
from sae_features.saes.folding import scale_outputs
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import metadata_of, settle_norm_scale
from sae_features.saes.json_files import MAX_SIZE

if TYPE_CHECKING:
    import torch

    from sae_features.saes.formats.files import SAEFiles
    from sae_features.saes.json_files import Config

CONFIG = "config.json"
NEW = ("W_E", "b_E", "W_D")
OLD = ("encoder.weight", "encoder.bias", "decoder.weight")
LOG_THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
NORM = "dataset_average_activation_norm"
NORMS = ("dataset-wise", "token-wise", "inference", "batch-wise")


def _detects(files: SAEFiles) -> bool:
    config = files.config(CONFIG)
    has_config = config is not None and "expansion_factor" in config and "norm_activation" in config
    return has_config and (files.has(*NEW) or files.has(*OLD))


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:
    config = files.needed_config(CONFIG)
    d_in = config.integer("d_model")
    n_latents = int(d_in * min(config.number("expansion_factor", above=0), MAX_SIZE))
    if config.flag("use_glu_encoder", default=False):
        raise SAEFormatError(f"{config.path}: got use_glu_encoder=true; expected a linear encoder.")
    if config.text("sae_type", "sae") != "sae":
        raise SAEFormatError(f"{config.path}: got sae_type={config.get('sae_type')!r}; expected 'sae'.")
    architecture, conventions = _activation(config)
    name, name_out = config.text("hook_point_in", None), config.text("hook_point_out", None)
    input_norm, ratio, warnings, settled = _norm(files, config, overrides, (name, name_out))
    conventions |= {"subtract_b_dec": False, **input_norm}
    by_norm = config.flag("sparsity_include_decoder_norm", default=True) and architecture != "relu"
    pieces, constants = _pieces(files, architecture, config.flag("use_decoder_bias", default=True))
    return Plan(
        architecture,
        d_in,
        n_latents,
        pieces,
        constants=constants,
        conventions=conventions,
        fold=partial(_fold, by_norm=by_norm, ratio=ratio) if by_norm or ratio != 1 else None,
        folded={"by_norm": by_norm, "ratio": ratio},
        fold_needs_decoder=by_norm,
        hook_point=parse_hook_name(name),
        hook_point_out=parse_hook_name(name_out) if name_out != name else None,
        metadata=metadata_of(
            model=config.get("model_name"),
            hook_name=name,
            hook_name_out=name_out if name_out != name else None,
        ),
        warnings=warnings,
        settled=settled,
        unused=frozenset({f"{NORM}.{name}", f"{NORM}.{name_out}"}),
    )


def _activation(config: Config) -> tuple[Any, dict[str, Any]]:
    activation = config.text("act_fn", "relu").lower()
    if activation == "topk":
        return "topk", {"k": config.integer("top_k")}
    if activation in ("relu", "jumprelu"):
        return activation, {}
    message = expected_one_of("act_fn", activation[:60], ("relu", "topk", "jumprelu"))
    raise SAEFormatError(f"{config.path}: {message}")


def _norm(
    files: SAEFiles, config: Config, overrides: Overrides, hooks: tuple[str | None, str | None]
) -> tuple[dict[str, Any], float, tuple[str, ...], frozenset[str]]:
    """Return conventions of the input, and by how much outputs are scaled otherwise than inputs."""
    kind = config.choice("norm_activation", NORMS)
    if kind == "batch-wise":
        message = f"{config.path}: got norm_activation='batch-wise'; latents would depend on the batch."
        raise SAEFormatError(message)
    if kind == "token-wise":
        return {"input_norm": "rms_norm"}, 1.0, (), frozenset()
    if kind == "inference":
        return {}, 1.0, (), frozenset()
    scales = [_scale(files, config, hook, side) for hook, side in zip(hooks, ("in", "out"), strict=True)]
    if scales[0] is None:
        reason = "was trained on inputs scaled by √d over their mean norm, which its files do not hold"
        conventions, warnings, settled = settle_norm_scale(files.folder, overrides, reason)
        return conventions, 1.0, warnings, settled
    if scales[1] is None and hooks[1] not in (None, hooks[0]):
        raise SAEFormatError(f"{files.weights}: got no {NORM}.{hooks[1]}; expected it for the output.")
    out = scales[1] or scales[0]
    return {"input_norm": "scale", "norm_scale": scales[0]}, scales[0] / out, (), frozenset()


def _scale(files: SAEFiles, config: Config, hook: str | None, side: str) -> float | None:
    """Return √d over the mean norm at a hook point, from the tensors or the configuration."""
    key = f"{NORM}.{hook}"
    if hook is not None and files.has(key):
        norm = files.scalar(key)
        if not 0 < norm < float("inf"):
            raise SAEFormatError(f"{files.weights}: got {key}={norm}; expected a finite number above 0.")
    else:
        stated = config.section(NORM, {})
        name = hook if hook is not None and hook in stated else side
        if name not in stated:
            return None
        norm = stated.number(name, above=0)
    return sqrt(config.integer("d_model")) / norm


def _pieces(
    files: SAEFiles,
    architecture: str,
    has_bias: bool,  # noqa: FBT001
) -> tuple[dict[str, Piece], dict[str, float]]:
    is_new = files.has(*NEW)
    encoder, bias, decoder = NEW if is_new else OLD
    pieces = {
        "W_enc": Piece(encoder, transposed=not is_new),
        "b_enc": Piece(bias),
        "W_dec": Piece(decoder, transposed=not is_new),
    }
    constants = {}
    if has_bias:
        pieces["b_dec"] = Piece("b_D" if is_new else "decoder.bias")
    else:
        constants["b_dec"] = 0.0
    if architecture == "jumprelu":
        key = next((name for name in LOG_THRESHOLDS if files.has(name)), LOG_THRESHOLDS[0])
        pieces["threshold"] = Piece(key, convert=_exp)
    return pieces, constants


def _fold(tensors: dict[str, torch.Tensor], *, by_norm: bool, ratio: float) -> dict[str, torch.Tensor]:
    """Fold what gates by the decoder's norms, and the scale of outputs where it is another one."""
    if by_norm and "threshold" in tensors:  # p * norm > threshold
        norms = tensors["W_dec"].norm(dim=1)
        never = tensors["threshold"].new_full((), 1e30)
        tensors["threshold"] = (tensors["threshold"] / norms).where(norms > 0, never)
    elif by_norm:
        tensors["selection_scale"] = tensors["W_dec"].norm(dim=1)
    return scale_outputs(tensors, ratio)


def _exp(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.exp()


FORMAT = ConvertedFormat("llama_scope_r1", _detects, _plan)
