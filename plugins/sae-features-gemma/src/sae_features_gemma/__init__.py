"""Gemma for sae-features: Gemma 1, 2 and 3, and the image tokens of PaliGemma and Gemma 3."""

from __future__ import annotations

from sae_features.architectures import Architecture, ImageTokens, Text, Variant
from sae_features.families import ModelFamily

POST_NORMS = {
    "resid_mid": ("pre_feedforward_layernorm:in",),
    "attn_out": ("post_attention_layernorm:out",),
    "mlp_normalized": ("pre_feedforward_layernorm:normalized",),
    "mlp_out": ("post_feedforward_layernorm:out",),
}
"""Gemma 2 and 3 have norms behind attention and MLP, too: what these give is added to the stream."""
TEXT = Text(first_token_is_sink=True)

FAMILY = ModelFamily(
    name="gemma",
    architectures=(
        Architecture("gemma", (TEXT,)),
        Architecture("gemma2", (TEXT,), sites=POST_NORMS),
        Architecture("gemma3_text", (TEXT,), sites=POST_NORMS),
        Architecture(
            "gemma3",
            (TEXT, ImageTokens("Gemma3Processor")),
            tower="language_model",
            config="text_config",
            sites=POST_NORMS,
            tiny={"text_config": {"model_type": "gemma3_text"}},
        ),
        Architecture(  # PaliGemma 2 has the text tower of Gemma 2, PaliGemma that of Gemma 1
            "paligemma",
            (ImageTokens("PaliGemmaProcessor", image_first=True),),
            tower="language_model",
            config="text_config",
            variants=(Variant({"model_type": "gemma2"}, POST_NORMS),),
        ),
    ),
    release_tables=(
        "sae_features_gemma:releases/saelens_gemma.json",
        "sae_features_gemma:releases/saelens_gemma3.json",
    ),
)
