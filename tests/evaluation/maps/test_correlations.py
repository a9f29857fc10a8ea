"""Correlations in blocks: those of numpy, whatever the containers and the blocks are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from sae_features.evaluation.maps import correlations
from sae_features.evaluation.maps.correlations import (
    correlated_pairs,
    correlation_blocks,
    paired_correlations,
    strongest,
)

CONTAINERS = [np.asarray, sparse.csr_matrix, sparse.csc_array]
containers = st.sampled_from(CONTAINERS)


def latents(n=60, p=9, q=7, seed=0):
    """Sparse rows of two models: some latents of the second repeat those of the first, with noise."""
    rng = np.random.default_rng(seed)
    X = rng.exponential(size=(n, p)) * (rng.random((n, p)) < 0.4)
    Y = rng.exponential(size=(n, q)) * (rng.random((n, q)) < 0.4)
    Y[:, :3] = X[:, [4, 0, 6]] * rng.uniform(0.5, 1.5, (n, 3))
    X[:, 2], Y[:, 5] = 0, 1.5
    return X.astype(np.float32), Y.astype(np.float32)


def by_numpy(X, Y):
    with np.errstate(all="ignore"):
        both = np.corrcoef(X.astype(np.float64), Y.astype(np.float64), rowvar=False)
    return np.nan_to_num(both[: X.shape[1], X.shape[1] :])


@pytest.mark.parametrize("of_x", CONTAINERS)
@pytest.mark.parametrize("of_y", CONTAINERS)
@pytest.mark.parametrize("block", [1, 20, 2**23])
def test_correlations_are_numpys(of_x, of_y, block, monkeypatch):
    monkeypatch.setattr(correlations, "BLOCK_VALUES", block)
    X, Y = latents()
    blocks = list(correlation_blocks(of_x(X), of_y(Y)))
    assert [start for start, _ in blocks] == list(range(0, 7, max(1, block // 9)))
    np.testing.assert_allclose(np.hstack([part for _, part in blocks]), by_numpy(X, Y), atol=1e-12)


def test_a_large_mean_does_not_drown_what_varies():
    X, Y = latents()
    ((_, expected),) = correlation_blocks(X.astype(np.float64), Y)
    ((_, shifted),) = correlation_blocks(X.astype(np.float64) + 1e6, Y)
    np.testing.assert_allclose(shifted, expected, atol=1e-7)


values = st.sampled_from([0.0, 0.0, 1.0, 2.0, -1.0, 0.3])
pairs = st.tuples(st.integers(2, 8), st.integers(1, 5), st.integers(1, 4)).flatmap(
    lambda sizes: st.tuples(
        hnp.arrays(np.float32, (sizes[0], sizes[1]), elements=values),
        hnp.arrays(np.float32, (sizes[0], sizes[2]), elements=values),
    )
)


@given(pairs, containers, containers, st.integers(1, 6), st.booleans())
def test_the_strongest_are_the_first_of_a_sort(rows, of_x, of_y, count, positive):
    X, Y = rows
    indices, found = strongest(of_x(X), of_y(Y), count, positive=positive)
    expected = by_numpy(X, Y)
    keys = expected if positive else abs(expected)
    assert indices.shape == found.shape == (min(count, X.shape[1]), Y.shape[1])
    np.testing.assert_allclose(found, np.take_along_axis(expected, indices, axis=0), atol=1e-12)
    best = -np.sort(-keys, axis=0)[: len(indices)]
    np.testing.assert_allclose(np.take_along_axis(keys, indices, axis=0), best, atol=1e-12)
    assert all(len(set(column)) == len(column) for column in indices.T.tolist())


def test_of_equals_the_lower_column_comes_first():
    column = np.arange(5.0)[:, None]
    indices, _ = strongest(np.hstack([column, -column, column, column]), column, 3, positive=False)
    assert indices.ravel().tolist() == [0, 1, 2]
    indices, _ = strongest(np.hstack([-column, column, column]), column, 1, positive=True)
    assert indices.ravel().tolist() == [1]


@given(pairs, containers, st.sampled_from([0.05, 0.5, 1.0]))
def test_pairs_that_are_correlated_enough(rows, container, least):
    X, Y = rows
    found = correlated_pairs(container(X), container(Y), least).toarray()
    expected = by_numpy(X, Y).T
    is_clear = abs(expected - least) > 1e-9  # the others are decided by rounding
    np.testing.assert_allclose(found[is_clear], np.where(expected >= least, expected, 0)[is_clear])


@pytest.mark.parametrize("of_x", CONTAINERS)
@pytest.mark.parametrize("of_y", CONTAINERS)
def test_paired_correlations_are_the_diagonal(of_x, of_y):
    X, Y = latents(p=7)
    found = paired_correlations(of_x(X), of_y(Y))
    expected = np.diag(by_numpy(X, Y)).copy()
    expected[5] = np.nan  # constant in Y
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[2] == 0  # constant in X
