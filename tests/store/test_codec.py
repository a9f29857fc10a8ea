"""Values become arrays and numbers, and the same values again, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store.workload import is_same

from sae_features.images import PatchGrid
from sae_features.pooled import PooledCodes, PooledItem
from sae_features.ragged import TokenCodes, offsets_of
from sae_features.store.codec import KINDS, decode, encode


def array(dtype, n):
    return hnp.arrays(dtype, n)  # NaN, infinities and -0 among them


@st.composite
def token_codes(draw):
    lengths = draw(st.lists(st.integers(0, 5), max_size=6))
    n = sum(lengths)
    grids = None
    if draw(st.booleans()):
        box = tuple(draw(st.floats(allow_nan=False, width=64)) for _ in range(4))
        grids = (PatchGrid(draw(st.integers(0, 99)), draw(st.integers(0, 99)), box),)
    return TokenCodes(
        draw(array(draw(st.sampled_from([np.int32, np.uint16])), n)),
        draw(array(draw(st.sampled_from([np.float32, np.float16])), n)),
        offsets_of(np.array(lengths, np.int64)),
        np.array([0, len(lengths)], np.int64),
        draw(st.integers(1, 2**31)),
        grids,
    )


@st.composite
def pooled_codes(draw):
    n, first, last = (draw(st.integers(0, 5)) for _ in range(3))
    return PooledCodes(
        draw(array(np.int32, n)),
        draw(array(np.float32, n)),
        draw(array(np.float64, n)),
        draw(array(np.int32, n)),
        draw(array(np.int32, first)),
        draw(array(np.float32, first)),
        draw(array(np.int32, last)),
        draw(array(np.float32, last)),
        draw(st.integers(0, 2**40)),
    )


@st.composite
def pooled_items(draw):
    return PooledItem(draw(array(np.float32, (4, draw(st.integers(0, 5))))), draw(st.integers(0, 2**40)))


VALUES = st.one_of(token_codes(), pooled_codes(), pooled_items())


@given(VALUES)
def test_a_value_comes_back_as_it_was(value):
    encoded = encode(value)
    assert len(encoded.arrays) == len(KINDS[encoded.kind].fields)
    assert len(encoded.numbers) == len(KINDS[encoded.kind].numbers)
    assert all(part.ndim == 1 for part in encoded.arrays)
    assert all(type(number) is int for number in encoded.numbers)
    assert is_same(decode(encoded.kind, encoded.arrays, encoded.numbers), value)


@given(st.lists(token_codes(), min_size=1, max_size=3))
def test_codes_that_came_back_can_be_laid_end_to_end(parts):
    back = [decode(e.kind, e.arrays, e.numbers) for e in map(encode, parts)]
    joined, expected = (TokenCodes.concatenate(some, 2**31) for some in (back, parts))
    for name in ("indices", "values", "token_offsets", "item_offsets"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(expected, name))
    assert joined.token_offsets.dtype == joined.item_offsets.dtype == np.int64
    assert joined.grids == expected.grids


def test_values_of_other_types_do_not_share_columns():
    codes = TokenCodes(
        np.zeros(1, np.int32), np.ones(1, np.float32), np.array([0, 1]), np.array([0, 1]), 9
    )
    short = TokenCodes(
        np.zeros(1, np.uint16), np.ones(1, np.float32), np.array([0, 1]), np.array([0, 1]), 9
    )
    assert encode(codes).layout == encode(codes).layout
    assert encode(codes).layout != encode(short).layout


def test_only_values_of_one_item_are_encoded():
    offsets = np.array([0, 0, 0])
    both = TokenCodes(np.empty(0, np.int32), np.empty(0, np.float32), offsets, np.array([0, 1, 2]), 9)
    with pytest.raises(ValueError, match=r"2 items.*expected the codes of one item"):
        encode(both)
    with pytest.raises(TypeError, match="of type ndarray; expected codes or pooled states"):
        encode(np.zeros(3))
