"""GPT-2 and GPT-NeoX (Pythia) for sae-features, and the tables of their SAEs."""

from __future__ import annotations

from sae_features.architectures import Architecture, Text, Variant
from sae_features.families import ModelFamily

TEXT = Text(first_token_is_sink=True)

FAMILY = ModelFamily(
    name="gpt",
    architectures=(
        Architecture("gpt2", (TEXT,)),
        Architecture(
            "gpt_neox",
            (TEXT,),
            residual="parallel",  # attention and MLP read the same stream: there is nothing between
            sites={"resid_mid": ()},
            variants=(
                Variant(
                    {"use_parallel_residual": False},
                    {"resid_mid": ("post_attention_layernorm:in",)},
                    "pre_norm",
                ),
            ),
        ),
    ),
    release_tables=(
        "sae_features_gpt:releases/saelens_gpt.json",
        "sae_features_gpt:releases/eleutherai.json",
        "sae_features_gpt:releases/others.json",
    ),
)
