"""Llama and Mistral: what is read is what transformers computes."""

from __future__ import annotations

import pytest
import torch
import transformers

from sae_features import list_families, load_backbone
from sae_features.families import API_VERSION, families
from sae_features.hook_point import HookPoint
from sae_features.models import find_model
from sae_features.testing import parametrize_with_family_checks, write_tiny
from sae_features_llama import FAMILY

SITES = "resid_pre, resid_post, resid_mid, attn_out, attn_z, mlp_in, mlp_normalized, mlp_hidden, mlp_out"
TEXTS = ["the river flows", "rain"]


@parametrize_with_family_checks(FAMILY)
def test_conformance(check):
    check()


@pytest.fixture(scope="module", params=["llama", "mistral"])
def folder(request, tmp_path_factory):
    """A small random model."""
    place = tmp_path_factory.mktemp(request.param) / "model"
    return write_tiny(FAMILY.architecture(request.param), place)


def assert_close(values, expected):
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_it_is_registered_under_its_own_name():
    record = list_families()["llama"]
    assert (record.distribution, record.value) == ("sae-features-llama", "sae_features_llama:FAMILY")
    assert families()["llama"] is FAMILY
    assert (FAMILY.name, FAMILY.api_version) == ("llama", API_VERSION)
    assert FAMILY.model_types == ("llama", "mistral")


def test_the_alias_is_made_of_a_package():
    assert FAMILY.aliases["smollm2"].asset == "smollm2"


def test_values_are_hidden_states(folder):
    backbone = load_backbone(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    encoded = backbone.tokenizer(TEXTS[:1], return_tensors="pt")
    with torch.inference_mode():
        states = model(input_ids=encoded["input_ids"], output_hidden_states=True).hidden_states
    for layer in range(3):
        found = torch.from_numpy(backbone.activations(TEXTS[:1], layer=layer).values)
        assert_close(found, states[layer + 1][0, 1:])


def test_the_last_block_is_read_before_the_final_norm(folder):
    backbone = load_backbone(folder)
    last = torch.from_numpy(backbone.activations(TEXTS[:1], tokens="all").values)
    encoded = backbone.tokenizer(TEXTS[:1], return_tensors="pt")
    with torch.inference_mode():
        expected = backbone.model(input_ids=encoded["input_ids"]).last_hidden_state[0]
        assert_close(backbone.model.norm(last), expected)


def test_sites_are_what_the_block_computes(folder):
    backbone = load_backbone(folder)
    assert ", ".join(backbone.sites) == SITES
    found = backbone.activations(TEXTS, points=[(1, site) for site in backbone.sites], tokens="all")
    x = {site: torch.from_numpy(acts.values) for (_, site), acts in found.items()}
    block = backbone.stack.blocks[1]
    with torch.inference_mode():
        assert_close(x["attn_out"], block.self_attn.o_proj(x["attn_z"]))
        assert_close(x["resid_mid"], x["resid_pre"] + x["attn_out"])
        assert_close(x["mlp_normalized"] * block.post_attention_layernorm.weight, x["mlp_in"])
        assert_close(x["mlp_in"], block.post_attention_layernorm(x["resid_mid"]))
        gate = block.mlp.act_fn(block.mlp.gate_proj(x["mlp_in"]))
        assert_close(x["mlp_hidden"], gate * block.mlp.up_proj(x["mlp_in"]))
        assert_close(x["mlp_out"], block.mlp.down_proj(x["mlp_hidden"]))
    assert_close(x["resid_post"], x["resid_mid"] + x["mlp_out"])


def test_widths(folder):
    files = find_model(folder)
    widths = {site: files.width(HookPoint(0, site)) for site in SITES.split(", ")}
    assert widths == dict.fromkeys(widths, 32) | {"attn_z": 24, "mlp_hidden": 48}


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("layers.2", "resid_post"),
        ("model.layers.2.input", "resid_pre"),
        ("layers.2.mlp", "mlp_out"),  # Gemma 2 has a norm behind it: there it is no site
        ("model.layers.2.mlp.output", "mlp_out"),
        ("layers.2.mlp.input", "mlp_in"),
        ("model.layers.2.self_attn", "attn_out"),
        ("model.layers.2.mlp.down_proj.input", "mlp_hidden"),
        ("blocks.2.hook_mlp_out", "mlp_out"),
    ],
)
def test_names_of_other_libraries(folder, name, site):
    files = find_model(folder)
    assert files.parse(name) == load_backbone(folder).parse(name) == HookPoint(2, site)
