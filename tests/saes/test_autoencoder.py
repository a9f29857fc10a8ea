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

from sae_features.errors import InvalidParameterError, SAEFormatError
from sae_features.hook_point import HookPoint
from sae_features.saes import autoencoder
from sae_features.saes.autoencoder import SparseAutoencoder, random_autoencoder

quick = settings(deadline=None, max_examples=40)
D_IN, N_LATENTS = 5, 9
VARIANTS = {
    "relu": {},
    "topk": {"k": 3},
    "topk without relu": {"k": 8, "topk_relu": False},
    "jumprelu": {},
}


def make_sae(variant="topk", *, dtype=torch.float64, seed=0, d_in=D_IN, n_latents=N_LATENTS, **fields):
    """An SAE with random weights, half of its latents with a bias that silences them at times."""
    generator = np.random.default_rng(seed)

    def draw(*shape):
        return torch.from_numpy(generator.standard_normal(shape)).to(dtype)

    architecture = variant.partition(" ")[0]
    weights = {
        "W_enc": draw(d_in, n_latents),
        "b_enc": draw(n_latents),
        "W_dec": draw(n_latents, d_in),
        "b_dec": draw(d_in),
    }
    if architecture == "jumprelu":
        weights["threshold"] = draw(n_latents).abs()
    return SparseAutoencoder(architecture, **{**weights, **VARIANTS[variant], **fields})


def formula(sae, x):
    """``encode`` written out in numpy float64."""
    W_enc, b_enc, b_dec = (t.double().numpy() for t in (sae.W_enc, sae.b_enc, sae.b_dec))
    pre = (x - (b_dec if sae.subtract_b_dec else 0)) @ W_enc + b_enc
    if sae.architecture == "relu":
        return np.maximum(pre, 0)
    if sae.architecture == "jumprelu":
        return pre * (pre > sae.threshold.double().numpy())
    latents = np.zeros_like(pre)
    for row, own in zip(latents, pre, strict=True):
        for i in np.argsort(-own)[: sae.k]:
            row[i] = max(own[i], 0) if sae.topk_relu else own[i]
    return latents


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


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("subtract_b_dec", [True, False])
def test_encode_is_the_formula(variant, subtract_b_dec):
    sae = make_sae(variant, subtract_b_dec=subtract_b_dec)
    x = rows(20)
    latents = sae.encode(torch.from_numpy(x))
    expected = formula(sae, x)
    assert latents.dtype == torch.float64
    assert latents.shape == (20, N_LATENTS)
    np.testing.assert_allclose(latents.numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(latents.numpy() != 0, expected != 0)
    assert 0.05 < (expected != 0).mean() < 0.95  # some fire and some do not


def test_decode_is_the_formula_and_reconstruct_does_both():
    sae = make_sae()
    x = rows(7)
    f = formula(sae, x)
    expected = f @ sae.W_dec.numpy() + sae.b_dec.numpy()
    np.testing.assert_allclose(sae.decode(torch.from_numpy(f)).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(sae.reconstruct(torch.from_numpy(x)).numpy(), expected, atol=1e-12)


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
    fields = {"k": data.draw(st.integers(1, n_latents))} if "topk" in variant else {}
    sae = make_sae(variant, seed=seed, d_in=d_in, n_latents=n_latents, **fields)
    # whole numbers: exact in every order of summation, with ties, and with zeros that do not fire
    whole = {name: tensor.mul(2).round() for name, tensor in sae.tensors()}
    sae = replace(sae, **whole)
    x = torch.from_numpy(rows(n, seed=seed, d_in=d_in)).mul(2).round()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "CHUNK_BYTES", chunk)
        sparse = sae.encode_sparse(x)
    assert torch.equal(dense(sparse, n_latents), sae.encode(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_do_not_show(variant, monkeypatch):
    sae = make_sae(variant)
    x = torch.from_numpy(rows(50))
    whole = sae.encode_sparse(x)
    monkeypatch.setattr(autoencoder, "CHUNK_BYTES", 7 * N_LATENTS * 8)  # 7 rows at a time
    sizes = []
    encode_chunk = SparseAutoencoder._encode_chunk

    def spy(self, chunk):
        sizes.append(len(chunk))
        return encode_chunk(self, chunk)

    monkeypatch.setattr(SparseAutoencoder, "_encode_chunk", spy)
    chunked = sae.encode_sparse(x)
    assert sizes == [7] * 7 + [1]
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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architecture": "top"},
            "Got architecture='top'; expected one of relu, topk, jumprelu. Did you mean 'topk'?",
        ),
        ({"W_enc": torch.zeros(5)}, "Got W_enc of shape (5,); expected (d, F)."),
        ({"W_enc": torch.zeros(5, 0)}, "Got W_enc of shape (5, 0); expected (d, F)."),
        ({"W_enc": torch.zeros(5, 9).long()}, "Got W_enc of type torch.int64; expected floats."),
        ({"b_enc": torch.zeros(8)}, "Got b_enc of shape (8,); expected (9,)."),
        ({"b_dec": torch.zeros(9)}, "Got b_dec of shape (9,); expected (5,)."),
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
        ({"architecture": "relu"}, "Got k=3 with architecture='relu'; only topk has k."),
        (
            {"architecture": "jumprelu", "k": None},
            "Expected a threshold with architecture='jumprelu', and only there.",
        ),
        (
            {"threshold": torch.zeros(9, dtype=torch.float64)},
            "Expected a threshold with architecture='jumprelu', and only there.",
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


@pytest.mark.parametrize("variant", ["topk", "jumprelu"])
def test_the_digest_is_of_everything_that_decides_the_numbers(variant):
    sae = make_sae(variant)
    changed = [replace(sae, subtract_b_dec=False), replace(sae, W_dec=None)]
    for name, tensor in sae.tensors():
        other = tensor.clone()
        other.view(-1)[0] = torch.nextafter(other.view(-1)[0], torch.tensor(9.0, dtype=other.dtype))
        changed.append(replace(sae, **{name: other}))
    if variant == "topk":
        changed += [replace(sae, k=4), replace(sae, topk_relu=False)]
    changed.append(make_sae(variant, dtype=torch.float32))
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
    sae = make_sae(variant, hook_point=HookPoint(1), metadata={"a": [1]}, labels={0: "x"})
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
