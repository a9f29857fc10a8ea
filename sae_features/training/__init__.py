"""Training of sparse autoencoders on activations."""

from __future__ import annotations

from sae_features.training.settings import TrainingSettings
from sae_features.training.trainer import SAETrainer, TrainedSAE

__all__ = ["SAETrainer", "TrainedSAE", "TrainingSettings"]
