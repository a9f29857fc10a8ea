"""Every SAE that a plugin ships: whole, small, of its model, as its card says, good on other items."""

from __future__ import annotations

import json
import re

import pytest
import torch

from sae_features import SAEFeaturizer, load_backbone, load_sae
from sae_features.families import families
from sae_features.models import find_model
from sae_features.packaged_assets import fetch
from sae_features.releases import find_sae
from sae_features.sae_sources import sae_folder
from sae_features.targets import Request, resolve_target

MAX_BYTES = 10 * 10**6
SOURCES = [source for family in families().values() for source in family.saes]
DEFAULTS = {
    "minilm": "minilm-topk-4k/layer_3",
    "e5": "e5-topk-4k/layer_5",
    "smollm2": "smollm2-topk-4k/layer_14",
    "dinov2-small": "dinov2-topk-4k/layer_6",
}
WORST_FVU = {"minilm": 0.3, "e5": 0.3, "smollm2": 0.35, "dinov2-small": 0.2}
"""On a hundred items of other texts or pictures than those that the cards' figures are of."""


def held_out_items(model):
    """A hundred items of a test split."""
    if model == "dinov2-small":
        lines = (fetch("textile") / "labels.csv").read_text(encoding="utf-8").splitlines()[1:]
        files = [line.split(",")[0] for line in lines if line.endswith(",test")]
        return [fetch("textile") / file for file in files[::20]]
    lines = (fetch("vader") / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["text"] for row in rows if row["domain"] == "amazon"][:100]


def test_every_family_ships_what_is_listed_here():
    assert {source.model: source.sae_id for source in SOURCES if source.is_default} == DEFAULTS


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.sae_id)
def test_the_files_say_what_the_plugin_says(source):
    found = find_sae(source.sae_id)
    assert found.hook_point == (source.layer, source.site)
    assert found.header.dtype == "float16"
    assert found.header.nbytes < MAX_BYTES
    assert found.metadata["model"]["digest"] == find_model(source.model).weights_digest
    assert find_model(found.metadata["model"]["id"]).weights_digest == found.metadata["model"]["digest"]
    target = resolve_target(Request(source.model, layer=source.layer), with_sae=True)
    assert target.sae.name == source.sae_id


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.sae_id)
def test_the_card_gives_its_figures(source):
    card = (sae_folder(source).parent / "README.md").read_text(encoding="utf-8")
    row = rf"^\| {source.layer} \| [\d,]+ \| 0\.\d+ \| \d+\.\d \| \d+\.\d\d% \|"
    assert re.search(row, card, re.MULTILINE)
    assert source.sae_id.partition("/")[0] in card


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.sae_id)
def test_it_explains_held_out_activations(source):
    sae = load_sae(source.sae_id)
    norms = sae.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), atol=2e-3, rtol=0)
    items = held_out_items(source.model)
    limits = {} if source.model == "dinov2-small" else {"max_length": 256}
    acts = load_backbone(source.model).activations(items, layer=source.layer, **limits)
    x = torch.from_numpy(acts.values)
    latents = sae.encode(x)
    error = (x - sae.reconstruct(x)).square().sum()
    assert error / (x - x.mean(dim=0)).square().sum() < WORST_FVU[source.model]
    assert 0.9 * sae.k <= float((latents != 0).sum(dim=1).double().mean()) <= sae.k
    assert ((latents != 0).any(dim=0)).sum() > sae.n_latents / 8


@pytest.mark.parametrize("model", [m for m in DEFAULTS if m != "dinov2-small"])
def test_latents_of_text_models_have_labels(model):
    names = SAEFeaturizer(model, feature_names="label").get_feature_names_out()
    labelled = [name for name in names if not re.fullmatch(r"latent_\d+", name)]
    assert len(labelled) > 0.97 * len(names)
    assert len(set(names)) == len(names)
