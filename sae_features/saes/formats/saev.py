"""saev: one ``sae.pt``, a line of JSON before what ``torch.save`` writes.

https://github.com/OSU-NLP-Group/saev
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError, expected_one_of
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import metadata_of, settle_norm_scale
from sae_features.saes.formats.torch_files import TorchFile
from sae_features.saes.json_files import Config

if TYPE_CHECKING:
    from sae_features.saes.formats.files import SAEFiles

ACTIVATIONS = {"Relu": "relu", "TopK": "topk", "BatchTopK": "jumprelu"}
THRESHOLD = "activation.threshold"
NEWEST_SCHEMA = 5
OLD = (
    "was written by a version of saev that could train on activations less the mean of their data set, "
    "times a scale; the file holds neither"
)


def _detects(files: SAEFiles) -> bool:
    container = files.container
    return isinstance(container, TorchFile) and container.first_line != b""


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:
    header = _header(files)
    config = header.section("cfg") if "schema" in header else header
    d_in = config.integer("d_model" if "d_model" in config else "d_vit")
    is_old = _is_old(header)
    n_latents = _n_latents(config, d_in)
    kind, k = _activation(header, config)
    architecture: Any = ACTIVATIONS[kind]
    conventions: dict[str, Any] = {"subtract_b_dec": is_old}
    constants = {}
    if kind == "TopK":
        conventions |= {"k": min(k, n_latents), "topk_relu": False}
    if kind == "BatchTopK":
        constants["threshold"] = max(0.0, files.scalar(THRESHOLD))
    warnings: tuple[str, ...] = ()
    settled = frozenset[str]()
    if is_old:
        norm, warnings, settled = settle_norm_scale(files.weights, overrides, OLD)
        conventions |= norm
    return Plan(
        architecture,
        d_in,
        n_latents,
        {name: Piece(name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")},
        constants=constants,
        conventions=conventions,
        metadata=metadata_of(training_architecture=kind, saev_version=_text(header.get("lib"))),
        warnings=warnings,
        settled=settled,
        unused=frozenset({THRESHOLD} if kind == "BatchTopK" else ()),
    )


def _is_old(header: Config) -> bool:
    """Tell whether a file is of before August 2025, when ``b_dec`` still was subtracted.

    It has no schema, or the first of the two layouts that call themselves schema 1.
    """
    return "schema" not in header or (
        header.get("schema") == 1 and header.get("cls") in tuple(ACTIVATIONS)
    )


def _header(files: SAEFiles) -> Config:
    container = files.container
    line = container.first_line if isinstance(container, TorchFile) else b""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        message = f"{files.weights}: its first line could not be read as JSON: {str(error)[:200]}"
        raise SAEFormatError(message) from error
    if not isinstance(content, dict):
        raise SAEFormatError(f"{files.weights}: got a first line that is no JSON object.")
    header = Config(content, files.weights)
    header.integer("schema", 1, high=NEWEST_SCHEMA)
    return header


def _n_latents(config: Config, d_in: int) -> int:
    if "d_sae" in config:
        return config.integer("d_sae")
    return d_in * config.integer("exp_factor")


def _activation(header: Config, config: Config) -> tuple[str, int]:
    """Return the activation's class and its k, from whichever place this version puts them."""
    if "schema" not in header:
        return "Relu", 0
    stated = config.get("activation")
    if isinstance(stated, dict):
        place = config.section("activation")
        kind, params = place.text("cls"), place.section("params", {})
    else:
        kind, params = header.text("cls", "Relu"), config
    if kind not in ACTIVATIONS:
        message = expected_one_of("activation", kind[:60], ACTIVATIONS)
        raise SAEFormatError(f"{header.path}: {message}")
    return kind, params.integer("top_k", 32) if kind != "Relu" else 0


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


FORMAT = ConvertedFormat("saev", _detects, _plan)
