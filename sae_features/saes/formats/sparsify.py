"""EleutherAI sparsify: ``{hookpoint}/cfg.json`` and ``{hookpoint}/sae.safetensors``.

Both matrices have the shape (n_latents, d_in).

https://github.com/EleutherAI/sparsify
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError
from sae_features.hook_point import parse_hook_name, parse_module_name
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import metadata_of, parse_hook_point

if TYPE_CHECKING:
    from pathlib import Path

    from sae_features.hook_point import HookPoint
    from sae_features.saes.autoencoder import SparseAutoencoder
    from sae_features.saes.formats.files import SAEFiles
    from sae_features.saes.json_files import Config

CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"
EXTRA = "sae_features"
"""What we add to the configuration, and sparsify passes over."""
KEYS = ("encoder.weight", "encoder.bias", "b_dec")


def _detects(files: SAEFiles) -> bool:
    config = files.config(CONFIG)
    return config is not None and "k" in config and files.has(*KEYS)


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:  # noqa: ARG001 files say all
    config = files.needed_config(CONFIG)
    d_in = config.integer("d_in")
    n_latents = config.integer("num_latents", 0, low=0) or d_in * config.integer("expansion_factor", 32)
    activation: Any = config.choice("activation", ("topk", "groupmax"), "topk")
    if config.flag("signed", default=False):
        raise SAEFormatError(f"{config.path}: got signed=true; expected latents that are not negative.")
    pieces = {
        "W_enc": Piece("encoder.weight", transposed=True),
        "b_enc": Piece("encoder.bias"),
        "b_dec": Piece("b_dec"),
    }
    if files.has("W_dec"):
        pieces["W_dec"] = Piece("W_dec")
    if config.flag("skip_connection", default=False):
        pieces["W_skip"] = Piece("W_skip", transposed=True)
    is_transcoder = config.flag("transcode", default=False)
    point, point_out, metadata = _place(files, config, is_transcoder=is_transcoder)
    return Plan(
        activation,
        d_in,
        n_latents,
        pieces,
        conventions={"k": config.integer("k"), "subtract_b_dec": not is_transcoder},
        hook_point=point,
        hook_point_out=point_out,
        metadata=metadata,
    )


def _place(
    files: SAEFiles, config: Config, *, is_transcoder: bool
) -> tuple[HookPoint | None, HookPoint | None, dict[str, Any]]:
    """Return hook points and metadata: as we wrote them, or else by the folder's name."""
    if EXTRA in config:
        extra = config.section(EXTRA)
        place, place_out = (
            parse_hook_point(extra.get(name)) for name in ("hook_point", "hook_point_out")
        )
        return place, place_out, dict(extra.section("metadata", {}).values)
    # Folders are named by the module that is read: the output of it, or its input and output.
    name = files.folder.name
    if parse_module_name(name) is None:
        return None, None, {}
    if not is_transcoder:
        return parse_hook_name(name), None, metadata_of(hook_name=name)
    name_in = f"{name}.input"
    metadata = metadata_of(hook_name=name_in, hook_name_out=name)
    return parse_hook_name(name_in), parse_hook_name(name), metadata


def write(sae: SparseAutoencoder, folder: Path, dtype: str | None) -> Path:
    """Write ``cfg.json`` and ``sae.safetensors``.

    Raises
    ------
    SAEFormatError
        If sparsify has nothing that computes the same.
    """
    from sae_features.saes.folding import fold_center, fold_scales
    from sae_features.saes.formats.writing import (
        labels_on_disk,
        no_words_for,
        tensors_on_disk,
        warn_of_folded_mean,
        write_files,
    )

    folded = fold_scales(fold_center(sae))
    complaint = _complaint(folded)
    if complaint:
        raise no_words_for(complaint, "sparsify")
    warn_of_folded_mean(sae, "sparsify")
    tensors = tensors_on_disk(folded, dtype)
    named = {
        "encoder.weight": tensors["W_enc"].mT.contiguous(),
        "encoder.bias": tensors["b_enc"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    if "W_skip" in tensors:
        named["W_skip"] = tensors["W_skip"].mT.contiguous()
    config: dict[str, Any] = {
        "activation": folded.architecture,
        "expansion_factor": max(1, folded.n_latents // folded.d_in),
        "normalize_decoder": False,
        "num_latents": folded.n_latents,
        "k": folded.k,
        "multi_topk": False,
        "skip_connection": folded.W_skip is not None,
        "transcode": not folded.subtract_b_dec,
        "d_in": folded.d_in,
    }
    config[EXTRA] = {
        "hook_point": sae.hook_point and sae.hook_point._asdict(),
        "hook_point_out": sae.hook_point_out and sae.hook_point_out._asdict(),
        "metadata": dict(sae.metadata),
    }
    return write_files(folder, {WEIGHTS: named}, {CONFIG: config, **labels_on_disk(sae)})


def _complaint(sae: SparseAutoencoder) -> str:
    if sae.architecture not in ("topk", "groupmax"):
        return f"architecture={sae.architecture!r}"
    if sae.W_dec is None:
        return "no decoder"
    if sae.selection_scale is not None:
        return "selection_scale"
    if sae.architecture == "topk" and not sae.topk_relu:
        return "topk_relu=False"
    if sae.input_norm != "none":
        return f"input_norm={sae.input_norm!r}"
    if sae.d_out != sae.d_in:
        return f"d_out={sae.d_out} and d_in={sae.d_in}"
    return ""


FORMAT = ConvertedFormat("sparsify", _detects, _plan, write)
