"""The tables of public SAEs: whole, of this family's models, and as their releases are."""

from __future__ import annotations

import re

import pytest

from sae_features import release_tables
from sae_features.sae_registry import known_sae
from sae_features_vision import FAMILY

TABLES = [release_tables.table_of_package(reference) for reference in FAMILY.release_tables]
MODELS = r"laion/CLIP-|openai/clip-|facebook/dinov2-|imageomics/bioclip$"
KNOWN = [
    (
        "prisma-clip-b-32-vanilla-x64/layer_2_resid_post",
        "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
        2,
        "resid_post",
    ),
    ("SAE_DINOv2_24K_ViT-B-14_IN1K/layer_10", "facebook/dinov2-with-registers-base", 10, "resid_post"),
]


def test_all_tables_that_are_packaged_are_declared():
    assert set(TABLES) == set(TABLES[0].parent.glob("*.json"))


def test_they_are_of_models_of_this_family():
    entries = [entry for table in TABLES for entry in release_tables.entries(table)]
    assert len(entries) == 62
    assert not [entry for entry in entries if not re.match(MODELS, entry["model"])]


@pytest.mark.parametrize(("sae_id", "model", "layer", "site"), KNOWN)
def test_some_are_known(sae_id, model, layer, site):
    source = known_sae(sae_id)
    assert (source.model, source.layer, source.site) == (model, layer, site)
