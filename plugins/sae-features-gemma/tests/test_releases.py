"""The tables of public SAEs: whole, of this family's models, and as their releases are."""

from __future__ import annotations

import re

import pytest

from sae_features import release_tables
from sae_features.sae_registry import known_sae
from sae_features_gemma import FAMILY

TABLES = [release_tables.table_of_package(reference) for reference in FAMILY.release_tables]
MODELS = r"google/gemma-"
KNOWN = [
    (
        "gemma-scope-2b-pt-transcoders/layer_12/width_16k/average_l0_6",
        "google/gemma-2-2b",
        12,
        "mlp_normalized",
    ),
    (
        "gemma-scope-2-4b-it-transcoders-all/layer_9_width_16k_l0_small_affine",
        "google/gemma-3-4b-it",
        9,
        "mlp_in",
    ),
    ("gemma-2b-res-jb/blocks.12.hook_resid_post", "google/gemma-2b", 12, "resid_post"),
]


def test_all_tables_that_are_packaged_are_declared():
    assert set(TABLES) == set(TABLES[0].parent.glob("*.json"))


def test_they_are_of_models_of_this_family():
    entries = [entry for table in TABLES for entry in release_tables.entries(table)]
    assert len(entries) == 12_395
    assert not [entry for entry in entries if not re.match(MODELS, entry["model"])]


@pytest.mark.parametrize(("sae_id", "model", "layer", "site"), KNOWN)
def test_some_are_known(sae_id, model, layer, site):
    source = known_sae(sae_id)
    assert (source.model, source.layer, source.site) == (model, layer, site)
