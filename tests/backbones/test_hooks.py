from __future__ import annotations

import pytest
import torch
from torch import nn

from sae_features.backbones.hooks import read_points, replace_point
from sae_features.backbones.sites import Stack, Tap, normalize
from sae_features.errors import CheckpointError, InvalidParameterError
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


WRITABLE = ("resid_pre", "resid_post", "attn_out", "attn_z", "mlp_in", "mlp_hidden", "mlp_out")


def last_state(model, inputs):
    with torch.inference_mode():
        return model(**inputs).last_hidden_state


class TestReplacePoint:
    @pytest.mark.parametrize("site", WRITABLE)
    def test_what_stands_there_is_replaced_and_all_that_follows(self, bert, inputs, site):
        point = HookPoint(1, site)
        tap, before = bert.stack.tap(point), last_state(bert.model, inputs)
        seen = []

        def same(value):
            seen.append(value)
            return value.clone()

        with replace_point(bert.model, point, tap, same):
            assert torch.equal(last_state(bert.model, inputs), before)
        with torch.inference_mode():
            (read_there,) = read(bert, [point], inputs).values()
        assert torch.equal(seen[0], read_there)
        with replace_point(bert.model, point, tap, torch.zeros_like):
            zeroed = last_state(bert.model, inputs)
        assert not torch.allclose(zeroed, before, atol=1e-2)
        assert torch.equal(last_state(bert.model, inputs), before)  # the hook is gone

    @pytest.mark.parametrize(
        ("point", "reader"),
        [
            (HookPoint(1), HookPoint(2, "resid_pre")),
            (HookPoint(1, "resid_pre"), HookPoint(1, "resid_pre")),
            (HookPoint(0, "mlp_hidden"), HookPoint(0, "mlp_hidden")),
        ],
    )
    def test_the_next_module_takes_what_was_put_there(self, bert, inputs, point, reader):
        def double(value):
            return 2 * value

        (before,) = read(bert, [point], inputs).values()
        with replace_point(bert.model, point, bert.stack.tap(point), double):
            (after,) = read(bert, [reader], inputs).values()
        assert torch.equal(after, 2 * before)

    def test_only_some_tokens(self, bert, inputs):
        point = HookPoint(2)

        def blank_one(value):
            new = value.clone()
            new[0, 1] = 0
            return new

        before = last_state(bert.model, inputs)
        with replace_point(bert.model, point, bert.stack.tap(point), blank_one):
            after = last_state(bert.model, inputs)
        assert not after[0, 1].any()
        others = torch.arange(after[0].shape[0]) != 1
        assert torch.equal(after[0, others], before[0, others])
        assert torch.equal(after[1], before[1])

    @pytest.mark.parametrize("gives_tuple", [True, False])
    def test_blocks_that_give_tuples_or_take_keywords(self, gives_tuple):
        class Block(nn.Module):
            def forward(self, hidden_states, factor=1):
                out = hidden_states * factor + 1
                return (out, "weights") if gives_tuple else out

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = nn.ModuleList([Block(), Block()])

            def forward(self, x):
                for block in self.blocks:
                    x = block(hidden_states=x, factor=2)
                    if gives_tuple:
                        assert x[1] == "weights"
                        x = x[0]
                return x

        model, x = Model(), torch.zeros(1, 1, 2)
        stack = Stack(model.blocks, {})
        for point, expected in ((HookPoint(0), 2 * 10 + 1), (HookPoint(1, "resid_pre"), 2 * 10 + 1)):
            with replace_point(model, point, stack.tap(point), lambda value: value + 9):
                assert model(x).unique().item() == expected  # 1 + 9, times 2, plus 1

    @pytest.mark.parametrize("kind", ["layer_norm", "bare", "weight", "one_plus_weight"])
    def test_what_a_norm_gives_before_its_gain(self, kind):
        class RMSNorm(nn.Module):
            eps = 1e-6

            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(8))

            def forward(self, x):
                return normalize(self, x) * (self.weight + (kind == "one_plus_weight"))

        torch.manual_seed(0)
        if kind in {"layer_norm", "bare"}:
            norm = nn.LayerNorm(8, elementwise_affine=kind == "layer_norm")
            if kind == "layer_norm":
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
        else:
            norm = RMSNorm()
        point, tap, x = HookPoint(0, "mlp_normalized"), Tap(norm, "normalized"), torch.randn(2, 3, 8)
        before = norm(x)
        with replace_point(norm, point, tap, torch.clone):
            assert torch.equal(norm(x), before)
        with replace_point(norm, point, tap, torch.zeros_like):
            zero = norm(x)
        bias = norm.bias if kind == "layer_norm" else torch.zeros(8)
        torch.testing.assert_close(zero, bias.expand(2, 3, 8), atol=1e-6, rtol=0)
        with replace_point(norm, point, tap, lambda value: 3 * value):
            torch.testing.assert_close(norm(x) - bias, 3 * (before - bias), atol=2e-6, rtol=1e-5)

    def test_places_that_cannot_be_written(self, bert):
        beside = (
            "^Got the hook point (layer 1, resid_mid), which can be read but not replaced: the resid"
        )
        made = "^Got the hook point (embedding), which can be read but not replaced: it is made of"
        for site, message in (("resid_mid", beside), ("embedding", made)):
            escaped = message.replace("(", "\\(").replace(")", "\\)")
            with (
                pytest.raises(InvalidParameterError, match=escaped),
                replace_point(bert.model, HookPoint(1, site), Tap(bert.model, "in"), torch.clone),
            ):
                pass

    def test_another_shape_is_an_error_and_the_hook_is_gone(self, bert, inputs):
        point, before = HookPoint(1), _count_hooks(bert.model)
        message = r"^Got activations of shape \(2, 5\); expected \(2, 5, 32\)\.$"
        with (
            pytest.raises(InvalidParameterError, match=message),
            replace_point(bert.model, point, bert.stack.tap(point), lambda value: value[..., 0]),
        ):
            last_state(bert.model, inputs)
        assert _count_hooks(bert.model) == before

    def test_a_model_that_did_not_run_past_the_point(self, bert):
        point = HookPoint(1)
        message = "^BertModel ran without using what is at layer 1, resid_post; expected it"
        with (
            pytest.raises(CheckpointError, match=message),
            replace_point(bert.model, point, bert.stack.tap(point), torch.clone),
        ):
            pass


def _count_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
