"""Reconstruction figures equal the formulas written out in numpy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_features.errors import InvalidParameterError
from sae_features.saes.autoencoder import SparseAutoencoder
from sae_features.saes.random_control import random_autoencoder
from sae_features.training import metrics
from sae_features.training.metrics import Reconstruction, evaluate_reconstruction

D_IN, N_LATENTS = 6, 20


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


def activations(n=300):
    return (np.random.default_rng(0).standard_normal((n, D_IN)) + 5).astype(np.float32)


def expected(sae, x):
    latents = sae.encode(torch.from_numpy(x)).double().numpy()
    x = x.astype(np.float64)
    reconstructed = latents @ sae.W_dec.double().numpy() + sae.b_dec.double().numpy()
    error = np.sum((x - reconstructed) ** 2)
    variance = np.sum((x - x.mean(axis=0)) ** 2)
    fires = latents != 0
    return error / variance, fires.sum(axis=1).mean(), fires.any(axis=0).mean()


@pytest.mark.parametrize("batch", [1, 7, 300, 4096])
def test_the_figures_are_the_formulas_however_rows_are_batched(sae, monkeypatch, batch):
    monkeypatch.setattr(metrics, "BATCH_ROWS", batch)
    x = activations()
    result = evaluate_reconstruction(sae, x)
    fvu, l0, alive = expected(sae, x)
    assert result.fvu == pytest.approx(fvu, rel=1e-6)
    assert result.l0 == pytest.approx(l0, rel=1e-12)
    assert result.alive == pytest.approx(alive, rel=1e-12)
    assert result.n_tokens == 300
    assert 0 < l0 <= 3
    assert 0 < alive <= 0.75


def test_variance_far_from_the_origin_is_not_lost(sae):
    # in float32, the sum of squares of such values would drown their variance
    x = activations() + np.float32(4096)
    variance = x.astype(np.float64).var(axis=0).sum()
    mean = SparseAutoencoder(
        "relu",
        W_enc=torch.zeros(D_IN, 1),
        b_enc=torch.zeros(1),
        b_dec=torch.from_numpy(x.astype(np.float64).mean(axis=0)).float(),
        W_dec=torch.zeros(1, D_IN),
    )
    assert 4 < variance < 8
    assert evaluate_reconstruction(mean, x).fvu == pytest.approx(1, rel=1e-5)


def test_a_perfect_sae():
    eye = torch.eye(4)
    sae = SparseAutoencoder("relu", W_enc=eye, b_enc=torch.zeros(4), b_dec=torch.zeros(4), W_dec=eye)
    x = np.array([[1, 0, 2, 0], [0, 0, 1, 0]], np.float32)
    assert evaluate_reconstruction(sae, x) == Reconstruction(n_tokens=2, fvu=0.0, l0=1.5, alive=0.5)


def test_the_figures_by_name(sae):
    result = Reconstruction(n_tokens=2, fvu=0.25, l0=3.0, alive=1.0)
    assert result.asdict() == {"n_tokens": 2, "fvu": 0.25, "l0": 3.0, "alive": 1.0}


def test_it_needs_the_decoder():
    with pytest.raises(InvalidParameterError, match="^This SAE has no decoder: "):
        evaluate_reconstruction(random_autoencoder(D_IN, 8, 2), activations())
