"""Training a TopK SAE: gradients are autograd's, and planted dictionaries are found again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.hook_point import HookPoint
from sae_features.training import topk
from sae_features.training.metrics import evaluate_reconstruction
from sae_features.training.topk import (
    TopKSettings,
    _by_latent,
    _rate,
    _row_products,
    _SparseDecode,
    _TopKEncode,
    _weighted_rows,
    _Weights,
    train_topk,
)

N, D_IN, N_LATENTS, K = 12, 6, 15, 4
SETTINGS = TopKSettings(n_latents=32, k=2, epochs=1, batch_size=64, learning_rate=3e-3)


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


def dense_codes(z, W_enc, b_enc, k):
    """The encoder in plain operations: only the k largest, and of these the positive ones."""
    pre = z @ W_enc.T + b_enc
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, values.relu())


def laid_out(values, indices, n_latents):
    return torch.zeros(len(values), n_latents, dtype=values.dtype).scatter(-1, indices, values)


def gradients(output, weights, inputs):
    return torch.autograd.grad((output * weights).sum(), inputs)


@pytest.fixture
def encoder():
    """Inputs and weights; the bias makes some of the k largest negative."""
    z, W_enc = draw(N, D_IN, seed=1), draw(N_LATENTS, D_IN, seed=2)
    b_enc = (draw(N_LATENTS, seed=3) - 2.5).detach().requires_grad_()
    return z, W_enc, b_enc


def test_sparse_encoding_and_its_gradients(encoder):
    expected = dense_codes(*encoder, K)
    kept = (expected > 0).sum(dim=1)
    assert 0 <= int(kept.min()) < K  # relu cuts some of the k
    assert int(kept.max()) > 1
    values, indices = _TopKEncode.apply(*encoder, K)
    codes = laid_out(values, indices, N_LATENTS)
    torch.testing.assert_close(codes, expected)
    weights = draw(N, N_LATENTS, seed=4).detach()
    for own, plain in zip(
        gradients(codes, weights, encoder), gradients(expected, weights, encoder), strict=True
    ):
        assert own.dtype == torch.float64
        torch.testing.assert_close(own.to_dense(), plain)


def test_sparse_decoding_and_its_gradients(encoder):
    W_dec = draw(N_LATENTS, D_IN, seed=5)
    values, indices = _TopKEncode.apply(*encoder, K)
    decoded = _SparseDecode.apply(values, indices, W_dec)
    expected = dense_codes(*encoder, K) @ W_dec
    torch.testing.assert_close(decoded, expected)
    weights = draw(N, D_IN, seed=6).detach()
    inputs = (*encoder, W_dec)
    for own, plain in zip(
        gradients(decoded, weights, inputs), gradients(expected, weights, inputs), strict=True
    ):
        torch.testing.assert_close(own.to_dense(), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sparse_products(dtype):
    indices = torch.tensor([[0, 2], [2, 1], [3, 0]])
    values = draw(3, 2, dtype=dtype).detach()
    matrix, rows = draw(5, 4, seed=1, dtype=dtype).detach(), draw(3, 4, seed=2, dtype=dtype).detach()
    codes = laid_out(values, indices, 5)
    torch.testing.assert_close(_weighted_rows(values, indices, matrix), codes @ matrix)
    torch.testing.assert_close(
        _row_products(rows, indices, matrix), (rows @ matrix.T).gather(1, indices)
    )
    torch.testing.assert_close(_by_latent(indices, values, 5).to_dense(), codes.T)


def test_the_transposed_codes_of_more_latents_than_16_bits_count():
    indices = torch.tensor([[70_000, 1], [65_536, 70_000]])
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    transposed = _by_latent(indices, values, 70_001)
    rows = transposed @ torch.tensor([[10.0], [1.0]])
    assert rows[[1, 65_536, 70_000], 0].tolist() == [20, 3, 14]
    assert int((rows != 0).sum()) == 3


@pytest.mark.parametrize("with_dead", [False, True])
def test_the_gradients_of_the_loss_are_those_of_the_formula(with_dead):
    settings = replace(SETTINGS, n_latents=N_LATENTS, k=K, aux_k=3, aux_weight=0.25)
    weights = _Weights(D_IN, settings, torch.Generator().manual_seed(0))
    with torch.no_grad():  # away from the tied and centred start
        weights.W_enc += 0.3 * draw(N_LATENTS, D_IN, seed=1, dtype=torch.float32)
        weights.b_enc += 0.3 * draw(N_LATENTS, seed=2, dtype=torch.float32)
        weights.b_dec += 0.3 * draw(D_IN, seed=3, dtype=torch.float32)
    x = draw(N, D_IN, seed=4, dtype=torch.float32).detach()
    dead = torch.zeros(N_LATENTS, dtype=torch.bool)
    dead[[1, 4, 5, 9]] = with_dead
    loss, indices, fired = weights.loss(x, settings, dead)
    own = torch.autograd.grad(loss, weights.all())

    W_enc, b_enc, W_dec, b_dec = exact = [w.detach().double().requires_grad_() for w in weights.all()]
    x = x.double()
    codes = dense_codes(x - b_dec, W_enc, b_enc, K)
    error = x - (codes @ W_dec + b_dec)
    expected = error.square().sum(dim=1).mean() / x.var(dim=0, correction=0).sum()
    if with_dead:
        residual = error.detach()
        aux = dense_codes((x - b_dec).detach(), W_enc[dead], b_enc[dead], 3)
        remainder = (residual - aux @ W_dec[dead]).square().sum(dim=1).mean()
        expected = expected + 0.25 * remainder / residual.square().sum(dim=1).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for gradient, plain in zip(own, torch.autograd.grad(expected, exact), strict=True):
        torch.testing.assert_close(gradient.to_dense().double(), plain, rtol=1e-4, atol=1e-6)
        assert plain.abs().max() > 0
    assert torch.equal(laid_out(fired.long(), indices, N_LATENTS), (codes > 0).long())


def test_decoder_directions_stay_on_the_unit_sphere():
    weights = _Weights(D_IN, SETTINGS, torch.Generator().manual_seed(0))
    weights.W_dec.grad = draw(32, D_IN, seed=1, dtype=torch.float32).detach()
    before = weights.W_dec.grad.clone()
    weights.remove_parallel_gradient()
    torch.testing.assert_close((weights.W_dec.grad * weights.W_dec).sum(dim=1), torch.zeros(32))
    along = (before * weights.W_dec).sum(dim=1, keepdim=True)
    torch.testing.assert_close(weights.W_dec.grad, before - along * weights.W_dec)
    with torch.no_grad():
        weights.W_dec *= 3
    weights.normalize_decoder()
    torch.testing.assert_close(weights.W_dec.norm(dim=1), torch.ones(32))


def test_the_learning_rate_warms_up_and_decays():
    rates = [_rate(step, 100) for step in range(100)]
    np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(rates[4:71]) == {1.0}
    np.testing.assert_allclose(rates[70:], [(100 - step) / 30 for step in range(70, 100)])
    assert min(rates) > 0
    assert _rate(0, 1) == 1.0


def planted(n=6000, d_in=16, n_atoms=24, *, seed=0, row_seed=0):
    """Pairs of unit directions in positive amounts, far from the origin and of odd scale."""
    generator = np.random.default_rng(seed)
    atoms = generator.standard_normal((n_atoms, d_in))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    center = generator.standard_normal(d_in)
    generator = np.random.default_rng(row_seed)
    codes = np.zeros((n, n_atoms))
    for row in codes:
        row[generator.choice(n_atoms, 2, replace=False)] = generator.uniform(1, 2, 2)
    return (7.0 * codes @ atoms + 30.0 * center).astype(np.float32), atoms


@pytest.fixture(scope="module")
def recovered():
    """An SAE trained on a planted dictionary, with its data."""
    activations, atoms = planted()
    settings = TopKSettings(n_latents=48, k=3, epochs=25, batch_size=250, learning_rate=4e-3, seed=1)
    sae = train_topk(activations, settings, hook_point=HookPoint(3), metadata={"corpus": "planted"})
    return sae, activations, atoms


def test_a_planted_dictionary_is_recovered(recovered):
    sae, _, atoms = recovered
    similarity = (sae.W_dec.numpy() @ atoms.T).max(axis=0)
    assert similarity.min() > 0.9, np.sort(similarity)
    held_out = evaluate_reconstruction(sae, planted(n=1000, row_seed=1)[0])
    assert held_out.fvu < 0.05
    assert held_out.l0 <= 3


def test_the_sae_takes_and_gives_activations_as_they_are(recovered):
    sae, activations, _ = recovered
    assert np.linalg.norm(activations.mean(axis=0)) > 50  # neither centred
    assert activations.var(axis=0).sum() > 50  # nor scaled
    x = torch.from_numpy(activations[:100])
    error = (sae.reconstruct(x) - x).square().sum(dim=1).sqrt()
    assert float(error.median()) < 0.2 * float((x - x.mean(dim=0)).norm(dim=1).median())


def test_what_is_returned(recovered):
    sae, activations, _ = recovered
    assert (sae.architecture, sae.k, sae.topk_relu, sae.subtract_b_dec) == ("topk", 3, True, True)
    assert (sae.d_in, sae.n_latents) == (activations.shape[1], 48)
    assert sae.hook_point == HookPoint(3)
    assert sae.metadata == {"corpus": "planted"}
    assert not any(tensor.requires_grad for _, tensor in sae.tensors())
    assert all(tensor.dtype == torch.float32 for _, tensor in sae.tensors())
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(48))


def small_data(n=640, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 8)).astype(np.float32)


def same_weights(first, second):
    pairs = zip(first.tensors(), second.tensors(), strict=True)
    return all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def test_the_same_seed_gives_the_same_weights():
    data = small_data()
    sae = train_topk(data, SETTINGS)
    torch.manual_seed(12345)  # the global generator has no part in it
    assert same_weights(sae, train_topk(data, SETTINGS))
    assert sae.digest == train_topk(data, SETTINGS).digest
    assert not same_weights(sae, train_topk(data, replace(SETTINGS, seed=1)))


def test_training_leaves_the_global_generator_and_the_data_alone():
    data = small_data()
    before, state = data.copy(), torch.get_rng_state()
    train_topk(data, SETTINGS)
    np.testing.assert_array_equal(data, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])
def test_the_scale_of_the_activations_is_folded_into_the_biases(scale):
    # powers of two are exact, so that training sees the very same numbers
    data = small_data()
    sae, scaled = train_topk(data, SETTINGS), train_topk(data * np.float32(scale), SETTINGS)
    x = torch.from_numpy(data[:20])
    torch.testing.assert_close(scaled.W_enc, sae.W_enc)
    torch.testing.assert_close(scaled.b_enc, sae.b_enc * scale)
    torch.testing.assert_close(scaled.b_dec, sae.b_dec * scale)
    torch.testing.assert_close(scaled.encode(x * scale), sae.encode(x) * scale)
    torch.testing.assert_close(scaled.reconstruct(x * scale), sae.reconstruct(x) * scale)


def test_float64_activations_give_the_same_sae():
    data = small_data()
    assert same_weights(train_topk(data, SETTINGS), train_topk(data.astype(np.float64), SETTINGS))


def test_the_auxiliary_loss_revives_dead_latents(monkeypatch):
    class HalfDead(_Weights):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            with torch.no_grad():
                self.b_enc[:24] = -3.0

    monkeypatch.setattr(topk, "_Weights", HalfDead)
    data = planted(n=2000, seed=3)[0]
    settings = TopKSettings(
        n_latents=32, k=2, epochs=20, batch_size=200, learning_rate=1e-2, dead_after=1000, aux_k=8
    )
    fires, fvu = {}, {}
    for weight in (0.0, 1 / 32):
        sae = train_topk(data, replace(settings, aux_weight=weight))
        fires[weight] = int((sae.encode(torch.from_numpy(data)) > 0).any(dim=0)[:24].sum())
        fvu[weight] = evaluate_reconstruction(sae, data).fvu
    assert fires[0.0] <= 5
    assert fires[1 / 32] >= fires[0.0] + 5
    assert fvu[1 / 32] < 0.8 * fvu[0.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_refused(value):
    data = small_data()
    data[100, 3] = value
    message = r"^Got activations of variance nan; expected finite values that differ\.$"
    with pytest.raises(InvalidInputError, match=message):
        train_topk(data, SETTINGS)


def test_activations_that_are_all_the_same_are_refused():
    message = r"^Got activations of variance 0\.0; expected finite values that differ\.$"
    with pytest.raises(InvalidInputError, match=message):
        train_topk(np.full((64, 3), 0.5, np.float32), SETTINGS)


@pytest.mark.parametrize("shape", [(63, 8), (0, 8), (64,), (2, 64, 8)])
def test_too_few_rows_are_refused(shape):
    expected = rf"^Got activations \({', '.join(map(str, shape))},?\); expected at least 64 rows\.$"
    with pytest.raises(InvalidInputError, match=expected):
        train_topk(np.zeros(shape, np.float32), SETTINGS)


@pytest.mark.parametrize("k", [0, -1, 33])
def test_k_must_fit_the_width(k):
    with pytest.raises(InvalidParameterError, match=rf"^Got k={k}; expected 1 to 32 \(n_latents\)\.$"):
        train_topk(small_data(), replace(SETTINGS, k=k))


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_there_must_be_a_step(name):
    with pytest.raises(InvalidParameterError, match=rf"^Got {name}=0; expected at least 1\.$"):
        train_topk(small_data(), replace(SETTINGS, **{name: 0}))


def test_progress_is_shown_when_asked_for(capsys):
    train_topk(small_data(), SETTINGS, verbose=True)
    assert "10/10" in capsys.readouterr().err
    train_topk(small_data(), SETTINGS)
    assert capsys.readouterr().err == ""
