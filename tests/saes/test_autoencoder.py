"""The canonical SAE: its numbers are the formulas of the papers, its digest is of what decides them."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import varied_sae

from sae_features import load_sae
from sae_features.errors import InvalidParameterError, SAEFormatError
from sae_features.hook_point import HookPoint
from sae_features.saes import autoencoder
from sae_features.saes.autoencoder import SparseAutoencoder
from sae_features.saes.random_control import random_autoencoder

quick = settings(deadline=None, max_examples=40)
D_IN, N_LATENTS = 5, 9
VARIANTS = {
    "relu": {},
    "gated": {},
    "topk": {"k": 3},
    "topk without relu": {"k": 8, "topk_relu": False},
    "topk by scaled values": {"k": 3, "selection_scale": True},
    "groupmax": {"k": 3},
    "jumprelu": {},
}
NORMS = {
    "none": {},
    "scale": {"norm_scale": 0.37},
    "center": {},
    "center, scaled": {"norm_scale": 0.37},
    "layer_norm": {},
    "rms_norm": {},
}


def make_sae(variant="topk", *, dtype=torch.float64, seed=0, d_in=D_IN, n_latents=N_LATENTS, **fields):
    """An SAE with random weights, half of its latents with a bias that silences them at times."""
    options = {**VARIANTS[variant], **fields}
    return varied_sae(
        variant.partition(" ")[0], d_in=d_in, n_latents=n_latents, dtype=dtype, seed=seed, **options
    )


def norm_of(input_norm):
    return {"input_norm": input_norm.partition(",")[0], **NORMS[input_norm]}


def arrays_of(sae):
    return {name: tensor.double().numpy() for name, tensor in sae.tensors()}


def activated(sae, own, arrays):
    """One row of latents from its pre-activations: the formulas of the papers, one latent at a time."""
    latents = np.zeros(sae.n_latents)
    if sae.architecture == "relu":
        fires = range(sae.n_latents)
    elif sae.architecture == "jumprelu":
        fires = [i for i in range(sae.n_latents) if own[i] > arrays["threshold"][i]]
    elif sae.architecture == "gated":
        fires = [i for i in range(sae.n_latents) if own[i] + arrays["b_gate"][i] > 0]
        own = own * np.exp(arrays["r_mag"]) + arrays["b_mag"]
    elif sae.architecture == "groupmax":
        size = sae.n_latents // sae.k
        fires = [start + int(np.argmax(own[start : start + size])) for start in range(0, len(own), size)]
    else:
        fires = np.argsort(-own * arrays.get("selection_scale", 1.0))[: sae.k]
    for i in fires:
        latents[i] = own[i] if sae.architecture == "topk" and not sae.topk_relu else max(own[i], 0.0)
    return latents


def transcribed(sae, x):
    """``encode``, ``decode`` of that and ``reconstruct``, written out in numpy float64, row by row."""
    arrays = arrays_of(sae)
    latents, decoded, reconstructed = [], [], []
    for row in x:
        scale, shift = 1.0, 0.0  # what the normalisation takes off
        if sae.input_norm == "center":
            shift = row.mean()
        if sae.norm_scale is not None:
            scale = 1 / sae.norm_scale
        elif sae.input_norm == "layer_norm":
            shift = row.mean()
            scale = np.sqrt(((row - shift) ** 2).sum() / (len(row) - 1))
        elif sae.input_norm == "rms_norm":
            scale = np.sqrt((row**2).mean()) or 1.0
        normalised = (row - shift) / (scale + (1e-5 if sae.input_norm == "layer_norm" else 0))
        offset = arrays["b_dec"] if sae.subtract_b_dec else 0.0
        own = (normalised - offset) @ arrays["W_enc"] + arrays.get("b_enc", 0.0)
        latents.append(activated(sae, own, arrays))
        if sae.W_dec is None:
            continue
        plain = (latents[-1] * arrays.get("latent_scale", 1.0)) @ arrays["W_dec"] + arrays["b_dec"]
        undone = sae.denormalize
        decoded.append(plain * scale if undone and sae.norm_scale is not None else plain)
        skipped = row @ arrays["W_skip"] if "W_skip" in arrays else 0.0
        reconstructed.append((plain + skipped) * scale + shift if undone else plain + skipped)
    return np.array(latents), np.array(decoded), np.array(reconstructed)


def formula(sae, x):
    """``encode`` written out."""
    return transcribed(sae, x)[0]


def rows(n, *, seed=1, d_in=D_IN):
    return np.random.default_rng(seed).standard_normal((n, d_in))


def dense(sparse, n_latents):
    """Lay sparse latents out, asserting what they promise."""
    assert sparse.indices.dtype == sparse.counts.dtype == torch.int64
    assert int(sparse.counts.sum()) == len(sparse.values) == len(sparse.indices)
    assert bool((sparse.values != 0).all())
    latents = torch.zeros(len(sparse.counts), n_latents, dtype=sparse.values.dtype)
    start = 0
    for row, count in enumerate(sparse.counts.tolist()):
        own = sparse.indices[start : start + count]
        assert bool((own.diff() > 0).all())
        latents[row, own] = sparse.values[start : start + count]
        start += count
    return latents


def close(got, expected):
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-11, atol=1e-11)


SHAPES = [
    {},
    {"subtract_b_dec": False},
    {"skip": True},
    {"d_out": 4},
    {"d_out": 7, "skip": True},
    {"subtract_b_dec": False, "skip": True},
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("input_norm", NORMS)
@pytest.mark.parametrize("denormalize", [True, False])
@pytest.mark.parametrize("latent_scale", [False, True])
def test_it_computes_what_the_formulas_say(variant, input_norm, denormalize, latent_scale):
    x = rows(20)
    given = torch.from_numpy(x)
    for shape in SHAPES:
        options = {"latent_scale": latent_scale, "denormalize": denormalize, **shape}
        sae = make_sae(variant, **options, **norm_of(input_norm))
        latents, decoded, reconstructed = transcribed(sae, x)
        got = sae.encode(given)
        assert (got.dtype, got.shape) == (torch.float64, (20, N_LATENTS))
        close(got, latents)
        np.testing.assert_array_equal(got.numpy() != 0, latents != 0)
        assert 0.05 < (latents != 0).mean() < 0.95  # some fire and some do not
        assert torch.equal(dense(sae.encode_sparse(given), N_LATENTS), got)
        close(sae.decode(got), decoded)
        close(sae.decode(sae.encode_sparse(given)), decoded)
        close(sae.reconstruct(given), reconstructed)
        close(sae.reconstruct(given, sae.encode_sparse(given)), reconstructed)
        output = sae.forward(given)
        assert torch.equal(output.latents, got)
        assert torch.equal(output.reconstruction, sae.reconstruct(given))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("input_norm", NORMS)
def test_a_row_does_not_depend_on_the_others(variant, input_norm):
    sae = make_sae(variant, d_in=24, n_latents=60, skip=True, **norm_of(input_norm))
    x = torch.from_numpy(rows(40, d_in=24))
    together = sae.forward(x)
    alone = [sae.forward(x[i : i + 1]) for i in range(len(x))]
    latents = torch.cat([output.latents for output in alone])
    assert torch.equal(latents != 0, together.latents != 0)
    torch.testing.assert_close(latents, together.latents, rtol=1e-12, atol=1e-12)
    reconstruction = torch.cat([output.reconstruction for output in alone])
    torch.testing.assert_close(reconstruction, together.reconstruction, rtol=1e-12, atol=1e-12)
    reversed_rows = sae.encode(x.flip(0)).flip(0)
    assert torch.equal(reversed_rows != 0, together.latents != 0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("input_norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rows_that_cannot_be_normalised_make_no_nan(variant, input_norm, dtype):
    sae = make_sae(variant, dtype=dtype, skip=True, **norm_of(input_norm))
    x = torch.zeros(3, D_IN)
    x[1] = 1.0  # all the same: no deviation
    output = sae.forward(x)
    assert output.latents.isfinite().all()
    assert output.reconstruction.isfinite().all()
    assert sae.decode(output.latents).isfinite().all()
    assert torch.equal(output.latents[0], output.latents[2])
    assert torch.equal(dense(sae.encode_sparse(x), N_LATENTS), output.latents)
    if dtype == torch.float64:
        close(output.latents, transcribed(sae, x.numpy())[0])
        close(output.reconstruction, transcribed(sae, x.numpy())[2])


@pytest.mark.parametrize("input_norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_small_rows_make_neither_nan_nor_infinity(input_norm, dtype):
    sae = make_sae("relu", d_in=32, n_latents=64, dtype=dtype, **norm_of(input_norm))
    size = torch.finfo(dtype).smallest_normal
    sizes = torch.tensor([[size * 2.0**power] for power in range(-24, 12)], dtype=torch.float64)
    output = sae.forward(sizes * torch.from_numpy(rows(1, d_in=32)))
    assert output.latents.isfinite().all()
    assert output.reconstruction.isfinite().all()


@quick
@given(size=st.sampled_from([1e-12, 1e-3, 1.0, 1e3, 1e12]), seed=st.integers(0, 99))
@pytest.mark.parametrize("variant", VARIANTS)
def test_rms_norm_does_not_see_how_long_an_input_is(variant, size, seed):
    sae = make_sae(variant, seed=seed, **norm_of("rms_norm"))
    x = torch.from_numpy(rows(5, seed=seed))
    torch.testing.assert_close(sae.encode(x * size), sae.encode(x), rtol=1e-9, atol=1e-9)
    reconstruction = sae.reconstruct(x * size) / size
    torch.testing.assert_close(reconstruction, sae.reconstruct(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_sparse_latents_are_decoded_as_dense_ones(variant, dtype):
    sae = make_sae(variant, dtype=dtype, latent_scale=True)
    x = torch.from_numpy(rows(6))
    x[2] = -100 * sae.W_enc.double().sum(dim=1)  # some rows in which little fires
    sparse = sae.encode_sparse(x)
    expected = sae.decode(sae.encode(x))
    got = sae.decode(sparse)
    assert (got.dtype, got.shape) == (dtype, expected.shape)
    size = float(expected.abs().max())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got, expected, rtol=16 * eps, atol=16 * eps * size)
    silent = autoencoder.SparseLatents(x.new_zeros(0), torch.zeros(0).long(), torch.zeros(2).long())
    assert torch.equal(sae.decode(silent), sae.b_dec.expand(2, -1))
    assert sae.decode(sae.encode_sparse(x[:0])).shape == (0, D_IN)


def test_what_is_selected_is_not_what_is_kept():
    zeros = torch.zeros(3)
    sae = SparseAutoencoder(
        "topk", W_enc=torch.eye(3), b_enc=zeros, b_dec=zeros, k=1,
        selection_scale=torch.tensor([1.0, 1.0, 10.0]),
    )  # fmt: skip
    assert sae.encode(torch.tensor([[3.0, 2.0, 1.0]])).tolist() == [[0, 0, 1]]
    assert sae.encode(torch.tensor([[3.0, 2.0, 0.1]])).tolist() == [[3, 0, 0]]
    assert sae.encode_sparse(torch.tensor([[3.0, 2.0, 1.0]])).indices.tolist() == [2]


def test_groups_are_neighbours():
    zeros = torch.zeros(4)
    sae = SparseAutoencoder("groupmax", W_enc=torch.eye(4), b_enc=zeros, b_dec=zeros, k=2)
    x = torch.tensor([[5.0, 4.0, 1.0, 2.0], [-1.0, -2.0, 3.0, -1.0]])
    assert sae.encode(x).tolist() == [[5, 0, 0, 2], [0, 0, 3, 0]]
    assert sae.encode_sparse(x).counts.tolist() == [2, 1]


def test_a_gate_opens_what_its_magnitude_then_measures():
    eye, zeros = torch.eye(3), torch.zeros(3)
    sae = SparseAutoencoder(
        "gated", W_enc=eye, b_dec=zeros, b_gate=torch.tensor([-1.0, -1.0, 1.0]),
        b_mag=torch.tensor([0.0, 0.5, -3.0]), r_mag=torch.tensor([0.0, 2.0, 0.0]).log1p(),
    )  # fmt: skip
    x = torch.tensor([[1.0, 2.0, 2.0], [1.5, 1.0, 4.0]])
    assert sae.encode(x).tolist() == [[0, 6.5, 0], [1.5, 0, 1]]  # 0: shut, open, open but negative


def test_the_skip_connection_is_of_the_raw_input():
    zeros = torch.zeros(2)
    sae = SparseAutoencoder(
        "relu", W_enc=torch.zeros(2, 3), b_enc=torch.zeros(3), b_dec=zeros, W_dec=torch.zeros(3, 2),
        W_skip=torch.tensor([[0.0, 1.0], [2.0, 0.0]]), input_norm="rms_norm", denormalize=False,
    )  # fmt: skip
    x = torch.tensor([[3.0, 5.0]])
    assert sae.reconstruct(x).tolist() == [[10, 3]]
    assert sae.decode(sae.encode(x)).tolist() == [[0, 0]]  # left out: it is not of the latents


def test_jumprelu_is_silent_at_its_threshold():
    eye = torch.eye(4)
    sae = SparseAutoencoder(
        "jumprelu",
        W_enc=eye,
        b_enc=torch.zeros(4),
        b_dec=torch.zeros(4),
        threshold=torch.tensor([1.0, 1.0, 0.0, 0.0]),
    )
    x = torch.tensor([[1.0, 1.5, 0.0, 0.25], [0.5, -2.0, -1.0, 3.0]])
    assert sae.encode(x).tolist() == [[0, 1.5, 0, 0.25], [0, 0, 0, 3]]


def test_topk_keeps_negative_values_only_without_relu():
    x = torch.tensor([[-1.0, -2.0, -3.0], [3.0, -1.0, -2.0]])
    zeros = torch.zeros(3)
    weights = {"W_enc": torch.eye(3), "b_enc": zeros, "b_dec": zeros}
    assert SparseAutoencoder("topk", **weights, k=2).encode(x).tolist() == [[0, 0, 0], [3, 0, 0]]
    raw = SparseAutoencoder("topk", **weights, k=2, topk_relu=False)
    assert raw.encode(x).tolist() == [[-1, -2, 0], [3, -1, 0]]
    assert raw.encode_sparse(x).values.tolist() == [-1, -2, 3, -1]


@pytest.mark.parametrize("variant", VARIANTS)
@quick
@given(
    shape=st.tuples(st.integers(0, 7), st.integers(1, 4), st.integers(1, 8)),
    seed=st.integers(0, 1000),
    chunk=st.sampled_from([1, 100, 10**9]),
    data=st.data(),
)
def test_encode_sparse_equals_encode(variant, shape, seed, chunk, data):
    n, d_in, n_latents = shape
    fields = {}
    if "k" in VARIANTS[variant]:
        known = [k for k in range(1, n_latents + 1) if variant != "groupmax" or n_latents % k == 0]
        fields["k"] = data.draw(st.sampled_from(known))
    sae = make_sae(variant, seed=seed, d_in=d_in, n_latents=n_latents, **fields)
    # whole numbers: exact in every order of summation, with ties, and with zeros that do not fire
    whole = {name: tensor.mul(2).round() for name, tensor in sae.tensors()}
    if variant == "gated":
        whole["r_mag"] = torch.zeros_like(sae.r_mag)  # exp(0) is a whole number, too
    sae = replace(sae, **whole)
    x = torch.from_numpy(rows(n, seed=seed, d_in=d_in)).mul(2).round()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "CACHE_BYTES", chunk)
        patch.setattr(autoencoder, "CHUNK_ROWS", 1)
        sparse = sae.encode_sparse(x)
    assert torch.equal(dense(sparse, n_latents), sae.encode(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_do_not_show(variant, monkeypatch):
    sae = make_sae(variant)
    x = torch.from_numpy(rows(50))
    whole = sae.encode_sparse(x)
    monkeypatch.setattr(autoencoder, "CACHE_BYTES", 7 * N_LATENTS * 8)  # 7 rows at a time …
    monkeypatch.setattr(autoencoder, "CHUNK_ROWS", 1)  # … where that is not too few
    assert [len(chunk) for chunk in sae.pre_activations(x)] == [7] * 7 + [1]
    chunked = sae.encode_sparse(x)
    assert torch.equal(chunked.counts, whole.counts)
    assert torch.equal(chunked.indices, whole.indices)
    torch.testing.assert_close(chunked.values, whole.values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_rows(variant):
    sae = make_sae(variant)
    x = torch.zeros(0, D_IN)
    assert sae.encode(x).shape == (0, N_LATENTS)
    assert sae.reconstruct(x).shape == (0, D_IN)
    sparse = sae.encode_sparse(x)
    assert [len(part) for part in sparse] == [0, 0, 0]
    assert sparse.indices.dtype == sparse.counts.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_computes_in_the_type_of_its_weights(variant, dtype):
    sae = make_sae(variant, dtype=dtype)
    x = rows(4)
    latents = sae.encode(torch.from_numpy(x))
    assert sae.dtype == latents.dtype == sae.encode_sparse(torch.from_numpy(x)).values.dtype == dtype
    assert sae.decode(latents.double()).dtype == dtype
    if dtype == torch.float32:
        np.testing.assert_allclose(latents.numpy(), formula(sae, x), rtol=1e-4, atol=1e-5)


def test_inputs_are_converted():
    sae = make_sae(dtype=torch.float32)
    x = torch.tensor([[1, -2, 3, 0, 1]])
    assert torch.equal(sae.encode(x), sae.encode(x.float()))


def test_inputs_are_left_as_they_are():
    sae = make_sae("relu", dtype=torch.float32)
    x = torch.ones(2, D_IN)
    sae.reconstruct(x)
    sae.encode_sparse(x)
    assert torch.equal(x, torch.ones(2, D_IN))


def test_inputs_of_another_size_are_refused():
    sae = make_sae()
    for shape in [(3, 4), (5,), (1, 2, 5)]:
        message = f"Got x of shape {shape}; expected (n, 5)."
        for method in (sae.encode, sae.encode_sparse, sae.reconstruct):
            with pytest.raises(InvalidParameterError, match=f"^{re.escape(message)}$"):
                method(torch.zeros(shape))
    with pytest.raises(InvalidParameterError, match=r"^Got f of shape \(2, 5\); expected \(n, 9\)\.$"):
        sae.decode(torch.zeros(2, 5))


def test_without_a_decoder_it_only_encodes():
    sae = make_sae(W_dec=None)
    x = torch.from_numpy(rows(3))
    assert torch.equal(sae.encode(x), make_sae().encode(x))
    message = r"^This SAE has no decoder: loaded with decoder=False, or its files have none\.$"
    for method, argument in ((sae.decode, sae.encode(x)), (sae.reconstruct, x)):
        with pytest.raises(InvalidParameterError, match=message):
            method(argument)


def test_sizes_and_where_it_is():
    sae = make_sae(hook_point=HookPoint(3), dtype=torch.float16)
    assert (sae.d_in, sae.n_latents, sae.architecture) == (D_IN, N_LATENTS, "topk")
    assert sae.hook_point == (3, "resid_post")
    assert (sae.device, sae.dtype) == (torch.device("cpu"), torch.float16)
    assert (sae.metadata, sae.labels) == ({}, {})


def test_it_is_shown_on_one_line():
    sae = make_sae(hook_point=HookPoint(3), labels=dict.fromkeys(range(9), "x"))
    assert repr(sae) == (
        "SparseAutoencoder('topk', d_in=5, n_latents=9, k=3, hook_point=(layer 3, resid_post))"
    )
    assert repr(make_sae("relu")) == "SparseAutoencoder('relu', d_in=5, n_latents=9)"
    assert repr(make_sae("gated", d_out=4)) == "SparseAutoencoder('gated', d_in=5, n_latents=9, d_out=4)"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architecture": "top"},
            "Got architecture='top'; expected one of relu, gated, topk, groupmax, jumprelu. "
            "Did you mean 'topk'?",
        ),
        ({"W_enc": torch.zeros(5)}, "Got W_enc of shape (5,); expected (d, F)."),
        ({"W_enc": torch.zeros(5, 0)}, "Got W_enc of shape (5, 0); expected (d, F)."),
        ({"W_enc": torch.zeros(5, 9).long()}, "Got W_enc of type torch.int64; expected floats."),
        ({"b_enc": torch.zeros(8)}, "Got b_enc of shape (8,); expected (9,)."),
        (
            {"b_dec": torch.zeros(9)},
            "Got b_dec of shape (9,) and d_in=5; expected (5,), or subtract_b_dec=False for a "
            "transcoder.",
        ),
        ({"b_dec": torch.zeros(5, 1)}, "Got b_dec of shape (5, 1); expected (d,)."),
        ({"b_dec": torch.zeros(0)}, "Got b_dec of shape (0,); expected (d,)."),
        (
            {"b_dec": torch.zeros(9).double(), "subtract_b_dec": False},
            "Got W_dec of shape (9, 5); expected (9, 9).",
        ),
        ({"b_enc": None}, "Got no b_enc; expected one with architecture='topk'."),
        ({"b_gate": torch.zeros(9)}, "Got b_gate with architecture='topk'; expected none."),
        ({"latent_scale": torch.zeros(5)}, "Got latent_scale of shape (5,); expected (9,)."),
        ({"selection_scale": torch.zeros(9, 1)}, "Got selection_scale of shape (9, 1); expected (9,)."),
        ({"W_skip": torch.zeros(9, 5)}, "Got W_skip of shape (9, 5); expected (5, 5)."),
        (
            {"W_skip": torch.zeros(5, 5)},
            "Got W_skip of type torch.float32; expected torch.float64, as W_enc has.",
        ),
        (
            {"architecture": "relu", "k": None, "selection_scale": torch.zeros(9).double()},
            "Got selection_scale with architecture='relu'; expected none.",
        ),
        ({"architecture": "gated", "k": None}, "Got b_enc with architecture='gated'; expected none."),
        (
            {"architecture": "gated", "k": None, "b_enc": None},
            "Got no b_gate; expected one with architecture='gated'.",
        ),
        (
            {"architecture": "groupmax", "k": 2},
            "Got k=2; expected a divisor of n_latents=9 for groupmax.",
        ),
        (
            {"input_norm": "l2"},
            "Got input_norm='l2'; expected one of none, scale, center, layer_norm, rms_norm.",
        ),
        (
            {"input_norm": "scale"},
            "Got norm_scale=None with input_norm='scale'; expected a scale with input_norm='scale', and "
            "else only with 'center'.",
        ),
        (
            {"norm_scale": 1.0},
            "Got norm_scale=1.0 with input_norm='none'; expected a scale with input_norm='scale', and "
            "else only with 'center'.",
        ),
        ({"W_dec": torch.zeros(5, 9)}, "Got W_dec of shape (5, 9); expected (9, 5)."),
        (
            {"b_dec": torch.zeros(5, dtype=torch.float16)},
            "Got b_dec of type torch.float16; expected torch.float64, as W_enc has.",
        ),
        ({"k": None}, "Got k=None; expected an integer from 1 to 9 (n_latents)."),
        ({"k": 0}, "Got k=0; expected an integer from 1 to 9 (n_latents)."),
        ({"k": 10}, "Got k=10; expected an integer from 1 to 9 (n_latents)."),
        ({"k": 3.0}, "Got k=3.0; expected an integer from 1 to 9 (n_latents)."),
        ({"k": True}, "Got k=True; expected an integer from 1 to 9 (n_latents)."),
        ({"architecture": "relu"}, "Got k=3 with architecture='relu'; only topk and groupmax have k."),
        (
            {"architecture": "jumprelu", "k": None},
            "Got no threshold; expected one with architecture='jumprelu'.",
        ),
        (
            {"threshold": torch.zeros(9, dtype=torch.float64)},
            "Got threshold with architecture='topk'; expected none.",
        ),
        (
            {"architecture": "jumprelu", "k": None, "threshold": torch.zeros(1)},
            "Got threshold of shape (1,); expected (9,).",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(fields, message):
    with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
        replace(make_sae(), **fields)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_digest_is_of_everything_that_decides_the_numbers(variant):
    sae = make_sae(variant, skip=True, latent_scale=True)
    changed = [replace(sae, subtract_b_dec=False)]
    changed += [replace(sae, **{name: None}) for name in ("W_dec", "W_skip", "latent_scale")]
    for input_norm in ("scale", "center", "center, scaled", "layer_norm", "rms_norm"):
        normed = replace(sae, **norm_of(input_norm))
        changed += [normed, replace(normed, denormalize=False)]
    changed.append(replace(sae, input_norm="scale", norm_scale=0.38))
    for name, tensor in sae.tensors():
        other = tensor.clone()
        other.view(-1)[0] = torch.nextafter(other.view(-1)[0], torch.tensor(9.0, dtype=other.dtype))
        changed.append(replace(sae, **{name: other}))
    if "topk" in variant:
        changed += [replace(sae, k=4), replace(sae, topk_relu=not sae.topk_relu)]
    changed.append(make_sae(variant, dtype=torch.float32, skip=True, latent_scale=True))
    digests = [sae.digest, *(other.digest for other in changed)]
    assert len(set(digests)) == len(digests)
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests)


def test_the_digest_does_not_depend_on_what_only_describes():
    sae = make_sae()
    described = replace(
        sae, metadata={"model": "m"}, labels={1: "praise"}, hook_point=HookPoint(7, "mlp_out")
    )
    assert described.digest == sae.digest == make_sae().digest
    assert replace(make_sae("relu"), topk_relu=False).digest == make_sae("relu").digest
    assert replace(make_sae("relu"), denormalize=False).digest == make_sae("relu").digest


def test_the_digest_does_not_depend_on_strides():
    sae = make_sae()
    assert replace(sae, W_enc=sae.W_enc.T.contiguous().T).digest == sae.digest


def test_a_copy_with_other_weights_does_not_keep_the_digest_that_was_computed():
    sae = random_autoencoder(4, 8, 2)
    assert sae.digest == "random:8:2:0:4"
    assert replace(sae, k=3).digest != sae.digest
    assert replace(sae, k=3).digest != replace(sae, k=4).digest


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_survives_pickling(variant):
    sae = make_sae(variant, skip=True, hook_point=HookPoint(1), metadata={"a": [1]}, labels={0: "x"})
    for original in (sae, random_autoencoder(4, 8, 2)):
        copy = pickle.loads(pickle.dumps(original))
        assert copy.digest == original.digest
        assert (copy.hook_point, copy.metadata, copy.labels) == (
            original.hook_point,
            original.metadata,
            original.labels,
        )
        for (name, tensor), (other_name, other) in zip(original.tensors(), copy.tensors(), strict=True):
            assert name == other_name
            assert torch.equal(tensor, other)
    assert torch.equal(
        pickle.loads(pickle.dumps(sae)).encode(torch.ones(1, 5)), sae.encode(torch.ones(1, 5))
    )


def test_a_latent_has_a_page_where_the_metadata_name_one():
    sae = make_sae(metadata={"neuronpedia_id": "gpt2-small/6-res-jb"})
    assert sae.latent_url(8) == "https://www.neuronpedia.org/gpt2-small/6-res-jb/8"
    assert make_sae().latent_url(0) is None
    for latent in (-1, 9):
        with pytest.raises(InvalidParameterError, match=f"^Got latent={latent}; expected 0 to 8\\.$"):
            sae.latent_url(latent)


def test_the_random_control_is_the_same_everywhere():
    sae = random_autoencoder(3, 4, 2, seed=7)
    again = random_autoencoder(3, 4, 2, seed=7)
    assert torch.equal(sae.W_enc, again.W_enc)
    assert not torch.equal(sae.W_enc, random_autoencoder(3, 4, 2, seed=8).W_enc)
    directions = np.random.default_rng(7).standard_normal((4, 3), dtype=np.float32)
    expected = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(sae.W_enc.numpy().T, expected, rtol=1e-6)
    np.testing.assert_allclose(sae.W_enc.norm(dim=0).numpy(), 1, rtol=1e-6)
    # as first published: digests name the seed, not the numbers
    first = [0.684196, -0.514329, 0.517051]
    np.testing.assert_allclose(sae.W_enc[:, 0].numpy(), first, rtol=1e-5)


def test_the_random_control_has_neither_biases_nor_a_decoder():
    sae = random_autoencoder(3, 4, 2)
    assert sae.W_dec is None
    assert not sae.subtract_b_dec
    assert not sae.b_enc.any()
    assert not sae.b_dec.any()
    assert (sae.d_in, sae.n_latents, sae.k, sae.dtype) == (3, 4, 2, torch.float32)
    assert int(sae.encode_sparse(torch.from_numpy(rows(20, d_in=3))).counts.max()) == 2
    with pytest.raises(
        SAEFormatError, match=r"^Got k=5; expected an integer from 1 to 4 \(n_latents\)\.$"
    ):
        random_autoencoder(3, 4, 5)


def test_the_digest_of_the_random_control_names_all_that_it_is_made_from():
    digests = {
        random_autoencoder(d, n, k, seed=seed).digest
        for d in (2, 3) for n in (4, 5) for k in (1, 2) for seed in (0, 1)
    }  # fmt: skip
    assert len(digests) == 16


def test_numpy_rows_are_taken_as_they_are():
    sae = random_autoencoder(6, 12, 3)
    rows = np.random.default_rng(0).standard_normal((4, 6))
    expected = sae.encode(torch.from_numpy(rows))
    torch.testing.assert_close(sae.encode(rows), expected, rtol=0, atol=0)
    sparse = sae.encode_sparse(rows)
    torch.testing.assert_close(sparse.values, expected[expected != 0], rtol=0, atol=0)


class TestTo:
    def test_another_type_and_back(self, tmp_path):
        sae = random_autoencoder(6, 12, 3, seed=1)
        half = sae.to(dtype="float16")
        assert half.dtype == torch.float16
        assert half.to(dtype="float32").W_enc.equal(sae.W_enc.half().float())
        assert sae.to(device="cpu").W_enc.equal(sae.W_enc)

    def test_a_loaded_one_keeps_the_digest_of_its_files(self, tmp_path):
        sae = load_sae(random_autoencoder(6, 12, 3).save(tmp_path / "sae"))
        assert sae.to(dtype="float16").digest == sae.digest

    def test_one_that_was_made_has_that_of_its_own_tensors(self):
        eye = torch.eye(3)
        made = SparseAutoencoder("relu", W_enc=eye, b_enc=torch.zeros(3), b_dec=torch.zeros(3))
        assert made.to().digest == made.digest
        assert made.to(dtype="float16").digest != made.digest

    def test_what_does_not_fit_is_refused(self):
        eye = torch.eye(3) * 1e6
        sae = SparseAutoencoder("relu", W_enc=eye, b_enc=torch.zeros(3), b_dec=torch.zeros(3))
        with pytest.raises(
            SAEFormatError, match="W_enc holds NaN or infinity; .* Larger types may hold"
        ):
            sae.to(dtype="float16")
        with pytest.raises(InvalidParameterError, match="Got dtype='int8'"):
            sae.to(dtype="int8")


def test_a_call_is_forward():
    eye = torch.eye(3)
    zeros = torch.zeros(3)
    sae = SparseAutoencoder("relu", W_enc=eye, b_enc=zeros, b_dec=zeros, W_dec=eye)
    x = torch.tensor([[1.0, -2.0, 3.0]])
    latents, reconstruction = sae(x)
    assert latents.tolist() == reconstruction.tolist() == [[1.0, 0.0, 3.0]]
