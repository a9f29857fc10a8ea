"""SAEs saved as two linear layers: Goodfire's, and those with plain names; ReLU, nothing subtracted.

https://huggingface.co/Goodfire/Llama-3.1-8B-Instruct-SAE-l19,
https://huggingface.co/qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan

if TYPE_CHECKING:
    from sae_features.saes.formats.files import SAEFiles


def _keys(encoder: str, decoder: str) -> set[str]:
    return {f"{layer}.{part}" for layer in (encoder, decoder) for part in ("weight", "bias")}


def _detects(files: SAEFiles, *, encoder: str, decoder: str) -> bool:
    # Configurations of other formats that have the same tensors.
    is_other = files.config("hyperparams.json", "config.json", "cfg.json") is not None
    return files.names == _keys(encoder, decoder) and not (is_other and encoder == "encoder")


def _plan(files: SAEFiles, overrides: Overrides, *, encoder: str, decoder: str) -> Plan:  # noqa: ARG001
    # Nothing in such a file names its library, and other libraries' weights alone look the same.
    is_guess = encoder == "encoder" and "format" not in files.known
    n_latents, d_in = files.matrix(f"{encoder}.weight")
    return Plan(
        "relu",
        d_in,
        n_latents,
        {
            "W_enc": Piece(f"{encoder}.weight", transposed=True),
            "b_enc": Piece(f"{encoder}.bias"),
            "W_dec": Piece(f"{decoder}.weight", transposed=True),
            "b_dec": Piece(f"{decoder}.bias"),
        },
        conventions={"subtract_b_dec": False},
        warnings=(_unnamed(files),) if is_guess else (),
    )


def _unnamed(files: SAEFiles) -> str:
    return (
        f"The SAE {str(files.weights)!r} is two linear layers, and nothing beside them says what stands "
        "between. It is loaded with a ReLU. If it was copied without its configuration, put that beside "
        "it. Give format='linear' to load_sae if it is right."
    )


def _format(name: str, encoder: str, decoder: str) -> ConvertedFormat:
    return ConvertedFormat(
        name,
        partial(_detects, encoder=encoder, decoder=decoder),
        partial(_plan, encoder=encoder, decoder=decoder),
    )


GOODFIRE = _format("goodfire", "encoder_linear", "decoder_linear")
LINEAR = _format("linear", "encoder", "decoder")
