"""Moments of columns: dense and sparse alike, equal to numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from sae_features.evaluation.maps.columns import Columns, Firing, column_sums, compressed, dense

values = st.one_of(st.just(0.0), st.sampled_from([-2.0, 0.1, 1.0, 1.5]), st.floats(-100, 100, width=32))
matrices = hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=values)


@given(matrices, st.sampled_from([np.asarray, sparse.csr_matrix, sparse.csc_array, sparse.coo_array]))
def test_means_and_norms_are_numpys(X, container):
    found = Columns.of(container(X))
    expected = X.astype(np.float64)
    np.testing.assert_allclose(found.means, expected.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dense(found.values) - found.shift, expected - found.means, atol=1e-12)
    norms = np.linalg.norm(expected - expected.mean(axis=0), axis=0)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e6])
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
def test_a_constant_column_has_no_norm(value, container):
    assert Columns.of(container(np.full((37, 1), value, np.float32))).norms == [0.0]


@given(matrices, st.sampled_from([np.asarray, sparse.csr_matrix, sparse.csc_array]))
def test_what_fires_is_what_is_not_zero(X, container):
    found = Firing.of(container(X))
    for i, column in enumerate(X.T.astype(np.float64)):
        fires = column[column != 0]
        assert found.counts[i] == len(fires)
        expected = (fires.mean(), fires.std(), fires.min(), fires.max()) if len(fires) else (0, 0, 0, 0)
        np.testing.assert_allclose([part[i] for part in found[1:]], expected, rtol=1e-9, atol=1e-9)


def test_what_always_fires_equally_has_no_spread():
    assert Firing.of(np.float32([[0.1, 0], [0.1, 0.7], [0.1, 0.7]])).deviations.tolist() == [0.0, 0.0]


def test_duplicates_are_summed_and_stored_zeros_dropped():
    X = sparse.csr_matrix((np.float32([1, 2, 0, -5]), [1, 1, 0, 2], [0, 3, 4]), shape=(2, 3))
    found = compressed(X)
    assert (found.nnz, found.dtype) == (2, np.float64)
    np.testing.assert_array_equal(found.toarray(), [[0, 3, 0], [0, 0, -5]])
    assert X.nnz == 4  # as it was
    np.testing.assert_array_equal(column_sums(found.data, found.indptr), [0, 3, -5])
