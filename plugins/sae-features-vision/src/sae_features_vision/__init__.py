"""Vision transformers for sae-features: ViT, DINOv2 and 3, the vision towers of CLIP and SigLIP."""

from __future__ import annotations

from dataclasses import replace

from sae_features.architectures import Architecture, Patches
from sae_features.families import ModelFamily, ModelSource, SAESource

PATCHES = Patches()
# hidden_states[-1] is before the last norm in all of them.
CLIP = Architecture(
    "clip_vision_model",
    (PATCHES,),
    loader="CLIPVisionModelWithProjection",
    final_norm=False,
    embedding="image_embeds",
)
SIGLIP = Architecture(
    "siglip_vision_model",
    (Patches(class_token=False),),
    loader="SiglipVisionModel",
    final_norm=False,
    embedding="pooler_output",
)
DINO = Architecture("dinov2", (PATCHES,), final_norm=False, embedding="pooler_output")

FAMILY = ModelFamily(
    name="vision",
    architectures=(
        Architecture("vit", (PATCHES,), final_norm=False),
        DINO,
        replace(DINO, model_type="dinov2_with_registers"),
        replace(DINO, model_type="dinov3_vit"),
        CLIP,
        replace(CLIP, model_type="clip", config="vision_config"),
        SIGLIP,
        replace(SIGLIP, model_type="siglip", config="vision_config"),
    ),
    aliases={"dinov2-small": ModelSource(asset="dinov2-small")},
    saes=(
        SAESource(
            sae_id="dinov2-topk-4k/layer_6",
            model="dinov2-small",
            layer=6,
            package="sae_features_vision",
            package_path="saes/dinov2-topk-4k/layer_6",
            format="sae-features",
            is_default=True,
        ),
    ),
    release_tables=("sae_features_vision:releases/vision.json",),
)
