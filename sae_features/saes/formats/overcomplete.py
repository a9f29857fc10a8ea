"""overcomplete: what ``torch.save(sae.state_dict())`` writes of its SAEs.

The dictionary is brought to unit norm, which is the library's default; the files hold no other.

https://github.com/KempnerInstitute/overcomplete
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan

if TYPE_CHECKING:
    import torch

    from sae_features.saes.formats.files import SAEFiles

ENCODER = "encoder.final_block.0.weight"
BIAS = "encoder.final_block.0.bias"
DICTIONARY = "dictionary._weights"
MULTIPLIER = "dictionary.multiplier"
THRESHOLDS = "thresholds"
NORM_EPS = 1e-8


def _detects(files: SAEFiles) -> bool:
    return files.has(DICTIONARY) and any(name.startswith("encoder.") for name in files.names)


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:
    others = files.names - {ENCODER, BIAS, DICTIONARY, MULTIPLIER, THRESHOLDS}
    if others or not files.has(ENCODER, BIAS):
        named = ", ".join(sorted(others or {ENCODER}))[:200]
        message = (
            f"{files.weights}: got {named}; expected the default encoder, one linear layer without "
            "normalisation. Other encoders have no canonical form."
        )
        raise SAEFormatError(message)
    n_latents, d_in = files.matrix(ENCODER)
    pieces = {
        "W_enc": Piece(ENCODER, transposed=True),
        "b_enc": Piece(BIAS),
        "W_dec": Piece(DICTIONARY),
    }
    conventions: dict[str, Any] = {"subtract_b_dec": False}
    warnings: tuple[str, ...] = ()
    settled = frozenset[str]()
    architecture: Any = "relu"
    if files.has(THRESHOLDS):
        architecture = "jumprelu"
        pieces["threshold"] = Piece(THRESHOLDS, convert=_below_exp)
    else:
        settled = frozenset({"k"})
        if overrides.k is not None:
            architecture = "topk"
            conventions["k"] = overrides.k
        else:
            warnings = (_left_open(files),)
    extras = {"multiplier": (MULTIPLIER, ())} if files.has(MULTIPLIER) else {}
    return Plan(
        architecture,
        d_in,
        n_latents,
        pieces,
        constants={"b_dec": 0.0},
        extras=extras,
        conventions=conventions,
        fold=_normalize,
        warnings=warnings,
        settled=settled,
    )


def _left_open(files: SAEFiles) -> str:
    return (
        f"The SAE {str(files.weights)!r} is a state dict of overcomplete, which does not hold whether "
        "a TopK or a BatchTopK selection follows the ReLU. It is loaded without one. Give k= to "
        "load_sae to keep the k largest latents. What makes it a BatchTopK with a threshold is "
        "dataclasses.replace(sae, architecture='jumprelu', threshold=…)."
    )


def _below_exp(log_threshold: torch.Tensor) -> torch.Tensor:
    """Return the largest numbers that ``x >= exp(log_threshold)`` leaves out, for ``x > threshold``."""
    threshold = log_threshold.exp()
    return threshold.nextafter(threshold.new_tensor(0.0))


def _normalize(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return concepts of norm 1 times the multiplier, as the library's default does when it is used."""
    multiplier = tensors.pop("multiplier", None)
    if "W_dec" in tensors:
        dictionary = tensors["W_dec"]
        tensors["W_dec"] = dictionary / (dictionary.norm(dim=1, keepdim=True) + NORM_EPS)
        if multiplier is not None:
            tensors["W_dec"] = tensors["W_dec"] * multiplier.exp()
    return tensors


FORMAT = ConvertedFormat("overcomplete", _detects, _plan)
