"""Items in blocks: what a model runs over before its rows are shuffled, and the batches they make."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Block(NamedTuple):
    """Consecutive items whose rows are in memory together."""

    first: int
    """Place of its first item in the order of the pass."""
    stop: int
    """Place behind its last item."""
    first_batch: int
    """Number, in the pass, of the first batch that is made of it."""
    stop_batch: int
    """Number behind its last batch."""


def plan_blocks(counts: np.ndarray, n_batches: int, block_rows: int) -> list[Block]:
    """Return the blocks of a pass, and which of its batches are made of each.

    Blocks are about equal, and each has at least one batch, so that the number of batches of a pass does
    not depend on the order of the items.

    Parameters
    ----------
    counts : ndarray of shape (n_items,), int64
        Rows of each item, in the order of the pass; not all 0.
    n_batches : int
        Batches of the pass; at most as many as there are rows.
    block_rows : int
        No block has more rows than these and its longest item's; where a batch and an item have more
        than half as many, those of two batches may be added.

    Returns
    -------
    list of Block
        All items and all batches, each once, in order.

    Examples
    --------
    >>> for block in plan_blocks(np.array([3, 3, 3, 3]), 4, 6):
    ...     print(block)
    Block(first=0, stop=2, first_batch=0, stop_batch=2)
    Block(first=2, stop=4, first_batch=2, stop_batch=4)
    """
    ends = np.cumsum(counts)
    n_rows = int(ends[-1])
    n_blocks = -(-n_rows // block_rows)
    targets = [n_rows * (number + 1) // n_blocks for number in range(n_blocks - 1)]
    blocks = []
    first = first_batch = 0
    for stop in np.searchsorted(ends, targets) + 1:
        # Batches that end by then: half up, so that no block has more batches than rows.
        stop_batch = (2 * n_batches * int(ends[stop - 1]) + n_rows) // (2 * n_rows)
        if first_batch < stop_batch < n_batches:
            blocks.append(Block(first, int(stop), first_batch, stop_batch))
            first, first_batch = int(stop), stop_batch
    return [*blocks, Block(first, len(counts), first_batch, n_batches)]
