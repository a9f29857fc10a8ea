"""Every pooling equals a slow reference over dense tokens, in which a silent latent is a 0."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sae_features.errors import InvalidParameterError
from sae_features.pooling import (
    ACTIVATION_POOLINGS,
    POOLINGS,
    keep_token_top_n,
    pool_activations,
    pool_codes,
)
from sae_features.ragged import TokenActivations, TokenCodes, offsets_of

quick = settings(deadline=None, max_examples=30)
N_LATENTS = 5


def codes_of(items, n_latents=N_LATENTS):
    """Codes of items given as lists of dense tokens."""
    tokens = [np.asarray(token, np.float32) for item in items for token in item]
    fires = [np.flatnonzero(token) for token in tokens]
    return TokenCodes(
        np.concatenate([np.zeros(0), *fires]).astype(np.int32),
        np.concatenate([np.zeros(0), *(t[f] for t, f in zip(tokens, fires, strict=True))]).astype(
            np.float32
        ),
        offsets_of(np.array([len(f) for f in fires], np.int64)),
        offsets_of(np.array([len(item) for item in items], np.int64)),
        n_latents,
    )


def reference(items, pooling, n_latents=N_LATENTS):
    """One row per item, from its dense tokens, in float64."""
    rows = np.zeros((len(items), n_latents))
    for i, item in enumerate(items):
        tokens = np.asarray(item, np.float32).astype(np.float64).reshape(-1, n_latents)
        if len(tokens) == 0:
            continue
        rows[i] = {
            "max": lambda t: t.max(axis=0),
            "mean": lambda t: t.sum(axis=0) / len(t),
            "sum": lambda t: t.sum(axis=0),
            "last": lambda t: t[-1],
            "first": lambda t: t[0],
            "count": lambda t: (t != 0).sum(axis=0),
        }[pooling](tokens)
    return rows.astype(np.float32)


def top_n_of_token(token, n):
    """Keep the n largest that fire; of equal ones those with the lowest numbers."""
    fires = [i for i, value in enumerate(token) if value != 0]
    kept = sorted(fires, key=lambda i: (-token[i], i))[:n]
    return [value if i in kept else 0.0 for i, value in enumerate(token)]


latent_values = st.sampled_from([0.0, 0.0, 0.0, 1.0, 1.0, 2.5, -1.0, -0.5, 0.125]) | st.floats(
    -100, 100, width=32, allow_subnormal=False
)
dense_items = st.lists(
    st.lists(st.lists(latent_values, min_size=N_LATENTS, max_size=N_LATENTS), max_size=4), max_size=5
)


def assert_clean_csr(rows, shape):
    assert rows.format == "csr"
    assert rows.shape == shape
    assert rows.dtype == np.float32
    assert rows.indices.dtype == rows.indptr.dtype == np.int32
    for row in range(shape[0]):
        indices = rows.indices[rows.indptr[row] : rows.indptr[row + 1]]
        assert (np.diff(indices) > 0).all()
    assert (rows.data != 0).all()


def assert_same(rows, expected, pooling):
    """Equal; sums and means but for the order in which float64 adds, before rounding to float32."""
    found = rows if isinstance(rows, np.ndarray) else rows.toarray()
    if pooling in ("sum", "mean"):
        np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-12)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("pooling", POOLINGS)
@quick
@given(items=dense_items)
@example(items=[])
@example(items=[[]])
@example(items=[[], [[0.0] * 5], []])
def test_pooling_equals_the_dense_reference(pooling, items):
    rows = pool_codes(codes_of(items), pooling)
    assert_clean_csr(rows, (len(items), N_LATENTS))
    assert_same(rows, reference(items, pooling), pooling)


@pytest.mark.parametrize("pooling", POOLINGS)
@quick
@given(items=dense_items, n=st.integers(1, N_LATENTS + 1))
def test_token_top_n_comes_before_pooling(pooling, items, n):
    kept = [[top_n_of_token(token, n) for token in item] for item in items]
    rows = pool_codes(codes_of(items), pooling, token_top_n=n)
    assert_clean_csr(rows, (len(items), N_LATENTS))
    assert_same(rows, reference(kept, pooling), pooling)


def test_a_silent_token_counts_as_0():
    everywhere, once = [[-1.0, 0, 0, 0, 0], [-2.0, 0, 0, 0, 0]], [[-1.0, 0, 0, 0, 0], [0.0] * 5]
    rows = pool_codes(codes_of([everywhere, once]), "max")
    assert rows[:, [0]].toarray().ravel().tolist() == [-1.0, 0.0]
    assert rows.nnz == 1
    means = pool_codes(codes_of([everywhere, once]), "mean")
    assert means[:, [0]].toarray().ravel().tolist() == [-1.5, -0.5]


def test_values_that_cancel_leave_no_explicit_zero():
    item = [[3.0, 0, 0, 0, 0], [-3.0, 0, 0, 0, 0]]
    assert pool_codes(codes_of([item]), "sum").nnz == 0
    assert pool_codes(codes_of([item]), "mean").nnz == 0
    assert pool_codes(codes_of([item]), "count").toarray()[0, 0] == 2


def test_sums_are_accumulated_in_float64():
    item = [[2.0**24, 0, 0, 0, 0]] + [[1.0, 0, 0, 0, 0]] * 8
    assert pool_codes(codes_of([item]), "sum").toarray()[0, 0] == 2.0**24 + 8
    ramp = TokenActivations(np.array([[2.0**24]] + [[1.0]] * 8, np.float32), np.array([0, 9]))
    assert pool_activations(ramp, "sum")[0, 0] == 2.0**24 + 8


@pytest.mark.parametrize("pooling", POOLINGS)
@quick
@given(items=dense_items, order=st.randoms(use_true_random=False))
def test_an_item_does_not_depend_on_the_others(pooling, items, order):
    places = list(range(len(items)))
    order.shuffle(places)
    alone = [pool_codes(codes_of([item]), pooling).toarray()[0] for item in items]
    together = pool_codes(codes_of([items[i] for i in places]), pooling).toarray()
    for row, i in zip(together, places, strict=True):
        assert_same(row, alone[i], pooling)


@pytest.mark.parametrize("pooling", POOLINGS)
@quick
@given(items=dense_items)
def test_pooling_leaves_the_codes_as_they_are(pooling, items):
    codes = codes_of(items)
    before = [array.copy() for array in (codes.indices, codes.values, codes.token_offsets)]
    rows = pool_codes(codes, pooling, token_top_n=2)
    rows.data[:] = 7
    for array, copy in zip((codes.indices, codes.values, codes.token_offsets), before, strict=True):
        np.testing.assert_array_equal(array, copy)


small_integers = st.integers(-4, 4).map(float)
integer_items = st.lists(
    st.lists(st.lists(small_integers, min_size=N_LATENTS, max_size=N_LATENTS), max_size=3),
    min_size=1,
    max_size=4,
)


@quick
@given(items=integer_items)
def test_sum_and_count_add_up_over_concatenation(items):
    joined = [[token for item in items for token in item]]
    for pooling in ("sum", "count"):
        parts = pool_codes(codes_of(items), pooling).sum(axis=0)
        assert_same(pool_codes(codes_of(joined), pooling).toarray(), parts, pooling)


@quick
@given(items=integer_items)
def test_max_of_an_item_is_the_max_over_its_parts(items):
    filled = [item for item in items if item]
    joined = [[token for item in filled for token in item]]
    whole = pool_codes(codes_of(joined), "max").toarray()[0]
    parts = pool_codes(codes_of(filled), "max").toarray()
    np.testing.assert_array_equal(whole, parts.max(axis=0) if filled else np.zeros(N_LATENTS))


@quick
@given(items=dense_items, n=st.integers(1, N_LATENTS + 1))
def test_keeping_the_top_n_of_each_token(items, n):
    codes = keep_token_top_n(codes_of(items), n)
    tokens = [token for item in items for token in item]
    expected = np.array([top_n_of_token(token, n) for token in tokens], np.float32)
    np.testing.assert_array_equal(codes.tocsr().toarray(), expected.reshape(-1, N_LATENTS))
    assert np.diff(codes.token_offsets).max(initial=0) <= n
    assert codes.item_offsets.tolist() == codes_of(items).item_offsets.tolist()
    assert codes.token_offsets[-1] == len(codes.indices) == len(codes.values)


def test_of_equal_latents_those_with_the_lowest_numbers_stay():
    codes = keep_token_top_n(codes_of([[[2.0, 3.0, 2.0, 3.0, 2.0], [1.0] * 5]]), 3)
    assert codes.indices.tolist() == [0, 1, 3, 0, 1, 2]
    assert codes.values.tolist() == [2, 3, 3, 1, 1, 1]


def test_a_negative_latent_that_fires_ranks_below_positive_ones_only():
    codes = keep_token_top_n(codes_of([[[-1.0, -3.0, -2.0, 0.0, 4.0]]]), 2)
    assert codes.indices.tolist() == [0, 4]


def test_enough_room_changes_nothing():
    codes = codes_of([[[1.0, 2.0, 0.0, 0.0, 0.0]]])
    assert keep_token_top_n(codes, 2) is codes


def test_no_latent_fires_anywhere():
    codes = codes_of([[[0.0] * 5] * 3, []])
    for pooling in POOLINGS:
        rows = pool_codes(codes, pooling, token_top_n=1)
        assert_clean_csr(rows, (2, N_LATENTS))
        assert rows.nnz == 0


@pytest.mark.parametrize("n", [0, -1])
def test_top_0_is_refused(n):
    with pytest.raises(InvalidParameterError, match=rf"^Got token_top_n={n}; expected at least 1\.$"):
        pool_codes(codes_of([]), "max", token_top_n=n)


def test_an_unknown_pooling_is_refused_and_not_taken_for_a_sum():
    message = "Got pooling='avg'; expected one of max, mean, sum, last, first, count."
    with pytest.raises(InvalidParameterError, match=f"^{re.escape(message)}"):
        pool_codes(codes_of([]), "avg")
    message = "Got pooling='count'; expected one of max, mean, sum, last, first."
    with pytest.raises(InvalidParameterError, match=f"^{re.escape(message)}"):
        pool_activations(TokenActivations(np.zeros((0, 2), np.float32), np.array([0])), "count")


@pytest.mark.parametrize("pooling", ACTIVATION_POOLINGS)
@quick
@given(items=dense_items)
@example(items=[])
@example(items=[[], [[-1.0] * 5], []])
def test_pooled_activations_equal_the_dense_reference(pooling, items):
    values = np.array([t for item in items for t in item], np.float32).reshape(-1, N_LATENTS)
    lengths = np.array([len(item) for item in items], np.int64)
    rows = pool_activations(TokenActivations(values, offsets_of(lengths)), pooling)
    assert rows.dtype == np.float32
    assert rows.shape == (len(items), N_LATENTS)
    # as for codes: a dense activation that is 0 and a latent that is silent are one thing
    assert_same(rows, reference(items, pooling), pooling)


@pytest.mark.parametrize("pooling", ACTIVATION_POOLINGS)
@quick
@given(items=dense_items)
def test_dense_and_sparse_pooling_agree(pooling, items):
    codes = codes_of(items)
    acts = TokenActivations(codes.tocsr().toarray(), codes.item_offsets)
    assert_same(pool_codes(codes, pooling).toarray(), pool_activations(acts, pooling), pooling)
