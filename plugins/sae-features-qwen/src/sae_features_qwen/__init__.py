"""Qwen 2, 2.5 and 3 for sae-features, and the tables of their SAEs."""

from __future__ import annotations

from sae_features.architectures import Architecture, Text
from sae_features.families import ModelFamily

TEXT = Text(first_token_is_sink=True)
"""Qwen's tokenizers have no BOS: the first token takes its part."""

FAMILY = ModelFamily(
    name="qwen",
    architectures=(
        Architecture("qwen2", (TEXT,)),  # Qwen 2.5, too
        Architecture("qwen3", (TEXT,)),
        Architecture("qwen3_moe", (TEXT,)),
    ),
    release_tables=(
        "sae_features_qwen:releases/saelens_qwen.json",
        "sae_features_qwen:releases/eleutherai.json",
    ),
)
