"""Sparse maps: each column is scikit-learn's regression on the few latents that correlate most."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from sae_features.evaluation.maps import few_latents
from sae_features.evaluation.maps.few_latents import STRENGTHS, fit_few_latents

CONTAINERS = [np.asarray, sparse.csr_matrix, sparse.csc_array]


def rows(n=80, p=12, q=6, seed=0):
    """Latents of B; those of A are sums of two of them and noise, one is silent, one is its own."""
    rng = np.random.default_rng(seed)
    X = rng.exponential(size=(n, p)) * (rng.random((n, p)) < 0.4)
    weights = np.zeros((p, q))
    for column in range(q):
        weights[[2 * column, 2 * column + 1], column] = rng.uniform(0.5, 4, 2)
    Y = X @ weights * rng.uniform(0.8, 1.2, (n, q)) * 10.0 ** rng.integers(-2, 3, q)
    Y[:, 4], Y[:, 5] = 0, rng.exponential(size=n) * (rng.random(n) < 0.2)
    X[:, 11] = 0
    return X.astype(np.float32), Y.astype(np.float32)


def most_correlated(X, Y, column, count):
    with np.errstate(all="ignore"):
        found = [np.corrcoef(x, Y[:, column])[0, 1] for x in X.T.astype(np.float64)]
    found = np.nan_to_num(found)
    return np.argsort(-abs(found), kind="stable")[:count], found


def scaled(X, chosen):
    columns = X[:, chosen].astype(np.float64)
    norms = np.sqrt((columns**2).mean(axis=0))
    return columns / norms, norms


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("positive", [True, False])
def test_coefficients_are_those_of_scikit_learn(container, count, positive):
    X, Y = rows()
    X[:, 1] *= 1000  # of no influence on the penalty
    given = {"n_nonzero": count, "least": 0.0, "positive": positive, "alpha": 0.3}
    found = fit_few_latents(container(X), container(Y), **given)
    assert found.coef.format == "csc"
    for column in (0, 1, 2, 3, 5):
        chosen, correlations = most_correlated(X, Y, column, count)
        if positive:
            chosen = np.argsort(-correlations, kind="stable")[:count]
        columns, norms = scaled(X, chosen)
        model = Ridge(0.3 * len(X), fit_intercept=False, positive=positive, tol=1e-12)
        expected = np.zeros(X.shape[1])
        expected[chosen] = model.fit(columns, Y[:, column].astype(np.float64)).coef_ / norms
        scale = abs(expected).max()
        np.testing.assert_allclose(
            found.coef[:, [column]].toarray().ravel(), expected, atol=1e-6 * scale
        )
    assert found.coef[:, [4]].nnz == 0
    np.testing.assert_allclose(found.alpha, [0.3, 0.3, 0.3, 0.3, 0.3, 0.3])


def gcv(columns, y, alpha):
    inner = columns @ columns.T / len(y)
    hat = np.linalg.solve(inner + alpha * np.eye(len(y)), inner)
    return ((y - hat @ y) ** 2).sum() / (1 - np.trace(hat) / len(y)) ** 2


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_strength_of_each_has_the_least_score(container):
    X, Y = rows(n=25)
    found = fit_few_latents(container(X), container(Y), n_nonzero=4, least=0.001)
    assert len(set(found.alpha[:4])) > 1
    for column in (0, 1, 2, 3, 5):
        columns, _ = scaled(X, most_correlated(X, Y, column, 4)[0])
        scores = [gcv(columns, Y[:, column].astype(np.float64), alpha) for alpha in STRENGTHS]
        assert found.alpha[column] == STRENGTHS[int(np.argmin(scores))]


@pytest.mark.parametrize("positive", [True, False])
def test_blocks_do_not_change_what_is_found(positive, monkeypatch):
    X, Y = rows()
    given = {"n_nonzero": 3, "least": 0.2, "positive": positive}
    expected = fit_few_latents(X, Y, **given)
    monkeypatch.setattr(few_latents, "BLOCK_VALUES", 500)  # two latents of A at a time
    found = fit_few_latents(sparse.csr_matrix(X), sparse.csr_matrix(Y), **given)
    np.testing.assert_allclose(found.coef.toarray(), expected.coef.toarray(), rtol=1e-9)
    np.testing.assert_array_equal(found.alpha, expected.alpha)


def test_latents_below_the_least_correlation_are_left_out():
    X, Y = rows()
    found = fit_few_latents(X, Y, n_nonzero=5, least=0.5)
    assert found.matched.tolist() == [True, True, True, True, False, False]
    assert np.isnan(found.alpha).tolist() == [False, False, False, False, True, True]
    for column in range(4):
        chosen, correlations = most_correlated(X, Y, column, 5)
        expected = {int(i) for i in chosen if abs(correlations[i]) >= 0.5}
        assert set(found.coef[:, [column]].nonzero()[0].tolist()) == expected
    assert found.coef.nnz < 12


def test_planted_sums_are_recovered_and_silence_stays_silent():
    X, _ = rows()
    Y = np.column_stack([2 * X[:, 3], X[:, 0] + 5 * X[:, 6]])
    found = fit_few_latents(X, Y, n_nonzero=2, least=0.2, alpha=1e-9)
    expected = np.zeros((12, 2))
    expected[3, 0], expected[[0, 6], 1] = 2, [1, 5]
    kept = found.coef.toarray() * (expected != 0)
    np.testing.assert_allclose(kept, expected, atol=1e-5)
    rows_of_a = found.apply(sparse.csr_matrix(np.eye(12)))
    np.testing.assert_allclose(rows_of_a.toarray(), np.maximum(found.coef.toarray(), 0))
    assert found.apply(np.zeros((3, 12))).nnz == 0


def test_a_negative_relation_is_used_unless_coefficients_are_positive():
    rng = np.random.default_rng(0)
    X = rng.random((60, 1))
    Y = -X
    found = fit_few_latents(X, Y, n_nonzero=1, least=0.2, alpha=1e-9)
    np.testing.assert_allclose(found.apply(X).toarray(), Y, atol=1e-6)
    assert not found.is_nonnegative
    assert not fit_few_latents(X, Y, n_nonzero=1, least=0.2, positive=True).matched.any()


def test_latents_never_fall_below_zero():
    X, Y = rows()
    found = fit_few_latents(X, Y, n_nonzero=6, least=0.0)
    raw = X.astype(np.float64) @ found.coef.toarray()
    assert raw.min() < 0
    applied = found.apply(X)
    np.testing.assert_allclose(applied.toarray(), np.maximum(raw, 0), atol=1e-9)
    assert applied.data.min() > 0
