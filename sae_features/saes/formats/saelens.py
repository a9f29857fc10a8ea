"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, as of version 6 and before.

https://github.com/decoderesearch/SAELens
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError, expected_one_of
from sae_features.hook_point import parse_hook_name
from sae_features.saes.folding import unit_decoder
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import metadata_of, settle_norm_scale
from sae_features.saes.formats.saelens_writer import write

if TYPE_CHECKING:
    import torch

    from sae_features.saes.formats.files import SAEFiles
    from sae_features.saes.json_files import Config

CONFIG = "cfg.json"
ARCHITECTURES = {
    "standard": "relu",
    "gated": "gated",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
TRAINED = ("batchtopk", "matryoshka_batchtopk")
"""Written while training; what is saved for inference is called jumprelu."""
NORMS = {"layer_norm": "layer_norm", "constant_norm_rescale": "rms_norm", "none": "none"}
LEFT_OPEN = "expected_average_only_in"
RENAMED = {
    "hook_name": "hook_point",
    "hook_head_index": "hook_point_head_index",
    "activation_fn": "activation_fn_str",
}
"""Names of today and before version 6."""


def _detects(files: SAEFiles) -> bool:
    config = files.config(CONFIG)
    return config is not None and "d_in" in config and "d_sae" in config


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:
    config = files.needed_config(CONFIG)
    facts = config.section("metadata") if isinstance(config.get("metadata"), dict) else config
    kind = _kind(config)
    is_transcoder = kind.endswith("transcoder")
    d_in, n_latents = config.integer("d_in"), config.integer("d_sae")
    architecture: Any = ARCHITECTURES[kind]
    conventions: dict[str, Any] = {
        "subtract_b_dec": not is_transcoder and config.flag("apply_b_dec_to_input", default=True)
    }
    if architecture == "topk":
        conventions["k"] = _k(config)
    input_norm, warnings, settled = _input_norm(config, overrides)
    conventions |= input_norm
    if is_transcoder and input_norm:
        conventions["denormalize"] = False  # SAELens leaves the output of a transcoder as it is
    rescales = architecture == "topk" and config.flag("rescale_acts_by_decoder_norm", default=False)
    name, name_out = _named(facts, "hook_name"), facts.get("hook_name_out")
    one_head = _named(facts, "hook_head_index") is not None
    return Plan(
        architecture,
        d_in,
        n_latents,
        _pieces(files, config, architecture, has_skip="skip" in kind),
        d_out=config.integer("d_out", d_in) if is_transcoder else d_in,
        conventions=conventions,
        fold=unit_decoder if rescales else None,
        folded={"rescale_acts_by_decoder_norm": True} if rescales else {},
        fold_needs_decoder=rescales,
        hook_point=None if one_head else parse_hook_name(name),
        hook_point_out=parse_hook_name(name_out),
        metadata=metadata_of(
            model=facts.get("model_name"),
            max_length=facts.get("context_size"),
            prepend_bos=facts.get("prepend_bos", True if facts is config else None),
            hook_name=name,
            hook_name_out=name_out,
            hook_head_index=_named(facts, "hook_head_index"),
            neuronpedia_id=facts.get("neuronpedia_id"),
            training_architecture=facts.get("training_architecture"),
            dataset=facts.get("dataset_path"),
            model_from_pretrained_kwargs=facts.get("model_from_pretrained_kwargs") or None,
            exclude_special_tokens=facts.get("exclude_special_tokens"),
        ),
        warnings=(*warnings, *_processing(files, facts)),
        settled=settled,
    )


def _processing(files: SAEFiles, facts: Config) -> tuple[str, ...]:
    """Return a warning where the model was changed before its activations were read."""
    stated = facts.get("model_from_pretrained_kwargs")
    changes = (
        [name for name, value in stated.items() if value is True] if isinstance(stated, dict) else []
    )
    if files.known.get("centred"):
        changes = [name for name in changes if name != "center_writing_weights"]
    if not changes:
        return ()
    return (
        f"The SAE {str(files.path)!r} was trained on a model that TransformerLens had changed "
        f"({', '.join(map(str, changes))[:200]}); those of the model as it is published may differ.",
    )


def _named(facts: Config, name: str) -> Any:
    return facts.get(name, facts.get(RENAMED[name]))


def _kind(config: Config) -> str:
    is_new = "metadata" in config  # always says its architecture; before version 6, standard was silent
    kind = config.text("architecture") if is_new else config.text("architecture", "standard")
    if kind in TRAINED:
        message = f"got architecture={kind!r} of a training checkpoint, which has no threshold yet; "
        raise SAEFormatError(f"{config.path}: {message}save it with SAELens' save_inference_model.")
    if kind not in ARCHITECTURES:
        message = expected_one_of("architecture", kind[:60], ARCHITECTURES)
        raise SAEFormatError(f"{config.path}: {message}")
    if is_new and kind != "topk" and config.get("k") is not None:
        message = (
            f"{config.path}: got k={config.get('k')!r} with architecture={kind!r}; only topk has k."
        )
        raise SAEFormatError(message)
    activation = _named(config, "activation_fn")
    if kind == "standard" and activation == "topk":
        return "topk"
    if activation not in (None, "relu", "topk"):
        message = f"{config.path}: got activation_fn={str(activation)[:60]!r}; expected relu or topk."
        raise SAEFormatError(message)
    return kind


def _k(config: Config) -> int:
    if "k" in config:
        return config.integer("k")
    return config.section("activation_fn_kwargs", {}).integer("k")


def _input_norm(
    config: Config, overrides: Overrides
) -> tuple[dict[str, Any], tuple[str, ...], frozenset[str]]:
    stated = config.get("normalize_activations")
    if stated is None or isinstance(stated, bool):
        stated = LEFT_OPEN if stated else "none"
    if stated == LEFT_OPEN:
        reason = (
            "was trained on inputs scaled by √d over their mean norm (normalize_activations="
            f"{LEFT_OPEN!r}), which its files do not hold"
        )
        return settle_norm_scale(config.path.parent, overrides, reason)
    if not isinstance(stated, str) or stated not in NORMS:
        options = (*NORMS, LEFT_OPEN)
        message = expected_one_of("normalize_activations", str(stated)[:60], options)
        raise SAEFormatError(f"{config.path}: {message}")
    return ({} if stated == "none" else {"input_norm": NORMS[stated]}), (), frozenset()


def _pieces(files: SAEFiles, config: Config, architecture: str, *, has_skip: bool) -> dict[str, Piece]:
    vectors = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    pieces = {name: Piece(name) for name in ("W_enc", *vectors, "b_dec")}
    if files.has("W_dec"):
        pieces["W_dec"] = Piece("W_dec")
    if architecture == "jumprelu":
        is_log = not files.has("threshold") and files.has("log_threshold")
        pieces["threshold"] = Piece("log_threshold", convert=_exp) if is_log else Piece("threshold")
    if has_skip:
        pieces["W_skip"] = Piece("W_skip", transposed=True)
    scales = [name for name in ("scaling_factor", "finetuning_scaling_factor") if files.has(name)]
    if scales or config.flag("finetuning_scaling_factor", default=False):
        pieces["latent_scale"] = Piece((scales or ["finetuning_scaling_factor"])[-1])
    return pieces


def _exp(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.exp()


FORMAT = ConvertedFormat("saelens", _detects, _plan, write)
