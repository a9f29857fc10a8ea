"""OpenAI's SAEs of GPT-2 small: ``autoencoders/{layer}.pt``.

https://github.com/openai/sparse_autoencoder, arXiv 2406.04093
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError, expected_one_of
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan

if TYPE_CHECKING:
    from sae_features.saes.formats.files import SAEFiles

KEYS = ("pre_bias", "encoder.weight", "latent_bias")
TIED = "decoder.linear.weight"
UNUSED = frozenset({"stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"})
"""Statistics of training."""


def _detects(files: SAEFiles) -> bool:
    return files.has(*KEYS)


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:  # noqa: ARG001 files say all
    n_latents, d_in = files.matrix("encoder.weight")
    pieces = {
        "W_enc": Piece("encoder.weight", transposed=True),
        "b_enc": Piece("latent_bias"),
        "b_dec": Piece("pre_bias"),
    }
    if files.has("decoder.weight"):
        pieces["W_dec"] = Piece("decoder.weight", transposed=True)
    elif files.has(TIED):
        pieces["W_dec"] = Piece(TIED)
    values = files.container.values
    activation = values.get("activation", "ReLU")
    if activation == "ReLU":
        conventions: dict[str, Any] = {"subtract_b_dec": True}
        return Plan("relu", d_in, n_latents, pieces, conventions=conventions, unused=UNUSED)
    if activation != "TopK":
        message = expected_one_of("activation", str(activation)[:60], ("ReLU", "TopK"))
        raise SAEFormatError(f"{files.weights}: {message}")
    k, after = _topk(files)
    conventions = {
        "k": k,
        "topk_relu": after == "ReLU",
        "subtract_b_dec": True,
        "input_norm": "layer_norm",  # the library normalises inputs if and only if it is TopK
    }
    return Plan("topk", d_in, n_latents, pieces, conventions=conventions, unused=UNUSED)


def _topk(files: SAEFiles) -> tuple[Any, str]:
    """Return k and what comes after the selection."""
    values = files.container.values
    state = values.get("activation_state_dict")
    state = state if isinstance(state, dict) else {}
    k = state.get("k", values.get("activation.k"))
    after = state.get("postact_fn", values.get("activation.postact_fn", "ReLU"))
    if after not in ("ReLU", "Identity"):
        message = expected_one_of("postact_fn", str(after)[:60], ("ReLU", "Identity"))
        raise SAEFormatError(f"{files.weights}: {message}")
    return k, after


FORMAT = ConvertedFormat("openai", _detects, _plan)
