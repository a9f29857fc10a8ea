"""Every layer of four real models against transformers alone; sites, batches, early stop."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

TOLERANCE = 1e-5
"""Relative to the largest value: of each token in the residual stream, of all tokens inside a block,
where what is small is a sum of what is large."""
LONE_TOLERANCE = 5e-5
"""The same for the only token of a text in a decoder: it is an attention sink, whose values of some
thousands cancel in the last blocks."""
ENDS = {"minilm": "pooler", "e5": "pooler", "smollm2": "norm", "dinov2-small": "layernorm"}
"""By model: what stands behind its blocks."""
PRE_NORM = ("smollm2", "dinov2-small")
"""Models that add to the residual stream without a norm behind."""


def error_of(found, expected, *, of_each_token=True):
    """The largest error, relative to the largest value."""
    assert found.shape == expected.shape
    largest = np.abs(expected).max(axis=1 if of_each_token else None, keepdims=True)
    return (np.abs(found - expected) / largest).max()


def assert_close(original, found, expected, *, of_each_token=True):
    is_lone = original.alias == "smollm2" and len(expected) == 1
    tolerance = LONE_TOLERANCE if is_lone else TOLERANCE
    assert error_of(found, expected, of_each_token=of_each_token) <= tolerance


@pytest.mark.parametrize("batch_size", [1, None])
def test_every_layer_equals_hidden_states(original, backbone, batch_size):
    layers = range(len(original.blocks))
    assert backbone.n_layers == len(layers)
    points = [(layer, site) for layer in layers for site in ("resid_pre", "resid_post")]
    acts = backbone.activations(original.items, points=points, batch_size=batch_size)
    in_batch = original.alias == "smollm2" and batch_size is None
    states = original.states_in_batch() if in_batch else map(original.states, original.items)
    for i, expected in enumerate(states):
        for layer in layers:
            assert_close(original, acts[layer, "resid_pre"][i], expected[layer])
            found = acts[layer, "resid_post"][i]
            if original.alias == "smollm2" and layer == layers[-1]:
                # The last hidden state is behind the final norm, and ours before it.
                assert error_of(found, expected[-1]) > 0.1
                found = applied(original.model.norm, found)
            assert_close(original, found, expected[layer + 1])


def test_attention_and_mlp_are_what_is_added_to_the_residual_stream(original, backbone):
    layers = range(backbone.n_layers)
    sites = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    points = [(layer, site) for layer in layers for site in sites]
    acts = backbone.activations(original.items[:3], points=points)
    for layer in layers:
        pre, attn_out, mid, mlp_out, post = (acts[layer, site].values for site in sites)
        if original.alias in PRE_NORM:
            np.testing.assert_array_equal(mid, pre + attn_out)
            np.testing.assert_array_equal(post, mid + mlp_out)
        else:
            block = original.blocks[layer]
            after_attention, after_mlp = block.attention.output.LayerNorm, block.output.LayerNorm
            assert error_of(mid, applied(after_attention, pre + attn_out)) <= TOLERANCE
            assert error_of(post, applied(after_mlp, mid + mlp_out)) <= TOLERANCE


def test_the_inside_of_a_block_is_what_its_own_projections_take(original, backbone):
    sites = ("attn_z", "attn_out", "mlp_in", "mlp_hidden", "mlp_out")
    layers = (0, backbone.n_layers // 2, backbone.n_layers - 1)
    points = [(layer, site) for layer in layers for site in sites]
    acts = backbone.activations(original.items[:3], points=points)
    for layer in layers:
        z, attn_out, mlp_in, hidden, mlp_out = (acts[layer, site].values for site in sites)
        from_z, from_hidden, to_hidden = projections(original.alias, original.blocks[layer])
        steps = ((from_z, z, attn_out), (to_hidden, mlp_in, hidden), (from_hidden, hidden, mlp_out))
        for module, before, after in steps:
            assert error_of(after, applied(module, before), of_each_token=False) <= TOLERANCE


def projections(alias, block):
    """The model's own ways from ``attn_z``, from ``mlp_hidden``, and from ``mlp_in`` to the latter."""
    if alias == "smollm2":
        mlp = block.mlp
        return (
            block.self_attn.o_proj,
            mlp.down_proj,
            lambda x: mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x),
        )
    if alias == "dinov2-small":
        mlp = block.mlp
        dense = getattr(block.attention, "o_proj", None) or block.attention.output.dense
        return (
            lambda x: block.layer_scale1(dense(x)),
            lambda x: block.layer_scale2(mlp.fc2(x)),
            lambda x: torch.nn.functional.gelu(mlp.fc1(x)),
        )
    return block.attention.output.dense, block.output.dense, block.intermediate


def applied(module, values):
    with torch.inference_mode():
        return module(torch.from_numpy(values)).numpy()


def test_values_do_not_depend_on_order_batch_or_company(original, backbone):
    items = original.items[:6]
    layers = (0, backbone.n_layers // 2, backbone.n_layers - 1)
    points = [(layer, site) for layer in layers for site in backbone.stack.sites()]
    alone = backbone.activations(items, points=points, batch_size=1)

    @settings(max_examples=8 if original.alias in {"minilm", "e5"} else 5, deadline=None, database=None)
    @given(data=st.data())
    def draw(data):
        order = data.draw(st.permutations(range(len(items))))
        chosen = order[: data.draw(st.integers(1, len(items)))]
        read = data.draw(st.lists(st.sampled_from(points), min_size=1, max_size=6, unique=True))
        batch_size = data.draw(st.sampled_from([None, 1, 2, 3, 64]))
        together = backbone.activations([items[i] for i in chosen], points=read, batch_size=batch_size)
        assert list(together) == read
        for point in read:
            for place, i in enumerate(chosen):
                is_residual = point[1].startswith("resid")
                assert_close(
                    original, together[point][place], alone[point][i], of_each_token=is_residual
                )

    draw()


def test_two_runs_give_the_same_bits(original, backbone):
    first, second = (backbone.activations(original.items[:3], layer=-1) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)


def test_nothing_runs_after_the_last_hook_point(original, backbone):
    names = {module: name for name, module in backbone.model.named_modules()}
    blocks = [names[block] for block in backbone.stack.blocks]
    item = original.items[:1]
    end = ENDS[original.alias]
    last = backbone.n_layers - 1
    for layer in (0, backbone.n_layers // 2, last):
        for site in backbone.stack.sites(layer):
            started = modules_that_run(
                names, partial(backbone.activations, item, layer=layer, site=site)
            )
            assert blocks[layer] in started
            assert not set(blocks[layer + 1 :]) & started
            assert end not in started
            inside = {name for name in started if name.startswith(f"{blocks[layer]}.")}
            if site == "resid_pre":
                assert not inside
            if site in {"attn_out", "attn_z"}:
                assert not any("mlp" in name or "intermediate" in name for name in inside)
    inputs = original.prepare("rain", return_tensors="pt") if not original.is_vision else {
        "pixel_values": torch.zeros(1, 3, 224, 224)
    }  # fmt: skip
    whole = modules_that_run(names, partial(backbone.model, **inputs))
    assert end in whole, "this test looks for another module than the one that ends the model"
    assert set(blocks) <= whole


def modules_that_run(names, run):
    """The names of modules that are called while something runs."""
    started = set()
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: started.add(name))
        for module, name in names.items()
    ]
    try:
        with torch.inference_mode():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return started
