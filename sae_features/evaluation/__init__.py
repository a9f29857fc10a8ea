"""Protocols: what features are worth, measured so that comparisons are paired and choices honest."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_features.evaluation.alignment import LatentAligner
    from sae_features.evaluation.behaviour import answer_by_likelihood
    from sae_features.evaluation.behaviour_labels import label_behaviour
    from sae_features.evaluation.explanation import explain
    from sae_features.evaluation.importance import latent_importance
    from sae_features.evaluation.labelled import LabelledItems
    from sae_features.evaluation.labelled_files import read_labelled
    from sae_features.evaluation.latents_across import language_bound, latent_overlap
    from sae_features.evaluation.methods import ModelChoice
    from sae_features.evaluation.moved_probe import move_probe
    from sae_features.evaluation.probe_moves import MovedProbes
    from sae_features.evaluation.results import Results
    from sae_features.evaluation.rules import decision_rules, latent_rules
    from sae_features.evaluation.strongest import strongest_latents
    from sae_features.evaluation.sweep import FeatureSweep
    from sae_features.evaluation.top_activations import top_items
    from sae_features.evaluation.transfer import CrossLingualTransfer

__all__ = [
    "CrossLingualTransfer",
    "FeatureSweep",
    "LabelledItems",
    "LatentAligner",
    "ModelChoice",
    "MovedProbes",
    "Results",
    "answer_by_likelihood",
    "decision_rules",
    "explain",
    "label_behaviour",
    "language_bound",
    "latent_importance",
    "latent_overlap",
    "latent_rules",
    "move_probe",
    "read_labelled",
    "strongest_latents",
    "top_items",
]

_HOMES = {
    "CrossLingualTransfer": "transfer",
    "FeatureSweep": "sweep",
    "LabelledItems": "labelled",
    "LatentAligner": "alignment",
    "ModelChoice": "methods",
    "MovedProbes": "probe_moves",
    "Results": "results",
    "answer_by_likelihood": "behaviour",
    "decision_rules": "rules",
    "explain": "explanation",
    "label_behaviour": "behaviour_labels",
    "language_bound": "latents_across",
    "latent_importance": "importance",
    "latent_overlap": "latents_across",
    "latent_rules": "rules",
    "move_probe": "moved_probe",
    "read_labelled": "labelled_files",
    "strongest_latents": "strongest",
    "top_items": "top_activations",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
