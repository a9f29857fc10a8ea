"""Ridge regression: scikit-learn's coefficients, and the definition of generalised cross-validation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from sae_features.evaluation.maps.ridge import STRENGTHS, fit_ridge

CONTAINERS = [np.asarray, sparse.csr_matrix, sparse.csc_array]
SHAPES = [(40, 6, 3), (12, 30, 4), (12, 30, 90), (9, 9, 5), (2, 4, 3), (50, 4, 60)]


def rows(n, p, q, seed=0):
    """Sparse rows; the second linear in the first but for noise, in columns of different loudness."""
    rng = np.random.default_rng(seed)
    X = rng.exponential(size=(n, p)) * (rng.random((n, p)) < 0.5)
    Y = X @ rng.normal(size=(p, q)) + rng.normal(size=(n, q)) + 3
    Y *= 10.0 ** rng.integers(-2, 3, q)
    Y[rng.random(Y.shape) < 0.2] = 0
    return X.astype(np.float32), Y.astype(np.float32)


def mean_eigenvalue(X):
    centred = X.astype(np.float64) - X.astype(np.float64).mean(axis=0)
    eigenvalues = np.linalg.svd(centred, compute_uv=False) ** 2
    return eigenvalues[eigenvalues > 1e-9 * eigenvalues.max()].mean()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("of_x", CONTAINERS)
@pytest.mark.parametrize("of_y", CONTAINERS)
@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_coefficients_are_those_of_scikit_learn(shape, of_x, of_y, alpha):
    X, Y = rows(*shape)
    found = fit_ridge(of_x(X), of_y(Y), alpha)
    penalty = alpha * mean_eigenvalue(X)
    expected = Ridge(penalty, solver="svd").fit(X.astype(np.float64), Y.astype(np.float64))
    scale = abs(Y).max()
    np.testing.assert_allclose(found.coef, expected.coef_.T, atol=1e-9 * scale)
    np.testing.assert_allclose(found.intercept, expected.intercept_, atol=1e-9 * scale)
    applied = found.apply(of_x(X[:5]))
    np.testing.assert_allclose(applied, expected.predict(X[:5].astype(np.float64)), atol=1e-9 * scale)


def gcv(X, Y, alpha):
    """The definition: residuals and the trace of the hat matrix, each column of variance 1."""
    X, Y = X.astype(np.float64), Y.astype(np.float64)
    centred = X - X.mean(axis=0)
    penalty = alpha * mean_eigenvalue(X)
    inner = centred @ centred.T
    hat = np.linalg.solve(inner + penalty * np.eye(len(X)), inner) + 1 / len(X)
    standard = (Y - Y.mean(axis=0)) / Y.std(axis=0)
    residual = standard - hat @ standard
    return (residual**2).sum() / (1 - np.trace(hat) / len(X)) ** 2


@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_strength_has_the_least_score(shape, container):
    X, Y = rows(*shape)
    scores = [gcv(X, Y, alpha) for alpha in STRENGTHS]
    assert fit_ridge(container(X), container(Y)).alpha == STRENGTHS[int(np.argmin(scores))]


def test_without_a_relation_little_is_left_of_what_fits_by_chance():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, 40)), rng.normal(size=(60, 30))
    found, loose = fit_ridge(X, Y), fit_ridge(X, Y, 1e-4)
    new = rng.normal(size=(500, 40))
    assert loose.apply(new).std() > 1
    assert found.apply(new).std() < 0.25


def test_neither_scale_nor_number_of_rows_changes_a_given_strength():
    X, Y = rows(30, 5, 3)
    coef = fit_ridge(X, Y, 0.3).coef
    np.testing.assert_allclose(fit_ridge(8 * X, Y, 0.3).coef, coef / 8)
    np.testing.assert_allclose(fit_ridge(np.vstack([X, X]), np.vstack([Y, Y]), 0.3).coef, coef)


def test_a_loud_column_does_not_choose_alone():
    X, Y = rows(40, 6, 3)
    expected = fit_ridge(X, Y).alpha
    assert fit_ridge(X, Y * [1e4, 1, 1]).alpha == expected


def test_the_factors_are_kept_where_they_are_smaller():
    assert fit_ridge(*rows(12, 30, 90), 1.0).right is not None
    assert fit_ridge(*rows(40, 6, 3), 1.0).right is None


@pytest.mark.parametrize("container", CONTAINERS)
def test_rows_that_are_all_equal_give_the_mean(container):
    Y = np.float32([[1, 2], [3, 2]])
    found = fit_ridge(container(np.ones((2, 3), np.float32)), Y)
    np.testing.assert_array_equal(found.apply(np.float32([[5, 6, 7]])), [[2, 2]])
    assert found.matched.tolist() == [False, False]


def test_columns_that_do_not_vary_are_not_matched():
    X, Y = rows(30, 5, 4)
    Y[:, 1] = 7
    found = fit_ridge(X, Y)
    assert found.matched.tolist() == [True, False, True, True]
    np.testing.assert_allclose(found.apply(X)[:, 1], 7, rtol=1e-6)
