"""Writing an SAE as SAELens does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from sae_features.hook_point import HookPoint
    from sae_features.saes.autoencoder import SparseAutoencoder

VERSION = "6.54.12"
"""Version of SAELens whose files these are: it reads them differently before 6."""
NAMES = {
    "resid_pre": "hook_resid_pre",
    "resid_post": "hook_resid_post",
    "resid_mid": "hook_resid_mid",
    "attn_out": "hook_attn_out",
    "attn_z": "attn.hook_z",
    "mlp_in": "mlp.hook_in",
    "mlp_normalized": "ln2.hook_normalized",
    "mlp_hidden": "mlp.hook_post",
    "mlp_out": "hook_mlp_out",
}
NORMS = {"none": "none", "layer_norm": "layer_norm", "rms_norm": "constant_norm_rescale"}


def write(sae: SparseAutoencoder, folder: Path, dtype: str | None) -> Path:
    """Write ``cfg.json`` and ``sae_weights.safetensors``.

    Raises
    ------
    SAEFormatError
        If SAELens has nothing that computes the same.
    """
    from sae_features.saes.folding import fold_center, fold_scales
    from sae_features.saes.formats.writing import (
        labels_on_disk,
        tensors_on_disk,
        warn_of_folded_mean,
        write_files,
    )

    folded = fold_scales(fold_center(sae))
    kind = _kind(folded)
    warn_of_folded_mean(sae, "SAELens")
    tensors = tensors_on_disk(folded, dtype)
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].mT.contiguous()
    configs = {"cfg.json": _config(folded, kind, tensors), **labels_on_disk(sae)}
    return write_files(folder, {"sae_weights.safetensors": tensors}, configs)


def _config(sae: SparseAutoencoder, kind: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    is_transcoder = kind.endswith("transcoder")
    model = sae.metadata.get("model")
    metadata = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": model.get("id") if isinstance(model, dict) else model,
        "hook_name": _hook_name(sae.hook_point, sae.metadata.get("hook_name")),
        "hook_name_out": _hook_name(sae.hook_point_out, sae.metadata.get("hook_name_out")),
        "hook_head_index": sae.metadata.get("hook_head_index"),
        "context_size": sae.metadata.get("max_length"),
        "prepend_bos": sae.metadata.get("prepend_bos"),
        "neuronpedia_id": sae.metadata.get("neuronpedia_id"),
        "dataset_path": sae.metadata.get("dataset"),
    }
    config: dict[str, Any] = {
        "architecture": kind,
        "d_in": sae.d_in,
        "d_sae": sae.n_latents,
        "dtype": str(tensors["W_enc"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtract_b_dec,
        "normalize_activations": NORMS[sae.input_norm],
        "reshape_activations": "hook_z" if (metadata["hook_name"] or "").endswith("hook_z") else "none",
        "metadata": metadata,
    }
    if is_transcoder:
        config["d_out"] = sae.d_out
    if kind == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    return config


def _kind(sae: SparseAutoencoder) -> str:
    from sae_features.saes.formats.writing import no_words_for

    is_transcoder = sae.d_out != sae.d_in or sae.W_skip is not None or sae.hook_point_out is not None
    kinds = {"relu": "standard", "gated": "gated", "topk": "topk", "jumprelu": "jumprelu"}
    transcoders = {"relu": "transcoder", "jumprelu": "jumprelu_transcoder"}
    kind = (transcoders if is_transcoder else kinds).get(sae.architecture)
    complaint = ""
    if sae.W_dec is None:
        complaint = "no decoder"
    elif kind is None:
        complaint = f"architecture={sae.architecture!r}" + (" of a transcoder" if is_transcoder else "")
    elif sae.selection_scale is not None:
        complaint = "selection_scale"
    elif sae.architecture == "topk" and not sae.topk_relu:
        complaint = "topk_relu=False: SAELens drops negative values"
    elif is_transcoder and sae.subtract_b_dec:
        complaint = "a transcoder that subtracts b_dec"
    elif sae.input_norm != "none" and sae.denormalize == is_transcoder:
        complaint = f"input_norm={sae.input_norm!r} with denormalize={sae.denormalize}"
    if complaint or kind is None:
        raise no_words_for(complaint, "SAELens")
    return kind.replace("transcoder", "skip_transcoder") if sae.W_skip is not None else kind


def _hook_name(point: HookPoint | None, name: str | None) -> str | None:
    """Return what TransformerLens calls a place; its name in the files only where it has none there."""
    if point is None or point.site not in NAMES:
        return name
    return f"blocks.{point.layer}.{NAMES[point.site]}"
