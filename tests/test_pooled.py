from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_features.parameters import POOLINGS
from sae_features.pooled import PooledCodes, SparseRow, join_pooled, join_rows
from sae_features.pooling import pool_codes, pool_each
from sae_features.ragged import TokenCodes, offsets_of

N_LATENTS = 7
quick = settings(max_examples=60)


@st.composite
def dense_items(draw, *, most=4, negative=True):
    """Latents of some items, dense: a list of arrays (n_tokens, n_latents) with many zeros."""
    seed, lengths = draw(st.integers(0, 10**6)), draw(st.lists(st.integers(0, 5), max_size=most))
    generator = np.random.default_rng(seed)
    items = []
    for length in lengths:
        values = generator.standard_normal((length, N_LATENTS)).astype(np.float32)
        values[generator.random(values.shape) < 0.6] = 0
        items.append(values if negative else abs(values))
    return items


def codes_of(items):
    values = np.concatenate([np.zeros((0, N_LATENTS), np.float32), *items])
    tokens, indices = values.nonzero()
    return TokenCodes(
        indices.astype(np.uint16),
        values[tokens, indices],
        offsets_of(np.bincount(tokens, minlength=len(values))),
        offsets_of(np.array([len(item) for item in items], np.int64)),
        N_LATENTS,
    )


def dense(row):
    indices, values = row
    full = np.zeros(N_LATENTS, np.float32)
    assert (np.diff(indices) > 0).all()
    assert values.dtype == np.float32
    full[indices] = values
    return full


@quick
@given(dense_items(), st.sampled_from(POOLINGS))
def test_pooled_in_all_ways_is_pooled_in_each(items, pooling):
    codes = codes_of(items)
    expected = pool_codes(codes, pooling).toarray()
    pooled = pool_each(codes)
    assert len(pooled) == len(items)
    for item, row, values in zip(pooled, expected, items, strict=True):
        np.testing.assert_array_equal(dense(item.pool(pooling)), row)
        assert item.n_tokens == len(values)


@quick
@given(dense_items(most=1), st.lists(st.integers(0, 5), max_size=3), st.sampled_from(POOLINGS))
def test_windows_are_joined_to_what_the_whole_gives(items, cuts, pooling):
    whole = items[0] if items else np.zeros((0, N_LATENTS), np.float32)
    windows = np.split(whole, sorted(min(cut, len(whole)) for cut in cuts))
    expected = pool_codes(codes_of([whole]), pooling).toarray()[0]
    joined = join_pooled(pool_each(codes_of(windows)))
    assert joined.n_tokens == len(whole)
    np.testing.assert_allclose(dense(joined.pool(pooling)), expected, rtol=1e-6)
    filled = [window for window in windows if len(window)]
    parts = "sum" if pooling == "mean" else pooling
    rows = [SparseRow(*item.pool(parts), item.n_tokens) for item in pool_each(codes_of(filled))]
    np.testing.assert_allclose(dense(join_rows(rows, pooling).pool(pooling)), expected, rtol=1e-6)


def test_an_item_does_not_hold_on_to_the_rest():
    codes = codes_of([np.eye(N_LATENTS, dtype=np.float32)] * 3)
    first, second, _ = pool_each(codes)
    assert first.indices.base is None
    assert not np.shares_memory(first.total, second.total)
    assert first.nbytes == N_LATENTS * (4 + 4 + 8 + 4) + 2 * (4 + 4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_nothing(pooling):
    for nothing in (PooledCodes.of_nothing(), join_pooled([]), join_rows([], pooling)):
        assert dense(nothing.pool(pooling)).tolist() == [0] * N_LATENTS
        assert nothing.n_tokens == 0
