"""Shares follow the pooling, and sum to 1."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sae_features.evaluation.token_shares import token_shares
from sae_features.parameters import POOLINGS

NUMBERS = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.integers(0, 3))


@given(values=NUMBERS, pooling=st.sampled_from(POOLINGS))
def test_they_sum_to_1_and_follow_the_pooling(values, pooling):
    shares = token_shares(values, pooling)
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    for column, own in zip(values.T, shares.T, strict=True):
        n = len(column)
        if pooling in ("first", "last"):
            assert own[0 if pooling == "first" else n - 1] == 1
        elif pooling == "max":
            assert own[list(column).index(max(column))] == 1
        elif not column.any():
            np.testing.assert_allclose(own, 1 / n)
        else:
            weights = column if pooling in ("mean", "sum") else column != 0
            np.testing.assert_allclose(own * weights.sum(), weights, atol=1e-12)


def test_of_no_token():
    assert token_shares(np.zeros((0, 3)), "mean").shape == (0, 3)
