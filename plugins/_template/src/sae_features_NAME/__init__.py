"""NAME models for sae-features."""

from __future__ import annotations

from sae_features.architectures import Architecture, Text
from sae_features.families import ModelFamily

FAMILY = ModelFamily(
    name="NAME",
    architectures=(
        # A decoder's first token is an attention sink; encoders take Text(), vision models Patches().
        Architecture("MODEL_TYPE", (Text(first_token_is_sink=True),)),
    ),
)
