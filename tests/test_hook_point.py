"""Hook points: a layer counted from 0 and a site."""

from __future__ import annotations

import time

import pytest

from sae_features.hook_point import SITES, HookPoint, parse_hook_name
from sae_features.saes.formats.saelens_writer import NAMES


def test_the_default_site_is_the_output_of_the_block():
    point = HookPoint(12)
    assert point == HookPoint(layer=12, site="resid_post") == (12, "resid_post")
    assert str(point) == "layer 12, resid_post"
    assert point.site in SITES


def test_sites_differ():
    assert len({HookPoint(0, site) for site in SITES}) == len(SITES) == 10


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("blocks.0.hook_resid_pre", HookPoint(0, "resid_pre")),
        ("blocks.12.hook_resid_post", HookPoint(12, "resid_post")),
        ("blocks.3.hook_resid_mid", HookPoint(3, "resid_mid")),
        ("blocks.3.hook_attn_out", HookPoint(3, "attn_out")),
        ("blocks.3.hook_mlp_out", HookPoint(3, "mlp_out")),
        ("blocks.3.attn.hook_z", HookPoint(3, "attn_z")),
        ("blocks.3.mlp.hook_post", HookPoint(3, "mlp_hidden")),
        ("blocks.3.mlp.hook_in", HookPoint(3, "mlp_in")),
        ("blocks.3.ln2.hook_normalized", HookPoint(3, "mlp_normalized")),
        ("model.layers.3.pre_feedforward_layernorm.output", HookPoint(3, "mlp_in")),
        ("layers.3", HookPoint(3, "resid_post")),
        ("model.layers.12", HookPoint(12, "resid_post")),
        ("model.layers.12.output", HookPoint(12, "resid_post")),
        ("model.layers.12.input", HookPoint(12, "resid_pre")),
        ("model.language_model.layers.3", HookPoint(3, "resid_post")),
        ("h.3", HookPoint(3, "resid_post")),
        ("transformer.h.3", HookPoint(3, "resid_post")),
        ("gpt_neox.layers.3", HookPoint(3, "resid_post")),
        ("encoder.layer.3", HookPoint(3, "resid_post")),
        ("gpt_neox.layers.3.mlp", HookPoint(3, "mlp_out")),
        ("h.3.mlp", HookPoint(3, "mlp_out")),
        ("model.layers.3.post_feedforward_layernorm.output", HookPoint(3, "mlp_out")),
        ("model.layers.3.mlp.down_proj.input", HookPoint(3, "mlp_hidden")),
        ("transformer.h.3.mlp.c_proj.input", HookPoint(3, "mlp_hidden")),
        ("gpt_neox.layers.3.mlp.dense_4h_to_h.input", HookPoint(3, "mlp_hidden")),
        ("h.3.attn", HookPoint(3, "attn_out")),
        ("gpt_neox.layers.3.attention", HookPoint(3, "attn_out")),
        ("model.layers.3.self_attn.o_proj.input", HookPoint(3, "attn_z")),
        ("transformer.h.3.attn.c_proj.input", HookPoint(3, "attn_z")),
        ("gpt_neox.layers.3.attention.dense.input", HookPoint(3, "attn_z")),
    ],
)
def test_names_of_other_libraries(name, point):
    assert parse_hook_name(name) == point


@pytest.mark.parametrize(
    "name",
    [
        None, 3, ["layers.3"], "", "layers", "layers.", "layers.x", "layers.-1", "layers.3.",
        "layers.3.q", "layers.12345", "layers.3.mlp.gate_proj", "layers.3.mlp.input", "layers.٣",
        "layers.3.mlp", "layers.3.self_attn", "layers.3\n", " layers.3", "my-layers.3", "blocks.3",
        "blocks.3.", "hook_embed", "blocks.x.hook_resid_post", "blocks.3.hook_resid_post.",
        "blocks.3.ln1.hook_normalized", "blocks.3.hook_mlp_in", "blocks.3.attn.hook_q",
        "blocks.3.hook_z", "blocks.٣.hook_resid_post", "blocks.12345.hook_resid_post", "a" * 100_000,
    ],
    ids=lambda name: repr(name)[:40],
)  # fmt: skip
def test_names_that_say_nothing_that_every_family_understands_alike(name):
    assert parse_hook_name(name) is None


def test_a_long_name_is_read_in_no_time():
    before = time.perf_counter()
    assert parse_hook_name("a." * 20_000 + "layers.3.q") is None
    assert parse_hook_name("layers.1." * 10_000) is None
    assert time.perf_counter() - before < 2


@pytest.mark.parametrize("layer", [0, 7, 31])
def test_names_written_for_saelens_are_read_back(layer):
    for site, name in NAMES.items():
        assert parse_hook_name(f"blocks.{layer}.{name}") == HookPoint(layer, site)
    assert set(NAMES) == set(SITES) - {"embedding"}  # of a pooled vector TransformerLens has none
