"""The tables of public SAEs: whole, of this family's models, and as their releases are."""

from __future__ import annotations

import re

import pytest

from sae_features import release_tables
from sae_features.sae_registry import known_sae
from sae_features_llama import FAMILY

TABLES = [release_tables.table_of_package(reference) for reference in FAMILY.release_tables]
MODELS = r"meta-llama/|mistralai/|deepseek-ai/DeepSeek-R1-Distill-Llama-"
KNOWN = [
    ("mistral-7b-res-wg/blocks.16.hook_resid_pre", "mistralai/Mistral-7B-v0.1", 16, "resid_pre"),
    ("llama_scope_lxtc_8x/l19tc_8x", "meta-llama/Llama-3.1-8B", 19, "mlp_normalized"),
    ("sae-Llama-3.2-1B-131k/layers.3.mlp", "meta-llama/Llama-3.2-1B", 3, "mlp_out"),
]


def test_all_tables_that_are_packaged_are_declared():
    assert set(TABLES) == set(TABLES[0].parent.glob("*.json"))


def test_they_are_of_models_of_this_family():
    entries = [entry for table in TABLES for entry in release_tables.entries(table)]
    assert len(entries) == 436
    assert not [entry for entry in entries if not re.match(MODELS, entry["model"])]


@pytest.mark.parametrize(("sae_id", "model", "layer", "site"), KNOWN)
def test_some_are_known(sae_id, model, layer, site):
    source = known_sae(sae_id)
    assert (source.model, source.layer, source.site) == (model, layer, site)
