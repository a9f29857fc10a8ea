"""The mean max cosine similarity equals its formula, and tells planted directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import varied_sae

from sae_features.errors import InvalidParameterError
from sae_features.saes.random_control import random_autoencoder
from sae_features.training import similarity
from sae_features.training.similarity import mmcs


def directions(n, seed=0, d=8):
    return np.random.default_rng(seed).standard_normal((n, d))


def written_out(a, b):
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    b = b / np.linalg.norm(b, axis=1, keepdims=True)
    return (a @ b.T).max(axis=1).mean()


@pytest.mark.parametrize("rows", [1, 7, 2048])
def test_it_is_the_formula_in_each_direction(monkeypatch, rows):
    monkeypatch.setattr(similarity, "SIMILARITY_ROWS", rows)
    a, b = directions(20), directions(33, seed=1)
    assert mmcs(a, b) == pytest.approx(written_out(a, b), rel=1e-6)
    assert mmcs(b, a) == pytest.approx(written_out(b, a), rel=1e-6)
    assert mmcs(a, b) != pytest.approx(mmcs(b, a), rel=1e-3)


def test_planted_directions_in_any_order_and_of_any_length():
    planted = directions(12)
    found = np.concatenate([planted[::-1] * 3, directions(20, seed=1)])
    assert mmcs(planted, found) == pytest.approx(1, rel=1e-6)
    assert mmcs(found, planted) < 0.95
    assert mmcs(planted, -planted) < 0.9  # a direction is not its opposite


def test_of_saes_the_decoder_counts():
    a, b = varied_sae("relu", seed=0), varied_sae("topk", seed=1, latent_scale=True)
    expected = written_out(a.W_dec.numpy(), b.W_dec.numpy())
    assert mmcs(a, b) == pytest.approx(expected, rel=1e-6)
    assert mmcs(a, torch.as_tensor(a.W_dec)) == pytest.approx(1, rel=1e-6)


def test_rows_of_zeros_have_no_direction():
    a = np.concatenate([np.eye(3), np.zeros((1, 3))])
    assert mmcs(a, np.eye(3)) == 0.75
    assert mmcs(np.eye(3), a) == 1


def test_errors():
    with pytest.raises(InvalidParameterError, match="^Got directions of 8 and 6 dimensions; expected"):
        mmcs(directions(3), directions(3, d=6))
    with pytest.raises(InvalidParameterError, match="^Got b without a decoder; expected"):
        mmcs(directions(3, d=6), random_autoencoder(6, 8, 2))
    with pytest.raises(InvalidParameterError, match=r"^Got a of shape \(8,\); expected"):
        mmcs(directions(1)[0], directions(3))
