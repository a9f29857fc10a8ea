"""Readable features for scikit-learn: sparse autoencoders on pretrained models.

Importing this package imports neither torch nor transformers: public names are loaded on use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_features.binarizer import LatentBinarizer
    from sae_features.errors import SAEFeaturesError, SAEFeaturesWarning
    from sae_features.families import list_families
    from sae_features.featurizer import ActivationFeaturizer, SAEFeaturizer
    from sae_features.releases import load_sae
    from sae_features.saes.autoencoder import SparseAutoencoder
    from sae_features.selection import LatentSelector
    from sae_features.training.transformer import SparseAutoencoderTransformer
    from sae_features.weights import load_backbone

__version__ = "0.1.0"

__all__ = [
    "ActivationFeaturizer",
    "LatentBinarizer",
    "LatentSelector",
    "SAEFeaturesError",
    "SAEFeaturesWarning",
    "SAEFeaturizer",
    "SparseAutoencoder",
    "SparseAutoencoderTransformer",
    "__version__",
    "list_families",
    "load_backbone",
    "load_sae",
]

_HOMES = {
    "ActivationFeaturizer": "featurizer",
    "LatentBinarizer": "binarizer",
    "LatentSelector": "selection",
    "SAEFeaturesError": "errors",
    "SAEFeaturesWarning": "errors",
    "SAEFeaturizer": "featurizer",
    "SparseAutoencoder": "saes.autoencoder",
    "SparseAutoencoderTransformer": "training.transformer",
    "list_families": "families",
    "load_backbone": "weights",
    "load_sae": "releases",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
