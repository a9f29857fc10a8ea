"""Qwen-Scope: ``layer{n}.sae.pt`` of TopK SAEs; only the repository's name says k.

https://huggingface.co/collections/Qwen/qwen-scope, arXiv 2605.11887
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sae_features.errors import SAEFormatError
from sae_features.hook_point import HookPoint
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import metadata_of

if TYPE_CHECKING:
    from pathlib import Path

    from sae_features.saes.formats.files import SAEFiles

KEYS = {"W_enc", "W_dec", "b_enc", "b_dec"}
FILE = re.compile(r"layer(\d{1,4})\.sae\.pt", re.ASCII)
RELEASE = re.compile(
    r"(?:models--Qwen--)?SAE-Res-(?P<model>[\w.-]+?)-W\d+K?-L0_(?P<k>\d{1,6})", re.ASCII
)
"""Names of the releases' folders, also as the hub's cache has them."""


def _detects(files: SAEFiles) -> bool:
    # b_dec tells d: the matrices are the other way round than those of other formats with these names.
    return (
        files.weights.suffix == ".pt"
        and FILE.fullmatch(files.weights.name) is not None
        and files.names == KEYS
        and len(files.shape("W_enc")) == 2
        and files.shape("W_enc")[1:] == files.shape("b_dec")
    )


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:
    n_latents, d_in = files.matrix("W_enc")
    named = _release(files.weights)
    stated = int(named["k"]) if named is not None else None
    k = stated if stated is not None else overrides.k
    if k is None:
        message = (
            f"{files.weights}: got no k; expected a folder named like SAE-Res-…-L0_50, as the release "
            "is. Give k= to load_sae: the number after L0_."
        )
        raise SAEFormatError(message)
    file = FILE.fullmatch(files.weights.name)
    return Plan(
        "topk",
        d_in,
        n_latents,
        {
            "W_enc": Piece("W_enc", transposed=True),
            "b_enc": Piece("b_enc"),
            "W_dec": Piece("W_dec", transposed=True),
            "b_dec": Piece("b_dec"),
        },
        conventions={"k": k, "topk_relu": False, "subtract_b_dec": False},
        hook_point=HookPoint(int(file[1]), "resid_post") if file is not None else None,
        metadata=metadata_of(model=f"Qwen/{named['model']}" if named is not None else None),
        settled=frozenset({"k"}) if stated is None else frozenset(),
    )


def _release(weights: Path) -> re.Match[str] | None:
    matches = (RELEASE.fullmatch(part) for part in reversed(weights.parent.parts))
    return next((match for match in matches if match is not None), None)


FORMAT = ConvertedFormat("qwen_scope", _detects, _plan)
