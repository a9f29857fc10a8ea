"""The tables of public SAEs: whole, of this family's models, and as their releases are."""

from __future__ import annotations

import re

import pytest

from sae_features import release_tables
from sae_features.sae_registry import known_sae
from sae_features_qwen import FAMILY

TABLES = [release_tables.table_of_package(reference) for reference in FAMILY.release_tables]
MODELS = r"Qwen/|deepseek-ai/DeepSeek-R1-Distill-Qwen-"
KNOWN = [
    ("mwhanna-qwen3-0.6b-transcoders-lowl0/layer_4", "Qwen/Qwen3-0.6B", 4, "mlp_in"),
    ("qwen-scope-3-8b-base-w64k-l100/layer7", "Qwen/Qwen3-8B-Base", 7, "resid_post"),
    (
        "sae-DeepSeek-R1-Distill-Qwen-1.5B-65k/layers.5.mlp",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        5,
        "mlp_out",
    ),
]


def test_all_tables_that_are_packaged_are_declared():
    assert set(TABLES) == set(TABLES[0].parent.glob("*.json"))


def test_they_are_of_models_of_this_family():
    entries = [entry for table in TABLES for entry in release_tables.entries(table)]
    assert len(entries) == 787
    assert not [entry for entry in entries if not re.match(MODELS, entry["model"])]


@pytest.mark.parametrize(("sae_id", "model", "layer", "site"), KNOWN)
def test_some_are_known(sae_id, model, layer, site):
    source = known_sae(sae_id)
    assert (source.model, source.layer, source.site) == (model, layer, site)
