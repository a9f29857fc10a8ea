"""What each architecture minimises, as pure functions of parameters and a batch.

Each module has ``initial`` (parameters), ``step`` (losses by name, and what fired) and ``finished``
(what makes a :class:`~sae_features.SparseAutoencoder`).  Matrices have one row per latent.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sae_features.training.objectives.step import Objective


def objective_of(architecture: str) -> Objective:
    """Return the module of an architecture."""
    return cast("Objective", import_module(f"{__name__}.{architecture}"))
