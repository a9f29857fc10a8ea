"""Llama and its kin for sae-features: Llama 2 and 3, Mistral, SmolLM2; and an SAE for SmolLM2-135M."""

from __future__ import annotations

from sae_features.architectures import Architecture, Text
from sae_features.families import ModelFamily, ModelSource, SAESource

TEXT = Text(first_token_is_sink=True)

FAMILY = ModelFamily(
    name="llama",
    architectures=(Architecture("llama", (TEXT,)), Architecture("mistral", (TEXT,))),
    aliases={"smollm2": ModelSource(asset="smollm2")},
    saes=(
        SAESource(
            sae_id="smollm2-topk-4k/layer_14",
            model="smollm2",
            layer=14,
            package="sae_features_llama",
            package_path="saes/smollm2-topk-4k/layer_14",
            format="sae-features",
            is_default=True,
        ),
    ),
    release_tables=(
        "sae_features_llama:releases/saelens_llama.json",
        "sae_features_llama:releases/eleutherai.json",
        "sae_features_llama:releases/others.json",
    ),
)
