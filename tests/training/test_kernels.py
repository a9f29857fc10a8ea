from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_features.saes.firing import above
from sae_features.training import kernels
from sae_features.training.kernels import Support, decode, encode, pre_activations


def parameters(d, n_latents, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (n_latents, d), "W_dec": (n_latents, d), "b_dec": (d,), "b_enc": (n_latents,)}
    return {
        name: torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
        for name, shape in shapes.items()
    }


def forward(p, x, *, bias=True):
    b_enc = p["b_enc"] if bias else None
    pre = pre_activations(x, p["W_enc"], p["b_dec"], b_enc)
    support = Support(above(pre, None), *pre.shape)
    values = encode(x, p["W_enc"], p["b_dec"], b_enc, support, pre)
    return values, support, decode(values, support, p["W_dec"]) + p["b_dec"]


def dense(p, x, *, bias=True):
    pre = (x - p["b_dec"]) @ p["W_enc"].T + (p["b_enc"] if bias else 0)
    return pre.relu() @ p["W_dec"] + p["b_dec"]


def gradients(p, out, x):
    for tensor in p.values():
        tensor.grad = None
    (x - out).square().sum().backward()
    return {name: tensor.grad for name, tensor in p.items() if tensor.grad is not None}


@given(
    n=st.integers(1, 9),
    d=st.integers(1, 6),
    n_latents=st.integers(1, 17),
    share=st.sampled_from([0.0, 2.0]),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_sparse_and_dense_paths_give_the_values_and_gradients_of_autograd(
    n, d, n_latents, share, bias, seed
):
    p = parameters(d, n_latents, seed)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    before, kernels.DENSE_SHARE = kernels.DENSE_SHARE, share
    try:
        _, support, out = forward(p, x, bias=bias)
        assert support.is_dense == (share == 0 and len(support.flat) > 0)
        found = gradients(p, out, x)
    finally:
        kernels.DENSE_SHARE = before
    wanted_out = dense(p, x, bias=bias)
    torch.testing.assert_close(out, wanted_out)
    wanted = gradients(p, wanted_out, x)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-10)


def test_gradients_pass_gradcheck_in_float64():
    p = parameters(4, 10)
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    pre = pre_activations(x, p["W_enc"], p["b_dec"], p["b_enc"])
    support = Support(above(pre, None), *pre.shape)

    def values_of(W_enc, b_dec, b_enc):
        now = pre_activations(x, W_enc, b_dec, b_enc)
        return encode(x, W_enc, b_dec, b_enc, support, now)

    assert torch.autograd.gradcheck(values_of, (p["W_enc"], p["b_dec"], p["b_enc"]))
    values = values_of(p["W_enc"], p["b_dec"], p["b_enc"]).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, W: decode(v, support, W), (values, p["W_dec"]))


def test_a_product_in_lower_precision_decides_what_fires_but_not_its_value():
    p = parameters(8, 40, dtype=torch.float32)
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    pre = pre_activations(x, p["W_enc"], p["b_dec"], p["b_enc"], torch.bfloat16)
    assert pre.dtype == torch.bfloat16
    support = Support(above(pre, None), *pre.shape)
    values = encode(x, p["W_enc"], p["b_dec"], p["b_enc"], support, pre)
    exact = pre_activations(x, p["W_enc"], p["b_dec"], p["b_enc"]).view(-1)[support.flat]
    torch.testing.assert_close(values.detach(), exact)


def test_a_support_knows_rows_latents_and_counts():
    support = Support(torch.tensor([1, 2, 7]), n_rows=3, n_latents=3)
    assert support.rows.tolist() == [0, 0, 2]
    assert support.latents.tolist() == [1, 2, 1]
    assert support.starts.tolist() == [0, 2, 2]
    assert support.counts().tolist() == [0, 2, 1]
    order, rows, starts = support.by_latent
    assert order.tolist() == [0, 2, 1]
    assert rows.tolist() == [0, 2, 0]
    assert starts.tolist() == [0, 0, 2]
    taken = support.take(torch.tensor([True, False, True]))
    assert taken.latents.tolist() == [1, 1]


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_an_empty_support_gives_zeros_and_no_gradient(share, monkeypatch):
    monkeypatch.setattr(kernels, "DENSE_SHARE", share)
    p = parameters(3, 5)
    x = torch.zeros(2, 3, dtype=torch.float64)
    support = Support(torch.empty(0, dtype=torch.int64), 2, 5)
    values = encode(x, p["W_enc"], p["b_dec"], None, support, torch.zeros(2, 5, dtype=torch.float64))
    out = decode(values, support, p["W_dec"])
    assert out.tolist() == [[0.0] * 3] * 2
    out.sum().backward()
    assert p["W_dec"].grad.abs().sum() == 0
    assert p["W_enc"].grad.abs().sum() == 0
