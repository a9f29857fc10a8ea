"""Ragged arrays: items of any length, also none, laid end to end and taken apart again."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_features.ragged import TokenActivations, TokenCodes, join_offsets, offsets_of

quick = settings(deadline=None, max_examples=30)
N_LATENTS = 6


@st.composite
def token_codes(draw, max_items=4):
    """Codes of a few items with 0 to 4 tokens, each with 0 to 6 latents that fire."""
    lengths = draw(st.lists(st.integers(0, 4), max_size=max_items))
    value = st.floats(-8, 8, width=32).filter(lambda v: v != 0)
    rows = [
        draw(st.dictionaries(st.integers(0, N_LATENTS - 1), value, max_size=N_LATENTS))
        for _ in range(sum(lengths))
    ]
    entries = [sorted(row.items()) for row in rows]
    return TokenCodes(
        np.array([i for row in entries for i, _ in row], np.uint16),
        np.array([v for row in entries for _, v in row], np.float32),
        offsets_of(np.array([len(row) for row in entries], np.int64)),
        offsets_of(np.array(lengths, np.int64)),
        N_LATENTS,
    )


def assert_same_codes(result, expected):
    for name in ("indices", "values", "token_offsets", "item_offsets"):
        actual, wanted = getattr(result, name), getattr(expected, name)
        assert actual.dtype == wanted.dtype, name
        np.testing.assert_array_equal(actual, wanted, err_msg=name)
    assert result.n_latents == expected.n_latents


def test_offsets_start_with_0_and_are_int64():
    for lengths in (np.array([2, 0, 1], np.int32), [np.array([2]), np.array([0, 1])]):
        offsets = offsets_of(lengths)
        assert offsets.dtype == np.int64
        assert offsets.tolist() == [0, 2, 2, 3]
    assert offsets_of([]).tolist() == [0]
    assert offsets_of(np.array([], np.int64)).tolist() == [0]
    assert offsets_of(np.array([True, False, True])).tolist() == [0, 1, 1, 2]


@quick
@given(st.lists(st.lists(st.integers(0, 5), max_size=5), max_size=4))
def test_joined_offsets_are_those_of_all_lengths(parts):
    joined = join_offsets([offsets_of(np.array(lengths, np.int64)) for lengths in parts])
    assert joined.tolist() == offsets_of(np.array(sum(parts, []), np.int64)).tolist()  # noqa: RUF017
    assert joined.dtype == np.int64


def test_activations_of_one_item_are_its_rows():
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    acts = TokenActivations(values, np.array([0, 1, 1, 4]))
    assert len(acts) == 3
    assert acts[0].tolist() == [[0, 1]]
    assert acts[1].shape == (0, 2)
    assert acts[2].tolist() == [[2, 3], [4, 5], [6, 7]]
    np.testing.assert_array_equal(acts[-1], acts[2])
    np.testing.assert_array_equal(acts[np.int64(0)], acts[0])
    assert [len(item) for item in acts] == [1, 0, 3]


def test_activations_survive_pickling():
    acts = TokenActivations(np.ones((2, 3), np.float32), np.array([0, 2]))
    copy = pickle.loads(pickle.dumps(acts))
    np.testing.assert_array_equal(copy.values, acts.values)
    np.testing.assert_array_equal(copy.offsets, acts.offsets)


@pytest.mark.parametrize("item", [2, -3])
def test_an_item_that_is_not_there_is_an_index_error(item):
    acts = TokenActivations(np.zeros((2, 1), np.float32), np.array([0, 1, 2]))
    codes = TokenCodes(
        np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(3, np.int64), np.array([0, 1, 2]), 4
    )
    for ragged in (acts, codes):
        with pytest.raises(IndexError, match=rf"^Got item {item}; expected one of 2 items\.$"):
            ragged[item]


def test_nothing_has_no_item():
    with pytest.raises(IndexError, match=r"^Got item 0; expected one of 0 items\.$"):
        TokenActivations(np.zeros((0, 1), np.float32), np.array([0]))[0]
    assert len(TokenCodes.concatenate([], 3)) == 0


@quick
@given(token_codes())
def test_codes_taken_apart_and_laid_end_to_end_are_the_same(codes):
    items = [codes[i] for i in range(len(codes))]
    assert [len(item) for item in items] == [1] * len(codes)
    assert_same_codes(TokenCodes.concatenate(items, N_LATENTS), codes)


@quick
@given(token_codes(), token_codes())
def test_concatenation_keeps_items_and_their_order(first, second):
    both = TokenCodes.concatenate([first, second], N_LATENTS)
    assert len(both) == len(first) + len(second)
    for i in range(len(both)):
        expected = first[i] if i < len(first) else second[i - len(first)]
        assert_same_codes(both[i], expected)
        assert_same_codes(both[i - len(both)], expected)


@quick
@given(token_codes(max_items=3))
def test_an_item_does_not_hold_on_to_the_rest(codes):
    for i in range(len(codes)):
        item = codes[i]
        assert not np.shares_memory(item.indices, codes.indices)
        assert not np.shares_memory(item.values, codes.values)
        assert item.nbytes == 6 * len(item.values) + 8 * len(item.token_offsets) + 16


@quick
@given(token_codes())
def test_as_sparse_matrix(codes):
    matrix = codes.tocsr()
    assert matrix.shape == (codes.item_offsets[-1], N_LATENTS)
    assert matrix.dtype == np.float32
    assert matrix.indices.dtype == np.int32
    dense = np.zeros(matrix.shape, np.float32)
    for token in range(len(dense)):
        own = slice(codes.token_offsets[token], codes.token_offsets[token + 1])
        dense[token, codes.indices[own]] = codes.values[own]
    np.testing.assert_array_equal(matrix.toarray(), dense)


def test_the_sparse_matrix_shares_the_values():
    codes = TokenCodes(
        np.array([1], np.int32), np.array([2.0], np.float32), np.array([0, 1]), np.array([0, 1]), 3
    )
    assert np.shares_memory(codes.tocsr().data, codes.values)
    assert np.shares_memory(codes.tocsr().indices, codes.indices)
