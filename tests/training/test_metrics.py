"""Each figure equals its formula, written out in numpy float64 over all rows at once."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import varied_sae

from sae_features.errors import InputTypeError, InvalidInputError, InvalidParameterError
from sae_features.hook_point import HookPoint
from sae_features.saes.autoencoder import SparseAutoencoder
from sae_features.saes.random_control import random_autoencoder
from sae_features.training.metrics import DENSITY_EDGES, evaluate_sae
from sae_features.training.sources import ArraySource

D_IN, N_LATENTS = 6, 20
FIGURES = ("l0", "l1", "fvu", "explained_variance", "mse", "gamma", "cosine", "alive", "dead")


@pytest.fixture
def sae():
    """Weights with a bias that silences some latents for ever."""
    generator = torch.Generator().manual_seed(0)
    b_enc = torch.zeros(N_LATENTS)
    b_enc[::4] = -100
    return SparseAutoencoder(
        "topk",
        W_enc=torch.randn(D_IN, N_LATENTS, generator=generator),
        b_enc=b_enc,
        b_dec=torch.randn(D_IN, generator=generator),
        W_dec=torch.randn(N_LATENTS, D_IN, generator=generator) / 4,
        k=3,
    )


def activations(n=300, offset=5.0):
    return (np.random.default_rng(0).standard_normal((n, D_IN)) + offset).astype(np.float32)


def written_out(sae, x):
    """All figures of an SAE without an input norm, by their formulas."""
    latents = sae.encode(torch.from_numpy(x)).double().numpy()
    x = x.astype(np.float64)
    x_hat = latents @ sae.W_dec.double().numpy() + sae.b_dec.double().numpy()
    fires = latents != 0
    fvu = np.sum((x - x_hat) ** 2) / np.sum((x - x.mean(axis=0)) ** 2)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(x_hat, axis=1)
    return {
        "l0": fires.sum(axis=1).mean(),
        "l1": np.abs(latents).sum(axis=1).mean(),
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "mse": np.mean((x - x_hat) ** 2),
        "gamma": np.mean(np.sum(x_hat**2, axis=1)) / np.mean(np.sum(x * x_hat, axis=1)),
        "cosine": np.mean(np.sum(x * x_hat, axis=1) / norms),
        "alive": fires.any(axis=0).mean(),
        "dead": 1 - fires.any(axis=0).mean(),
    }


def identity(d_in=D_IN, shrunk=1.0):
    """An SAE whose reconstruction is ``shrunk · x``, for any x: two latents a dimension."""
    eye = torch.eye(d_in)
    return SparseAutoencoder(
        "relu",
        W_enc=torch.cat([eye, -eye], dim=1),
        b_enc=torch.zeros(2 * d_in),
        b_dec=torch.zeros(d_in),
        W_dec=torch.cat([eye, -eye]) * shrunk,
    )


@pytest.mark.parametrize("batch_size", [1, 7, 300, 4096])
def test_the_figures_are_the_formulas_however_rows_are_batched(sae, batch_size):
    x = activations()
    result = evaluate_sae(sae, x, batch_size=batch_size)
    for name, value in written_out(sae, x).items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-6), name
    fires = sae.encode(torch.from_numpy(x)).numpy() != 0
    np.testing.assert_array_equal(result.counts, fires.sum(axis=0))
    np.testing.assert_array_equal(result.density, fires.mean(axis=0))
    assert (result.n_tokens, result.n_latents, result.architecture) == (300, N_LATENTS, "topk")
    assert 0 < result.l0 <= 3
    assert 0 < result.alive <= 0.75


@pytest.mark.parametrize("architecture", ["relu", "gated", "topk", "groupmax", "jumprelu"])
def test_every_architecture(architecture):
    sae = varied_sae(architecture, d_in=D_IN)
    x = activations(offset=0.5)
    result = evaluate_sae(sae, x)
    for name, value in written_out(sae, x).items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("norm", ["scale", "center", "layer_norm", "rms_norm"])
def test_reconstructions_are_in_the_units_of_the_input(norm):
    scale = 0.5 if norm == "scale" else None
    sae = varied_sae("relu", d_in=D_IN, input_norm=norm, norm_scale=scale, latent_scale=True)
    x = activations(offset=2.0)
    x_hat = sae.reconstruct(torch.from_numpy(x)).numpy()
    wide = x.astype(np.float64)
    expected = np.sum((wide - x_hat) ** 2) / np.sum((wide - wide.mean(axis=0)) ** 2)
    assert evaluate_sae(sae, x).fvu == pytest.approx(expected, rel=1e-6)


@given(cuts=st.lists(st.integers(1, 299), max_size=6, unique=True))
def test_ragged_batches_give_the_same(cuts):
    x = activations()

    class Ragged(ArraySource):
        def in_order(self, batch_size, *, start=0):
            return iter(torch.from_numpy(self.activations).tensor_split(sorted(cuts)))

    sae = varied_sae("relu", d_in=D_IN)
    result, whole = evaluate_sae(sae, Ragged(x)), evaluate_sae(sae, x)
    for name in FIGURES:
        assert getattr(result, name) == pytest.approx(getattr(whole, name), rel=1e-12), name


def test_a_large_common_offset_does_not_spoil_the_variance(sae):
    # Sums of squares lose the variance of such rows in float32, and ten digits of it in float64.
    x = activations(n=5000, offset=1e4)
    wide = x.astype(np.float64)
    variance = np.sum((wide - wide.mean(axis=0)) ** 2)
    rows = torch.from_numpy(x)
    error = np.sum((wide - sae.reconstruct(rows, sae.encode_sparse(rows)).double().numpy()) ** 2)
    for batch_size in (64, 5000):
        result = evaluate_sae(sae, x, batch_size=batch_size)
        assert result.fvu * variance == pytest.approx(error, rel=1e-9)
    mean = SparseAutoencoder(
        "relu",
        W_enc=torch.zeros(D_IN, 1),
        b_enc=torch.zeros(1),
        b_dec=torch.from_numpy(wide.mean(axis=0)).float(),
        W_dec=torch.zeros(1, D_IN),
    )
    assert evaluate_sae(mean, x, batch_size=64).fvu == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("shrunk", [1.0, 0.75, 1.25])
def test_gamma_is_the_planted_shrinkage(shrunk):
    result = evaluate_sae(identity(shrunk=shrunk), activations(offset=0.0))
    assert result.gamma == pytest.approx(shrunk, rel=1e-6)
    assert result.cosine == pytest.approx(1, rel=1e-6)


def test_gamma_minimises_the_error_of_the_rescaled_reconstruction(sae):
    x = activations()
    x_hat = sae.reconstruct(torch.from_numpy(x)).double().numpy()
    gamma = evaluate_sae(sae, x).gamma

    def error(g):
        return np.sum((x_hat / g - x) ** 2)

    assert error(gamma) < min(error(0.99 * gamma), error(1.01 * gamma))


def test_a_perfect_sae():
    eye = torch.eye(4)
    sae = SparseAutoencoder("relu", W_enc=eye, b_enc=torch.zeros(4), b_dec=torch.zeros(4), W_dec=eye)
    result = evaluate_sae(sae, np.array([[1, 0, 2, 0], [0, 0, 1, 0]], np.float32))
    assert result.asdict() == {
        "architecture": "relu", "n_latents": 4, "n_tokens": 2, "l0": 1.5, "l1": 2.0, "fvu": 0.0,
        "explained_variance": 1.0, "mse": 0.0, "gamma": 1.0, "cosine": pytest.approx(1), "alive": 0.5,
        "dead": 0.5,
    }  # fmt: skip
    assert result.counts.tolist() == [1, 0, 2, 0]


def test_a_record_is_plain_json(sae):
    record = evaluate_sae(sae, activations()).asdict()
    assert json.loads(json.dumps(record)) == record
    assert "counts" not in record


def test_rows_that_say_nothing():
    zeros = evaluate_sae(identity(shrunk=0.0), activations())
    assert np.isnan(zeros.gamma)
    assert (zeros.cosine, zeros.mse) == (0, pytest.approx(np.mean(activations().astype(float) ** 2)))
    constant = evaluate_sae(identity(shrunk=0.5), np.full((1000, D_IN), 0.1, np.float32), batch_size=7)
    assert np.isnan(constant.fvu)
    assert np.isnan(constant.explained_variance)
    assert constant.gamma == pytest.approx(0.5)


def test_the_density_histogram_has_fixed_bins(sae):
    result = evaluate_sae(sae, activations())
    n, edges = result.density_histogram()
    np.testing.assert_array_equal(edges, DENSITY_EDGES)
    assert n.sum() == np.count_nonzero(result.counts) == round(result.alive * N_LATENTS)
    always = evaluate_sae(identity(), np.abs(activations()))
    assert always.density_histogram()[0][-1] == D_IN


def test_any_source_will_do(sae):
    x = activations()
    whole = evaluate_sae(sae, x)
    assert evaluate_sae(sae, torch.from_numpy(x)) == whole
    assert evaluate_sae(sae, ArraySource(x)) == whole
    assert evaluate_sae(sae, x.astype(np.float64)) == whole


@pytest.mark.parametrize(("max_rows", "n"), [(1, 1), (70, 70), (300, 300), (10**6, 300)])
def test_the_first_rows_only(sae, max_rows, n):
    result = evaluate_sae(sae, activations(), batch_size=64, max_rows=max_rows)
    assert result.n_tokens == n
    latents = sae.encode(torch.from_numpy(activations()[:n]))
    assert result.l0 == pytest.approx(float((latents != 0).sum()) / n)


def test_progress_is_shown_where_asked_for(sae, capsys):
    evaluate_sae(sae, activations())
    assert capsys.readouterr().err == ""
    evaluate_sae(sae, activations(), verbose=True)
    assert "300/300" in capsys.readouterr().err


class TestErrors:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_rows_that_are_not_finite_are_named(self, sae, value):
        x = activations()
        x[130, 2] = value
        message = r"^Got activations that are not finite in batch 2 \(row 10 of it; "
        with pytest.raises(InvalidInputError, match=message):
            evaluate_sae(sae, x, batch_size=60)

    def test_no_decoder(self):
        with pytest.raises(InvalidParameterError, match="^This SAE has no decoder: "):
            evaluate_sae(random_autoencoder(D_IN, 8, 2), activations())

    @pytest.mark.parametrize(
        "changes", [{"d_out": 4}, {"skip": True}, {"hook_point_out": HookPoint(3, "mlp_out")}]
    )
    def test_transcoders(self, changes):
        sae = varied_sae("relu", d_in=D_IN, **changes)
        with pytest.raises(InvalidParameterError, match="^Got a transcoder .*; expected an SAE"):
            evaluate_sae(sae, activations())

    def test_a_place_that_is_its_own_output_is_no_transcoder(self, sae):
        point = HookPoint(3)
        evaluate_sae(replace(sae, hook_point=point, hook_point_out=point), activations())

    def test_another_width(self, sae):
        message = "^Got activations of size 4; expected 6, as this SAE takes. Were they read at its hook"
        with pytest.raises(InvalidInputError, match=message):
            evaluate_sae(sae, activations()[:, :4])

    def test_no_rows(self, sae):
        with pytest.raises(InvalidInputError, match=r"^Got activations of shape \(0, 6\); expected"):
            evaluate_sae(sae, activations()[:0])

    def test_no_array(self, sae):
        with pytest.raises(InputTypeError, match="^Got activations of type list; expected"):
            evaluate_sae(sae, activations().tolist())

    @pytest.mark.parametrize("name", ["batch_size", "max_rows"])
    def test_numbers_below_1(self, sae, name):
        with pytest.raises(InvalidParameterError, match=f"^Got {name}=0; expected"):
            evaluate_sae(sae, activations(), **{name: 0})
