"""What latents are called in what people read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sae_features.featurizer import FEATURE_NAMES, SAEFeaturizer
from sae_features.saes.labels import read_labels
from sae_features.targets import Request, resolve_sae

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.base import BaseFeaturizer


def latent_labels(featurizer: BaseFeaturizer) -> Mapping[int, str]:
    """Return the labels of a featurizer's latents: those of its SAE, or of the file that it names.

    Parameters
    ----------
    featurizer : SAEFeaturizer or ActivationFeaturizer
        Whatever its ``feature_names`` are; an ActivationFeaturizer has none.

    Returns
    -------
    mapping of int to str
        Not every latent has one; empty where the SAE has no labels.

    Examples
    --------
    >>> from sae_features import SAEFeaturizer
    >>> labels = latent_labels(SAEFeaturizer())
    >>> max(labels) < 4096, isinstance(labels[min(labels)], str)
    (True, True)
    """
    if not isinstance(featurizer, SAEFeaturizer):
        return {}
    sae = resolve_sae(Request(featurizer.model, featurizer.layer, featurizer.site, featurizer.sae))
    if featurizer.feature_names in FEATURE_NAMES:
        return sae.labels
    return read_labels(Path(featurizer.feature_names).expanduser(), sae.n_latents)


def unit_of(featurizer: BaseFeaturizer) -> str:
    """Return what a column of a featurizer is called: ``"latent"`` or ``"activation"``."""
    return "latent" if isinstance(featurizer, SAEFeaturizer) else "activation"


def shown_latent(latent: int, label: str | None = None, unit: str = "latent") -> str:
    """Return a latent as people read it.

    Examples
    --------
    >>> shown_latent(12, "refund request"), shown_latent(7)
    ('"refund request" (latent 12)', 'latent 7')
    """
    return f"{unit} {latent}" if not label else f'"{label}" ({unit} {latent})'
