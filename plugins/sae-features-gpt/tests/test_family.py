"""GPT-2 and GPT-NeoX: what is read is what transformers computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from sae_features import list_families, load_backbone
from sae_features.errors import InvalidParameterError
from sae_features.families import API_VERSION, families
from sae_features.hook_point import HookPoint
from sae_features.models import find_model
from sae_features.testing import check_family, parametrize_with_family_checks, write_tiny
from sae_features_gpt import FAMILY

TEXTS = ["the river flows", "rain"]
SITES = {
    "gpt2": "resid_pre, resid_post, resid_mid, attn_out, attn_z, mlp_in, mlp_normalized, mlp_hidden, "
    "mlp_out",
    "parallel": "resid_pre, resid_post, attn_out, attn_z, mlp_in, mlp_normalized, mlp_hidden, mlp_out",
    "sequential": "resid_pre, resid_post, resid_mid, attn_out, attn_z, mlp_in, mlp_normalized, "
    "mlp_hidden, mlp_out",
}
CONFIGS = {"gpt2": {}, "parallel": {}, "sequential": {"use_parallel_residual": False}}


@parametrize_with_family_checks(FAMILY)
def test_conformance(check):
    check()


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Folders of small random models, each written once."""
    root = tmp_path_factory.mktemp("gpt")

    def folder(name):
        place = root / name
        if not place.is_dir():
            model_type = "gpt2" if name == "gpt2" else "gpt_neox"
            write_tiny(FAMILY.architecture(model_type), place, **CONFIGS[name])
        return place

    return folder


def read(backbone, layer):
    """Return what stands at every site of a block, all tokens of the texts."""
    points = [(layer, site) for site in backbone.sites]
    found = backbone.activations(TEXTS, points=points, tokens="all")
    return {site: torch.from_numpy(acts.values) for (_, site), acts in found.items()}


def assert_close(values, expected):
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_it_is_registered_under_its_own_name():
    record = list_families()["gpt"]
    assert (record.distribution, record.value) == ("sae-features-gpt", "sae_features_gpt:FAMILY")
    assert families()["gpt"] is FAMILY
    assert (FAMILY.name, FAMILY.api_version) == ("gpt", API_VERSION)
    assert FAMILY.model_types == ("gpt2", "gpt_neox")


@pytest.mark.parametrize("name", CONFIGS)
def test_values_are_hidden_states(folder_of, name):
    backbone = load_backbone(folder_of(name))
    model = transformers.AutoModel.from_pretrained(folder_of(name)).eval()
    for text in TEXTS:
        encoded = backbone.tokenizer([text], return_tensors="pt")
        with torch.inference_mode():
            states = model(input_ids=encoded["input_ids"], output_hidden_states=True).hidden_states
        for layer in range(3):
            found = torch.from_numpy(backbone.activations([text], layer=layer).values)
            assert_close(found, states[layer + 1][0, 1:])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_skeleton_and_the_model_have_the_same_sites(folder_of, name):
    files = find_model(folder_of(name))
    backbone = load_backbone(files.folder)
    assert ", ".join(backbone.sites) == SITES[name]
    assert files._skeleton.sites == backbone.sites


class TestNeoX:
    def test_parallel_blocks_add_both_to_the_same_stream(self, folder_of):
        backbone = load_backbone(folder_of("parallel"))
        block, x = backbone.stack.blocks[1], read(backbone, 1)
        with torch.inference_mode():
            assert_close(x["attn_out"], block.attention.dense(x["attn_z"]))
            assert_close(x["mlp_in"], block.post_attention_layernorm(x["resid_pre"]))
            assert_close(x["mlp_out"], block.mlp(x["mlp_in"]))
        assert_close(x["resid_post"], x["resid_pre"] + x["attn_out"] + x["mlp_out"])

    def test_there_is_nothing_between_attention_and_mlp(self, folder_of):
        message = (
            "Got site='resid_mid', which block 1 of this model does not have; it has "
            f"{SITES['parallel']}."
        )
        with pytest.raises(InvalidParameterError) as raised:
            load_backbone(folder_of("parallel")).activations(TEXTS, layer=1, site="resid_mid")
        assert str(raised.value) == message
        with pytest.raises(InvalidParameterError) as raised:
            find_model(folder_of("parallel")).parse("blocks.1.hook_resid_mid")
        assert str(raised.value) == message

    def test_sequential_blocks_add_one_after_the_other(self, folder_of):
        backbone = load_backbone(folder_of("sequential"))
        block, x = backbone.stack.blocks[1], read(backbone, 1)
        assert_close(x["resid_mid"], x["resid_pre"] + x["attn_out"])
        assert_close(x["resid_post"], x["resid_mid"] + x["mlp_out"])
        with torch.inference_mode():
            assert_close(x["mlp_in"], block.post_attention_layernorm(x["resid_mid"]))

    def test_sequential_models_pass_the_kit(self, folder_of):
        results = check_family(FAMILY, folders=[folder_of("sequential")])
        assert {result.status for result in results} == {"passed"}


class TestGPT2:
    def test_projections_are_conv1d_and_tell_their_width(self, folder_of):
        files = find_model(folder_of("gpt2"))
        backbone = load_backbone(files.folder)
        assert type(backbone.stack.blocks[0].mlp.c_proj).__name__ == "Conv1D"
        expected = dict.fromkeys(backbone.sites, 32) | {"mlp_hidden": 128}  # 4 times as wide
        for site, width in expected.items():
            point = HookPoint(0, site)
            assert files.width(point) == backbone.width(point) == width
            assert backbone.activations(["rain"], layer=0, site=site).values.shape == (4, width)

    def test_sites_are_what_the_block_computes(self, folder_of):
        backbone = load_backbone(folder_of("gpt2"))
        block, x = backbone.stack.blocks[1], read(backbone, 1)
        with torch.inference_mode():
            assert_close(x["attn_out"], block.attn.c_proj(x["attn_z"]))
            assert_close(x["resid_mid"], x["resid_pre"] + x["attn_out"])
            assert_close(x["mlp_normalized"] * block.ln_2.weight + block.ln_2.bias, x["mlp_in"])
            assert_close(x["mlp_hidden"], block.mlp.act(block.mlp.c_fc(x["mlp_in"])))
            assert_close(x["mlp_out"], block.mlp.c_proj(x["mlp_hidden"]))
        assert_close(x["resid_post"], x["resid_mid"] + x["mlp_out"])


@pytest.mark.parametrize(
    ("name", "hook", "point"),
    [
        ("gpt2", "blocks.2.hook_resid_pre", (2, "resid_pre")),
        ("gpt2", "h.2", (2, "resid_post")),
        ("gpt2", "h.2.attn", (2, "attn_out")),
        ("gpt2", "transformer.h.2.mlp", (2, "mlp_out")),
        ("gpt2", "h.2.mlp.c_proj.input", (2, "mlp_hidden")),
        ("parallel", "gpt_neox.layers.3", (3, "resid_post")),
        ("parallel", "gpt_neox.layers.3.attention", (3, "attn_out")),
        ("parallel", "layers.3.mlp", (3, "mlp_out")),
        ("parallel", "gpt_neox.layers.3.mlp.dense_4h_to_h.input", (3, "mlp_hidden")),
        ("sequential", "blocks.3.hook_resid_mid", (3, "resid_mid")),
    ],
)
def test_names_of_other_libraries(folder_of, name, hook, point):
    files = find_model(folder_of(name))
    backbone = load_backbone(files.folder)
    assert files.parse(hook) == backbone.parse(hook) == HookPoint(*point)
    found = backbone.activations(TEXTS, points=[hook])
    alone = backbone.activations(TEXTS, layer=point[0], site=point[1])
    np.testing.assert_array_equal(found[point].values, alone.values)


def test_without_a_bos_the_first_token_is_a_sink(tmp_path):
    """GPT-2's own tokenizer adds nothing: the first token takes the part of a BOS."""
    backbone = load_backbone(write_tiny(FAMILY.architecture("gpt2"), tmp_path, template="plain"))
    acts = backbone.activations(["rain", "x"], layer=0)
    assert acts.offsets.tolist() == [0, 3, 4]  # a text of one token keeps it
    every = backbone.activations(["rain", "x"], layer=0, tokens="all")
    np.testing.assert_array_equal(acts[0], every[0][1:])
