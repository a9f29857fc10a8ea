"""Where the sites of a block are."""

from __future__ import annotations

import pytest
import torch
from tiny import SITES_OF_BERT
from torch import nn

from sae_features.backbones.hooks import read_points
from sae_features.backbones.sites import (
    Stack,
    count_layer,
    find_blocks,
    find_stack,
    normalize,
    parse_point,
)
from sae_features.errors import CheckpointError, InvalidParameterError
from sae_features.hook_point import HookPoint

N_LAYERS = 3


class Lists(nn.Module):
    def __init__(self, **lists):
        super().__init__()
        for name, length in lists.items():
            setattr(self, name, nn.ModuleList(nn.Linear(2, 2) for _ in range(length)))


class TestFindBlocks:
    def test_of_real_architectures(self, bert, xlmr):
        assert find_blocks(bert.model, N_LAYERS) is bert.model.encoder.layer
        assert find_blocks(xlmr.model, N_LAYERS) is xlmr.model.encoder.layer

    def test_the_outermost_list_of_that_length(self):
        model = Lists(blocks=2, other=3)
        for block in model.blocks:
            block.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
        assert find_blocks(model, 2) is model.blocks

    def test_none_or_several_are_an_error(self):
        with pytest.raises(CheckpointError) as raised:
            find_blocks(Lists(encoder=2, decoder=2), 2)
        assert str(raised.value) == (
            "Found 2 lists of 2 blocks in Lists; expected one. This architecture needs a family of its "
            "own."
        )
        with pytest.raises(CheckpointError, match="^Found 0 lists of 4 blocks in Lists;"):
            find_blocks(Lists(encoder=2), 4)


class TestFindStack:
    def test_blocks_of_a_tower(self):
        model = Lists(encoder=2, decoder=2)
        model.vision = Lists(layers=2)
        stack = find_stack(model, 2, "vision", {})
        assert stack.blocks is model.vision.layers

    def test_a_tower_that_is_not_there(self):
        with pytest.raises(CheckpointError) as raised:
            find_stack(Lists(layers=2), 2, "vision", {})
        assert str(raised.value) == "Lists has no module 'vision'; expected its blocks there."


class TestCountLayer:
    @pytest.mark.parametrize(("layer", "expected"), [(0, 0), (2, 2), (-1, 2), (-3, 0)])
    def test_layers_count_from_0(self, bert, layer, expected):
        assert count_layer(layer, N_LAYERS) == expected
        assert bert.parse(HookPoint(layer, "resid_pre")) == HookPoint(expected, "resid_pre")

    @pytest.mark.parametrize("layer", [3, -4])
    def test_a_layer_out_of_range(self, bert, layer):
        message = f"Got layer={layer}; expected 0 to 2 (or -3 to -1): the model has 3 blocks."
        for call in (lambda: count_layer(layer, N_LAYERS), lambda: bert.parse(HookPoint(layer))):
            with pytest.raises(InvalidParameterError) as raised:
                call()
            assert str(raised.value) == message

    @pytest.mark.parametrize("layer", [True, "1", 1.0, None])
    def test_what_is_no_number(self, layer):
        with pytest.raises(InvalidParameterError) as raised:
            count_layer(layer, N_LAYERS)
        assert str(raised.value) == f"Got layer={layer!r}; expected an integer."


class TestStack:
    @pytest.mark.parametrize("name", ["bert", "xlmr"])
    def test_sites_of_a_post_norm_block_add_up(self, request, name):
        """By the arithmetic of the block: each sum, norm and projection made here once more."""
        backbone = request.getfixturevalue(name)
        block, sites = backbone.stack.blocks[1], backbone.stack.sites(1)
        assert ", ".join(sites) == SITES_OF_BERT
        ids = torch.tensor([[2, 30, 31, 32, 3]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        points = {site: HookPoint(1, site) for site in sites}
        taps = {point: backbone.stack.tap(point) for point in points.values()}
        read, _ = read_points(backbone.model, taps, inputs)
        at = {site: read[point] for site, point in points.items()}
        with torch.inference_mode():
            self._equal(at["attn_out"], block.attention.output.dense(at["attn_z"]))
            self._equal(
                at["resid_mid"], block.attention.output.LayerNorm(at["resid_pre"] + at["attn_out"])
            )
            self._equal(at["mlp_in"], at["resid_mid"])
            self._equal(at["mlp_hidden"], block.intermediate(at["mlp_in"]))
            self._equal(at["mlp_out"], block.output.dense(at["mlp_hidden"]))
            self._equal(at["resid_post"], block.output.LayerNorm(at["resid_mid"] + at["mlp_out"]))

    def test_widths(self, bert):
        widths = {site: bert.width(HookPoint(0, site)) for site in bert.sites}
        assert widths == dict.fromkeys(bert.sites, 32) | {"mlp_hidden": 64}

    @pytest.mark.parametrize("site", ["mlp_normalized", "embedding", "resid"])
    def test_a_site_that_a_block_lacks(self, bert, site):
        with pytest.raises(InvalidParameterError) as raised:
            bert.stack.tap(HookPoint(0, site))
        assert str(raised.value) == (
            f"Got site='{site}', which block 0 of this model does not have; it has {SITES_OF_BERT}."
            + (" Did you mean 'resid_pre'?" if site == "resid" else "")
        )

    def test_exceptions_go_before_what_the_names_say(self, bert):
        blocks = bert.stack.blocks
        stack = Stack(blocks, {"mlp_out": ("output:out",), "mlp_in": (), "attn_out": ("absent:out",)})
        assert stack.tap(HookPoint(1, "mlp_out")) == (blocks[1].output, "out")
        assert stack.sites() == (
            "resid_pre",
            "resid_post",
            "resid_mid",
            "attn_z",
            "mlp_hidden",
            "mlp_out",
        )

    @staticmethod
    def _equal(values, expected):
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)


class TestParsePoint:
    @pytest.mark.parametrize(
        ("name", "point"),
        [
            ("blocks.1.hook_resid_post", HookPoint(1)),
            ("encoder.layer.2", HookPoint(2)),
            ("encoder.layer.1.attention.output.dense", HookPoint(1, "attn_out")),
            ("encoder.layer.1.attention.output.dense.input", HookPoint(1, "attn_z")),
            ("encoder.layer.0.output.dense.input", HookPoint(0, "mlp_hidden")),
            ("encoder.layer.0.output.dense.output", HookPoint(0, "mlp_out")),
        ],
    )
    def test_names_of_modules_in_this_model(self, bert, name, point):
        assert parse_point(name, bert.stack, bert.sites) == bert.parse(name) == point

    @pytest.mark.parametrize(
        "name", ["encoder.layer.1.attention", "encoder.layer.9.output.dense", "nowhere", ""]
    )
    def test_names_that_no_site_stands_for(self, bert, name):
        with pytest.raises(InvalidParameterError) as raised:
            parse_point(name, bert.stack, bert.sites)
        assert str(raised.value) == (
            f"Got the hook point {name!r}, which no site of this model stands for; expected a name such "
            "as 'blocks.3.hook_resid_post' or 'model.layers.3.output', or a pair (layer, site) with one "
            f"of {SITES_OF_BERT}."
        )


class TestNormalize:
    x = torch.tensor([[3.0, -1.0, 4.0, 2.0]])

    def test_of_a_layer_norm_it_is_without_gain_and_bias(self):
        norm = nn.LayerNorm(4)
        nn.init.constant_(norm.weight, 7.0)
        nn.init.constant_(norm.bias, 5.0)
        expected = (self.x - 2.0) / (3.5 + norm.eps) ** 0.5
        torch.testing.assert_close(normalize(norm, self.x), expected)
        with torch.inference_mode():
            torch.testing.assert_close(norm(self.x), 7 * expected + 5)

    @pytest.mark.parametrize("name", ["eps", "variance_epsilon"])
    def test_of_an_rms_norm(self, name):
        norm = nn.Module()
        setattr(norm, name, 0.5)
        torch.testing.assert_close(normalize(norm, self.x), self.x / 8**0.5)  # (30 / 4 + 0.5) ** 0.5

    def test_it_is_computed_in_float32(self):
        assert normalize(nn.LayerNorm(4).half(), self.x.half()).dtype == torch.float32

    def test_what_is_no_norm(self):
        with pytest.raises(CheckpointError, match="^Identity is neither a LayerNorm nor an RMSNorm"):
            normalize(nn.Identity(), self.x)
