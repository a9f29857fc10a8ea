"""The tables of public SAEs: whole, of this family's models, and as their releases are."""

from __future__ import annotations

import re

import pytest

from sae_features import release_tables
from sae_features.sae_registry import known_sae
from sae_features_gpt import FAMILY

TABLES = [release_tables.table_of_package(reference) for reference in FAMILY.release_tables]
MODELS = r"openai-community/gpt2$|openai/gpt-oss-|EleutherAI/pythia-"
KNOWN = [
    ("gpt2-small-res-jb/blocks.8.hook_resid_pre", "openai-community/gpt2", 8, "resid_pre"),
    (
        "pythia-70m-deduped-res-sm/blocks.0.hook_resid_pre",
        "EleutherAI/pythia-70m-deduped",
        0,
        "resid_pre",
    ),
    ("sae-pythia-160m-32k/layers.7.mlp", "EleutherAI/pythia-160m", 7, "mlp_out"),
]


def test_all_tables_that_are_packaged_are_declared():
    assert set(TABLES) == set(TABLES[0].parent.glob("*.json"))


def test_they_are_of_models_of_this_family():
    entries = [entry for table in TABLES for entry in release_tables.entries(table)]
    assert len(entries) == 522
    assert not [entry for entry in entries if not re.match(MODELS, entry["model"])]


@pytest.mark.parametrize(("sae_id", "model", "layer", "site"), KNOWN)
def test_some_are_known(sae_id, model, layer, site):
    source = known_sae(sae_id)
    assert (source.model, source.layer, source.site) == (model, layer, site)
