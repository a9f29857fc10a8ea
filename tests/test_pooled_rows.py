from __future__ import annotations

import numpy as np
import pytest

from sae_features import pooled_rows as module
from sae_features.parameters import POOLINGS
from sae_features.pooled import SparseRow
from sae_features.pooled_rows import DERIVED, pooled_rows
from sae_features.pooling import pool_codes, pool_each
from sae_features.ragged import TokenCodes, offsets_of

N_LATENTS = 40


def random_codes(n_tokens, seed):
    generator = np.random.default_rng(seed)
    latents = generator.standard_normal((n_tokens, N_LATENTS)).astype(np.float32)
    latents[abs(latents) < 1] = 0
    tokens, indices = latents.nonzero()
    counts = np.bincount(tokens, minlength=n_tokens)
    span = np.array([0, n_tokens])
    return TokenCodes(
        indices.astype(np.uint16), latents[tokens, indices], offsets_of(counts), span, N_LATENTS
    )


@pytest.fixture
def values():
    return {bytes([seed]): random_codes(seed % 5, seed) for seed in range(12)}


def rows(values, pooling="max", *, top_n=None, name="who"):
    return pooled_rows(values, pooling, token_top_n=top_n, n_latents=N_LATENTS, name=name)


@pytest.mark.parametrize("top_n", [None, 2])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_they_are_what_pooling_gives(values, pooling, top_n, monkeypatch):
    expected = pool_codes(
        TokenCodes.concatenate(list(values.values()), N_LATENTS), pooling, token_top_n=top_n
    )
    found = rows(values, pooling, top_n=top_n)
    np.testing.assert_array_equal(found.toarray(), expected.toarray())
    assert (found.indices.dtype, found.indptr.dtype, found.dtype) == ("int32", "int32", "float32")
    assert (found.data != 0).all()
    assert found.has_canonical_format
    monkeypatch.setattr(module, "POOL_ENTRIES", 3)  # groups of items
    np.testing.assert_array_equal(
        rows(values, pooling, top_n=top_n, name=None).toarray(), found.toarray()
    )


def test_codes_are_pooled_once_for_all_ways(values, monkeypatch):
    pooled = []
    monkeypatch.setattr(module, "pool_each", lambda codes: pooled.append(len(codes)) or pool_each(codes))
    for pooling in POOLINGS:
        rows(values, pooling)
    assert pooled == [12]
    rows(values, "max", top_n=2)
    rows(dict(list(values.items())[:5]), "mean", top_n=2)
    assert pooled == [12, 12]
    rows(values, name="another")
    rows(values, name=None)
    rows(values, name=None)
    assert pooled == [12] * 5
    assert len(DERIVED) == 36


def test_rows_do_not_touch_what_is_kept(values):
    before = rows(values).toarray()
    rows(values).data[:] = 7
    np.testing.assert_array_equal(rows(values).toarray(), before)


def test_forms_may_be_mixed(values):
    expected = rows(values, "sum").toarray()
    mixed = dict(values)
    for digest in list(values)[::3]:
        (mixed[digest],) = pool_each(values[digest])
    for digest in list(values)[1::3]:
        (item,) = pool_each(values[digest])
        mixed[digest] = SparseRow(*item.pool("sum"), item.n_tokens)
    np.testing.assert_array_equal(rows(mixed, "sum", name="mixed").toarray(), expected)
