from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_features.saes.firing import above, largest, largest_of_groups

quick = settings(max_examples=60)
FLOATS = [torch.float32, torch.float64, torch.float16]


def drawn(n, width, seed, *, whole=False, dtype=torch.float32):
    values = np.random.default_rng(seed).standard_normal((n, width)) * 2
    return torch.from_numpy(values.round() if whole else values).to(dtype)


def k_largest(pre, k, *, positive):
    """Sort by value, then by number: what is right, written out."""
    kept = []
    for row, values in enumerate(pre.double().tolist()):
        order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
        kept += [row * len(values) + i for i in sorted(order) if values[i] > 0 or not positive]
    return kept


@quick
@given(st.integers(0, 5), st.integers(1, 40), st.integers(0, 10**6), st.sampled_from(FLOATS))
def test_above_a_bound(n, width, seed, dtype):
    pre, bound = drawn(n, width, seed, dtype=dtype), drawn(1, width, seed + 1, dtype=dtype)[0]
    assert above(pre, None).tolist() == (pre > 0).view(-1).nonzero()[:, 0].tolist()
    assert above(pre, bound).tolist() == (pre > bound).view(-1).nonzero()[:, 0].tolist()


@quick
@given(
    st.integers(1, 4),
    st.integers(1, 60),
    st.data(),
    st.integers(0, 10**6),
    st.booleans(),
    st.booleans(),
    st.sampled_from(FLOATS),
)
def test_the_k_largest(n, width, data, seed, positive, whole, dtype):
    pre = drawn(n, width, seed, whole=whole, dtype=dtype)
    k = data.draw(st.integers(1, width))
    assert largest(pre, k, positive=positive).tolist() == k_largest(pre, k, positive=positive)


def test_the_k_largest_of_many_groups_with_ties():
    pre = drawn(20, 1000, 0, whole=True)
    for k in (1, 7, 32, 100):
        assert largest(pre, k, positive=True).tolist() == k_largest(pre, k, positive=True)
        assert largest(pre, k, positive=False).tolist() == k_largest(pre, k, positive=False)


def test_where_the_largest_stand_close_together_the_bound_still_holds():
    pre = torch.full((2, 3000), -1.0)
    pre[0, ::94] = 5 + torch.arange(32.0)  # all in one of the 96 groups but for rounding
    pre[1, 100:140] = torch.arange(1.0, 41)
    assert largest(pre, 32, positive=True).tolist() == k_largest(pre, 32, positive=True)


@pytest.mark.parametrize("positive", [True, False])
def test_bfloat16_compares_as_its_numbers_do(positive):
    pre = drawn(30, 500, 3).bfloat16()
    values = pre.float()
    threshold = drawn(1, 500, 4)[0].bfloat16()
    assert above(pre, None).tolist() == above(values, None).tolist()
    assert above(pre, threshold).tolist() == above(values, threshold.float()).tolist()
    assert above(pre, threshold.relu()).tolist() == above(values, threshold.relu().float()).tolist()
    found = largest(pre, 20, positive=positive)
    kept = values.view(-1)[found].view(30, -1).sort().values
    assert torch.equal(kept, values.topk(20).values.sort().values)


@pytest.mark.parametrize("architecture", ["gated", "jumprelu"])
def test_a_bound_of_zero_has_no_sign(architecture):
    from tiny import random_sae

    sae = random_sae(architecture)
    name = "b_gate" if architecture == "gated" else "threshold"
    zeros = torch.zeros(48) if architecture == "gated" else -torch.zeros(48)
    sae = replace(sae, **{name: zeros}).to(dtype="bfloat16")
    x = drawn(20, 32, 0)
    assert len(sae.encode_sparse(x).values) == int((sae.encode(x) != 0).sum())


@pytest.mark.parametrize("architecture", ["topk", "relu", "jumprelu", "gated", "groupmax"])
def test_gradients_flow_through_what_fires(architecture):
    from tiny import random_sae

    sae = random_sae(architecture, n_latents=256 if architecture != "groupmax" else 48)
    names = [name for name, _ in sae.tensors() if name not in ("threshold", "b_gate")]
    for name in (*names, None):
        given = {} if name is None else {name: getattr(sae, name).clone().requires_grad_()}
        leaf = drawn(7, 32, 1).requires_grad_(name is None)
        learned = replace(sae, **given)
        whole = learned.reconstruct(leaf).sum() + learned.encode_sparse(leaf).values.sum()
        whole.backward()
        gradient = leaf.grad if name is None else given[name].grad
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_infinite_values_and_zeros(dtype):
    pre = torch.tensor([[0.0, -0.0, float("inf"), -float("inf"), 1e-30]], dtype=dtype)
    assert above(pre, None).tolist() == [2, 4]
    assert largest(pre, 3, positive=True).tolist() == [2, 4]


def test_the_largest_of_each_group():
    pre = torch.tensor([[1.0, 3.0, -1.0, -2.0], [0.0, -1.0, 2.0, 2.0]])
    assert largest_of_groups(pre, 2).tolist() == [1, 6]
    assert largest_of_groups(pre[:0], 2).tolist() == []
