"""Qwen 2, 2.5 and 3: what is read is what transformers computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from sae_features import list_families, load_backbone
from sae_features.families import API_VERSION, families
from sae_features.hook_point import HookPoint
from sae_features.models import find_model
from sae_features.testing import parametrize_with_family_checks, write_tiny
from sae_features_qwen import FAMILY

DENSE = "resid_pre, resid_post, resid_mid, attn_out, attn_z, mlp_in, mlp_normalized, mlp_hidden, mlp_out"
SITES = {
    "qwen2": DENSE,
    "qwen3": DENSE,
    "qwen3_moe": DENSE.replace("mlp_hidden, ", ""),  # every token has activations of its own experts
}
TEXTS = ["the river flows", "rain"]


@parametrize_with_family_checks(FAMILY)
def test_conformance(check):
    check()


@pytest.fixture(scope="module", params=SITES)
def folder(request, tmp_path_factory):
    """A small random model; its tokenizer adds nothing, as Qwen's."""
    place = tmp_path_factory.mktemp(request.param) / request.param
    return write_tiny(FAMILY.architecture(request.param), place, template="plain")


def assert_close(values, expected):
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_it_is_registered_under_its_own_name():
    record = list_families()["qwen"]
    assert (record.distribution, record.value) == ("sae-features-qwen", "sae_features_qwen:FAMILY")
    assert families()["qwen"] is FAMILY
    assert (FAMILY.name, FAMILY.api_version) == ("qwen", API_VERSION)
    assert FAMILY.model_types == ("qwen2", "qwen3", "qwen3_moe")


def test_values_are_hidden_states(folder):
    backbone = load_backbone(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    encoded = backbone.tokenizer(TEXTS[:1], return_tensors="pt")
    with torch.inference_mode():
        states = model(input_ids=encoded["input_ids"], output_hidden_states=True).hidden_states
    for layer in range(3):
        found = torch.from_numpy(backbone.activations(TEXTS[:1], layer=layer).values)
        assert_close(found, states[layer + 1][0, 1:])  # without a BOS, the first token is a sink


def test_the_first_token_is_context(folder):
    backbone = load_backbone(folder)
    content = backbone.activations(TEXTS, layer=1)
    everything = backbone.activations(TEXTS, layer=1, tokens="all")
    assert np.diff(content.offsets).tolist() == [14, 3]
    assert np.diff(everything.offsets).tolist() == [15, 4]
    np.testing.assert_array_equal(content[1], everything[1][1:])


def test_with_a_prompt_every_token_of_the_text_is_content(folder):
    acts = load_backbone(folder).activations(TEXTS, layer=1, prompt="say: {}")
    assert np.diff(acts.offsets).tolist() == [15, 4]


def test_sites_are_what_the_block_computes(folder):
    backbone = load_backbone(folder)
    assert ", ".join(backbone.sites) == SITES[folder.name]
    found = backbone.activations(TEXTS, points=[(1, site) for site in backbone.sites], tokens="all")
    x = {site: torch.from_numpy(acts.values) for (_, site), acts in found.items()}
    block = backbone.stack.blocks[1]
    assert_close(x["resid_mid"], x["resid_pre"] + x["attn_out"])
    assert_close(x["resid_post"], x["resid_mid"] + x["mlp_out"])
    with torch.inference_mode():
        assert_close(x["attn_out"], block.self_attn.o_proj(x["attn_z"]))
        assert_close(x["mlp_in"], block.post_attention_layernorm(x["resid_mid"]))
        assert_close(x["mlp_normalized"] * block.post_attention_layernorm.weight, x["mlp_in"])
        added = block.mlp(x["mlp_in"][None])
        added = added[0] if isinstance(added, tuple) else added  # with logits of the router
        assert_close(x["mlp_out"], added.reshape(x["mlp_in"].shape))


@pytest.mark.parametrize("name", ["layers.2.mlp", "blocks.2.hook_mlp_out"])
def test_names_of_other_libraries(folder, name):
    files = find_model(folder)
    assert files.parse(name) == load_backbone(folder).parse(name) == HookPoint(2, "mlp_out")
