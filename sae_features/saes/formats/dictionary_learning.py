"""dictionary_learning: ``trainer_i/ae.pt`` and ``trainer_i/config.json``, seven classes.

The tensors tell the class, but for TopK and BatchTopK, which differ only in the configuration.

https://github.com/saprmarks/dictionary_learning
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError
from sae_features.hook_point import HookPoint
from sae_features.saes.folding import decoder_norms, scale_latents
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import metadata_of

if TYPE_CHECKING:
    import torch

    from sae_features.saes.formats.files import SAEFiles
    from sae_features.saes.json_files import Config

CONFIG = "config.json"
LINEAR = ("encoder.weight", "decoder.weight")
MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
CLASSES = {
    "AutoEncoder": {"bias", "encoder.bias", *LINEAR},
    "AutoEncoderNew": {"encoder.bias", "decoder.bias", *LINEAR},
    "GatedAutoEncoder": {"decoder_bias", "r_mag", "gate_bias", "mag_bias", *LINEAR},
    "AutoEncoderTopK": {"encoder.bias", "b_dec", "k", *LINEAR},
    "MatryoshkaBatchTopKSAE": {"k", "threshold", "group_sizes", *MATRICES},
    "JumpReluAutoEncoder": {"threshold", *MATRICES},
}
"""Tensors that each class has; only AutoEncoderTopK may also hold a threshold."""
BATCH_TOPK = "BatchTopKSAE"
UNIT_TOLERANCE = 1e-5


def _detects(files: SAEFiles) -> bool:
    if files.weights.suffix not in (".pt", ".pth"):
        return False
    kind = _kind_of_tensors(files.names)
    config = files.config(CONFIG)
    has_config = config is not None and isinstance(config.get("trainer"), dict)
    # Two linear layers may be anyone's, unless the configuration says whose.
    return kind is not None and (kind != "AutoEncoderNew" or has_config)


def _kind_of_tensors(names: set[str]) -> str | None:
    for kind, keys in CLASSES.items():
        if names == keys or (kind == "AutoEncoderTopK" and names == keys | {"threshold"}):
            return kind
    return None


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:
    config = files.config(CONFIG)
    trainer = config.section("trainer") if config is not None else None
    kind = _kind_of_tensors(files.names)
    if kind is None:
        named = ", ".join(sorted(files.names))[:200]
        raise SAEFormatError(f"{files.weights}: got tensors {named}; expected those of a known class.")
    if kind == "AutoEncoderTopK":
        kind = _topk_kind(files, trainer, overrides)
    d_in, n_latents = _sizes(files, trainer)
    architecture, conventions, constants, warnings = _convert(files, kind, overrides)
    settled = frozenset({"k"}) if kind in (BATCH_TOPK, "MatryoshkaBatchTopKSAE") else frozenset[str]()
    if trainer is None and kind == "AutoEncoderTopK":
        settled = frozenset({"k"})
    return Plan(
        architecture,
        d_in,
        n_latents,
        _pieces(kind),
        constants=constants,
        conventions=conventions,
        fold=_unit_decoder if kind == "AutoEncoder" else None,
        folded={"class": kind},
        fold_needs_decoder=kind == "AutoEncoder",
        hook_point=_hook_point(config),
        metadata=_metadata(config, kind),
        warnings=warnings,
        settled=settled,
        unused=frozenset({"k", "threshold", "group_sizes"}),
    )


def _topk_kind(files: SAEFiles, trainer: Config | None, overrides: Overrides) -> str:
    """Tell TopK from BatchTopK: their tensors are the same."""
    stated = trainer.text("dict_class", "") if trainer is not None else ""
    named = re.findall(r"\w+", stated)[-1:]
    if named in (["AutoEncoderTopK"], [BATCH_TOPK]):
        return named[0]
    if overrides.k is not None:
        return "AutoEncoderTopK"
    message = (
        f"{files.weights}: got tensors that TopK and BatchTopK share, and no {CONFIG} whose trainer has "
        "a dict_class to tell them apart. Put it beside the file, or give k= to keep the k largest."
    )
    raise SAEFormatError(message)


def _convert(
    files: SAEFiles, kind: str, overrides: Overrides
) -> tuple[Any, dict[str, Any], dict[str, float], tuple[str, ...]]:
    """Return architecture, conventions, constants and warnings of a class."""
    conventions: dict[str, Any] = {
        "subtract_b_dec": kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    }
    if kind == "GatedAutoEncoder":
        return "gated", conventions, {}, ()
    if kind == "JumpReluAutoEncoder":
        return "jumprelu", conventions, {}, ()
    if kind == "AutoEncoderTopK":
        k = overrides.k if overrides.k is not None else files.count("k")
        return "topk", conventions | {"k": k}, {}, ()
    if kind in (BATCH_TOPK, "MatryoshkaBatchTopKSAE"):
        threshold = files.scalar("threshold") if files.has("threshold") else -1.0
        if overrides.k is not None:
            return "topk", conventions | {"k": overrides.k}, {}, ()
        if not threshold < 0:
            return "jumprelu", conventions, {"threshold": threshold}, ()
        warning = (
            f"The SAE {str(files.path)!r} has no threshold: its training never set it (got "
            f"{threshold:g}). It is loaded as the library does, with every positive latent. Give k= to "
            "load_sae to keep the k largest instead."
        )
        return "relu", conventions, {}, (warning,)
    return "relu", conventions, {}, ()


def _pieces(kind: str) -> dict[str, Piece]:
    if kind in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        names = (*MATRICES, "threshold") if kind == "JumpReluAutoEncoder" else MATRICES
        return {name: Piece(name) for name in names}
    pieces = {
        "W_enc": Piece("encoder.weight", transposed=True),
        "W_dec": Piece("decoder.weight", transposed=True),
    }
    if kind == "GatedAutoEncoder":
        named = {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag", "b_dec": "decoder_bias"}
    else:
        b_dec = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(kind, "b_dec")
        named = {"b_enc": "encoder.bias", "b_dec": b_dec}
    return pieces | {name: Piece(key) for name, key in named.items()}


def _sizes(files: SAEFiles, trainer: Config | None) -> tuple[int, int]:
    if files.has("encoder.weight"):
        n_latents, d_in = files.matrix("encoder.weight")
    else:
        d_in, n_latents = files.matrix("W_enc")
    if trainer is None:
        return d_in, n_latents
    return trainer.integer("activation_dim", d_in), trainer.integer("dict_size", n_latents)


def _unit_decoder(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Scale latents by the norms of the decoder, as ``AutoEncoder.from_pretrained`` does."""
    norms = decoder_norms(tensors)
    if bool(((norms - 1).abs() <= UNIT_TOLERANCE).all()):
        return tensors
    return scale_latents(tensors, norms)


def _hook_point(config: Config | None) -> HookPoint | None:
    """Return the hook point where the configuration tells it beyond doubt."""
    trainer = config.get("trainer") if config is not None else None
    buffer = config.get("buffer") if config is not None else None
    layer = trainer.get("layer") if isinstance(trainer, dict) else None
    io = buffer.get("io", "out") if isinstance(buffer, dict) else "out"
    if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer < 10_000 or io != "out":
        return None
    name = trainer.get("submodule_name") if isinstance(trainer, dict) else None
    is_residual = name is None or re.fullmatch(r"resid(_post|_out)?(_layer_?\d+)?", str(name), re.ASCII)
    return HookPoint(layer, "resid_post") if is_residual else None


def _metadata(config: Config | None, kind: str) -> dict[str, Any]:
    trainer = config.get("trainer") if config is not None else None
    buffer = config.get("buffer") if config is not None else None
    trainer = trainer if isinstance(trainer, dict) else {}
    buffer = buffer if isinstance(buffer, dict) else {}
    name = trainer.get("submodule_name")
    return metadata_of(
        model=trainer.get("lm_name"),
        max_length=buffer.get("ctx_len"),
        hook_name=name if isinstance(name, str) else None,
        training_architecture=kind,
    )


FORMAT = ConvertedFormat("dictionary_learning", _detects, _plan)
