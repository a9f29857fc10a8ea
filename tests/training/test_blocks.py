"""Blocks of items: every item and every batch once, none without a batch, none too large."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sae_features.training.blocks import plan_blocks
from sae_features.training.sources import cut

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=60).filter(any)


@given(COUNTS, st.integers(1, 100), st.integers(1, 200))
def test_blocks_cover_items_and_batches_once(counts, batch_size, block_rows):
    counts = np.array(counts)
    n_batches = len(cut(int(counts.sum()), batch_size)) - 1
    blocks = plan_blocks(counts, n_batches, block_rows)
    for first, stop, total in (("first", "stop", len(counts)), ("first_batch", "stop_batch", n_batches)):
        begins = [getattr(block, first) for block in blocks]
        ends = [getattr(block, stop) for block in blocks]
        assert (begins[0], ends[-1]) == (0, total)
        assert begins[1:] == ends[:-1]
    for block in blocks:
        n_rows = int(counts[block.first : block.stop].sum())
        n_own = block.stop_batch - block.first_batch
        assert 1 <= n_own <= n_rows
        assert abs(n_rows - n_own * counts.sum() / n_batches) <= counts.sum() / n_batches + 1


@given(COUNTS, st.integers(1, 100), st.integers(1, 200))
def test_blocks_are_as_small_as_batches_allow(counts, batch_size, block_rows):
    counts = np.array(counts)
    n_batches = len(cut(int(counts.sum()), batch_size)) - 1
    largest = max(
        int(counts[block.first : block.stop].sum())
        for block in plan_blocks(counts, n_batches, block_rows)
    )
    a_batch = -(-int(counts.sum()) // n_batches)
    is_small = a_batch + counts.max() <= block_rows // 2
    assert largest <= block_rows + counts.max() + (0 if is_small else 2 * a_batch)
