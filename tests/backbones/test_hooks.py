from __future__ import annotations

import pytest
import torch
from torch import nn

from sae_features.backbones.hooks import read_points
from sae_features.backbones.sites import Stack
from sae_features.hook_point import HookPoint

N_LAYERS = 3


@pytest.fixture
def inputs():
    ids = torch.tensor([[2, 90, 91, 92, 3], [2, 93, 94, 3, 0]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def read(backbone, points, inputs):
    """What stands at the points of a model, by name of the point."""
    taps = {point: backbone.stack.tap(point) for point in points}
    found, output = read_points(backbone.model, taps, inputs)
    assert output is None  # it was stopped
    return found


class TestReadPoints:
    @pytest.mark.parametrize("name", ["bert", "xlmr"])
    def test_they_are_the_hidden_states_of_transformers(self, request, inputs, name):
        backbone = request.getfixturevalue(name)
        with torch.inference_mode():
            hidden = backbone.model(**inputs, output_hidden_states=True).hidden_states
        assert len(hidden) == N_LAYERS + 1
        for layer in range(N_LAYERS):
            for site, state in (("resid_pre", hidden[layer]), ("resid_post", hidden[layer + 1])):
                point = HookPoint(layer, site)
                found = read(backbone, [point], inputs)
                assert list(found) == [point]
                assert torch.equal(found[point], state)
        assert not torch.allclose(hidden[1], hidden[2], atol=0.1)  # layers can be told apart

    def test_several_points_in_one_pass(self, bert, inputs):
        points = [
            HookPoint(2),
            HookPoint(0, "resid_pre"),
            HookPoint(1),
            HookPoint(2, "resid_pre"),
            HookPoint(1),
        ]
        runs = []
        handle = bert.model.embeddings.register_forward_hook(lambda *_: runs.append(1))
        together = read(bert, points, inputs)
        handle.remove()
        assert len(runs) == 1
        assert set(together) == set(points)
        for point in points:
            alone = read(bert, [point], inputs)
            assert torch.equal(together[point], alone[point])
        assert torch.equal(together[HookPoint(1)], together[HookPoint(2, "resid_pre")])

    @pytest.mark.parametrize(
        ("points", "last"),
        [
            ([HookPoint(0, "resid_pre")], None),
            ([HookPoint(1, "resid_pre")], 0),
            ([HookPoint(0)], 0),
            ([HookPoint(1), HookPoint(0)], 1),
            ([HookPoint(2, "resid_pre"), HookPoint(0)], 1),
            ([HookPoint(2)], 2),
        ],
    )
    def test_nothing_runs_after_the_last_point(self, bert, inputs, points, last):
        finished, handles = [], []
        for name, module in bert.model.named_modules():
            handles.append(
                module.register_forward_hook(lambda *_, name=name: finished.append(name), prepend=True)
            )
        try:
            read(bert, points, inputs)
        finally:
            for handle in handles:
                handle.remove()
        blocks = [name for name in finished if name.startswith("encoder.layer.")]
        assert {int(name.split(".")[2]) for name in blocks} == set(
            range(-1 if last is None else last + 1)
        )
        assert finished[-1] == ("embeddings" if last is None else f"encoder.layer.{last}")
        assert not {"", "encoder", "pooler"} & set(finished)

    def test_hooks_are_gone_afterwards(self, bert, inputs):
        before = _count_hooks(bert.model)
        read(bert, [HookPoint(0), HookPoint(1, "resid_pre")], inputs)
        assert _count_hooks(bert.model) == before

    def test_hooks_are_gone_after_an_error_and_the_error_is_raised(self, bert, inputs):
        before = _count_hooks(bert.model)
        beyond = {"input_ids": torch.tensor([[10**6]]), "attention_mask": torch.ones(1, 1)}
        with pytest.raises(IndexError):
            read(bert, [HookPoint(0), HookPoint(1, "resid_pre")], beyond)
        assert _count_hooks(bert.model) == before
        assert set(read(bert, [HookPoint(0)], inputs)) == {HookPoint(0)}

    def test_no_graph_is_kept(self, bert, inputs):
        found = read(bert, [HookPoint(0)], inputs)
        assert not found[HookPoint(0)].requires_grad

    def test_blocks_that_give_tuples_or_take_keywords(self):
        class Block(nn.Module):
            def forward(self, hidden_states):
                return (hidden_states + 1, "weights")

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = nn.ModuleList([Block(), Block()])

            def forward(self, x):
                for block in self.blocks:
                    x = block(hidden_states=x)[0]
                return x

        model, x = Model(), torch.zeros(1, 1, 2)
        points = [HookPoint(0, "resid_pre"), HookPoint(0), HookPoint(1, "resid_pre"), HookPoint(1)]
        stack = Stack(model.blocks, {})
        found, _ = read_points(model, {point: stack.tap(point) for point in points}, {"x": x})
        assert [found[point].unique().item() for point in points] == [0, 1, 1, 2]


def _count_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
