"""Matched latents: whom each is matched to, and on what scale it fires."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from sae_features.evaluation.maps.matching import match_latents

CONTAINERS = [np.asarray, sparse.csr_matrix, sparse.csc_array]


def planted(n=200, seed=0):
    """Latents of B, and those of A: shuffled, on another scale, one silent, one of its own."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(1, 2, (n, 8)) * (rng.random((n, 8)) < 0.3)
    order = np.array([5, 2, 7, 0])
    Y = np.where(X[:, order] > 0, 3 * X[:, order] + 4, 0)
    own = rng.uniform(1, 2, n) * (rng.random(n) < 0.3)
    return X.astype(np.float32), np.column_stack([Y, np.zeros(n), own]).astype(np.float32), order


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("one_to_one", [True, False])
def test_planted_latents_are_found_and_brought_to_scale(container, one_to_one):
    X, Y, order = planted()
    found = match_latents(container(X), container(Y), least=0.3, one_to_one=one_to_one)
    assert found.sources.tolist() == [*order, -1, -1]
    assert found.matched.tolist() == [True] * 4 + [False] * 2
    expected = [np.corrcoef(X[:, source], Y[:, i])[0, 1] for i, source in enumerate(order)]
    np.testing.assert_allclose(found.correlations, [*expected, 0, 0])
    rows = found.apply(container(X))
    assert (rows.format, rows.shape) == ("csr", Y.shape)
    expected = Y.copy()
    expected[:, 4:] = 0
    np.testing.assert_allclose(rows.toarray(), expected, rtol=1e-5)


def test_two_may_share_a_latent_unless_it_is_one_to_one():
    X, Y, order = planted()
    noise = np.random.default_rng(1).uniform(0.8, 1.2, len(Y))
    Y[:, 1] = Y[:, 0] * noise
    shared = match_latents(X, Y, least=0.3, one_to_one=False)
    assert shared.sources.tolist() == [order[0], order[0], order[2], order[3], -1, -1]
    alone = match_latents(X, Y, least=0.3, one_to_one=True)
    assert alone.sources.tolist() == [order[0], -1, order[2], order[3], -1, -1]


def test_one_to_one_takes_a_second_best_where_the_sum_is_larger():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 300))
    X = np.column_stack([first, second])
    Y = np.column_stack([first + 0.1 * second, first + 0.5 * second])  # both like the first best
    assert match_latents(X, Y, least=0.2, one_to_one=False).sources.tolist() == [0, 0]
    assert match_latents(X, Y, least=0.2, one_to_one=True).sources.tolist() == [0, 1]


values = st.sampled_from([0.0, 0.0, 1.0, 2.0, 0.3, 0.7])
pairs = st.tuples(st.integers(3, 8), st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda sizes: st.tuples(
        hnp.arrays(np.float32, (sizes[0], sizes[1]), elements=values),
        hnp.arrays(np.float32, (sizes[0], sizes[2]), elements=values),
    )
)


@given(pairs, st.sampled_from([0.01, 0.4]))
def test_the_assignment_is_as_good_as_that_on_the_full_matrix(rows, least):
    X, Y = (part.astype(np.float64) for part in rows)
    with np.errstate(all="ignore"):
        both = np.corrcoef(X, Y, rowvar=False).reshape(2 * [X.shape[1] + Y.shape[1]])
    full = np.nan_to_num(both[X.shape[1] :, : X.shape[1]])
    full = np.where(full >= least - 1e-9, full, 0)
    best = full[linear_sum_assignment(full, maximize=True)].sum()
    found = match_latents(X, Y, least=least - 1e-9, one_to_one=True)
    assert found.correlations.sum() == pytest.approx(best, abs=1e-9)
    taken = found.sources[found.matched]
    assert len(set(taken.tolist())) == len(taken)
    expected = full[np.flatnonzero(found.matched), taken]
    np.testing.assert_allclose(found.correlations[found.matched], expected, atol=1e-9)


@given(pairs, st.sampled_from(CONTAINERS), st.booleans())
def test_what_fires_has_the_moments_of_a_and_stays_in_its_range(rows, container, one_to_one):
    X, Y = rows
    found = match_latents(container(X), container(Y), least=0.3, one_to_one=one_to_one)
    aligned = found.apply(container(X)).toarray()
    for target, source in enumerate(found.sources):
        if source == -1:
            assert not aligned[:, target].any()
            continue
        np.testing.assert_array_equal(aligned[:, target] != 0, X[:, source] != 0)
        fires, of_a = aligned[aligned[:, target] != 0, target], Y[Y[:, target] != 0, target]
        assert fires.min() >= of_a.min()
        assert fires.max() <= of_a.max()


def test_a_latent_that_fires_once_is_scaled_by_its_mean():
    X, Y = np.zeros((6, 1)), np.zeros((6, 1))
    X[2], Y[2] = 2.0, 10.0
    found = match_latents(X, Y, least=0.5, one_to_one=False)
    assert found.slopes.tolist() == [5.0]
    assert found.apply(np.array([[0.0], [2.0], [9.0]])).toarray().ravel().tolist() == [0, 10, 10]


def test_a_small_spread_does_not_blow_values_up():
    X, Y = np.zeros((8, 1)), np.zeros((8, 1))
    X[:3, 0], Y[:3, 0] = [1.0, 1.01, 1.02], [1.0, 5.0, 9.0]
    found = match_latents(X, Y, least=0.5, one_to_one=False)
    assert found.slopes[0] > 300
    assert found.apply(np.array([[3.0], [0.2]])).toarray().ravel().tolist() == [9.0, 1.0]


def test_dense_states_are_matched_as_standard_scores():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3)) + 5
    Y = -2 * X[:, [1]] + 1
    assert match_latents(X, Y, least=0.2, one_to_one=False).sources.tolist() == [-1]  # of the other sign
    found = match_latents(X, -Y, least=0.2, one_to_one=False)
    np.testing.assert_allclose(found.apply(X).toarray(), -Y)
