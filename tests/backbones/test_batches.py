"""Windows in batches, and rows of the tokens that count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_features.backbones.batches import (
    TOKEN_BUDGET,
    batches_of,
    check_finite,
    counted_mask,
    counted_rows,
    will_run,
)
from sae_features.backbones.windows import Batch, Windows
from sae_features.errors import CheckpointError, InvalidInputError
from sae_features.hook_point import HookPoint

EMBEDDING = HookPoint(3, "embedding")


def windows_of(*masks):
    counted = [np.array(mask, bool) for mask in masks]
    return Windows(counted=counted, items=list(range(len(counted))))


def alike(_windows, _window):
    return ()


class TestWhichRun:
    windows = windows_of([1, 1], [0, 0], [0, 1])

    def test_those_with_a_token_that_counts(self):
        points = [HookPoint(0), HookPoint(1, "mlp_out")]
        assert will_run(self.windows, points).tolist() == [True, False, True]

    def test_all_where_each_has_one_vector(self):
        assert will_run(self.windows, [HookPoint(0), EMBEDDING]).tolist() == [True] * 3


class TestBatches:
    @given(
        lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20),
        shapes=st.lists(st.integers(0, 2), min_size=20, max_size=20),
        batch_size=st.none() | st.integers(1, 7),
        data=st.data(),
    )
    def test_every_window_that_runs_is_in_one_batch_with_others_of_its_shape(
        self, lengths, shapes, batch_size, data
    ):
        windows = windows_of(*([1] * length for length in lengths))
        runs = np.array(data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
        batches = list(batches_of(windows, runs, lambda _, window: (shapes[window],), batch_size))
        together = np.concatenate([*batches, np.empty(0, np.int64)])
        assert sorted(together) == np.flatnonzero(runs).tolist()
        for batch in batches:
            assert len({shapes[window] for window in batch}) == 1
            of_batch = [lengths[window] for window in batch]
            assert of_batch == sorted(of_batch, reverse=True)
            assert len(batch) <= (batch_size or TOKEN_BUDGET // max(of_batch))

    def test_the_longest_go_first(self):
        windows = windows_of([1], [1] * 3, [1] * 2, [1] * 3)
        batches = list(batches_of(windows, np.ones(4, bool), alike, 2))
        assert [batch.tolist() for batch in batches] == [[1, 3], [2, 0]]

    def test_none(self):
        assert list(batches_of(windows_of(), np.ones(0, bool), alike, None)) == []


class TestRows:
    windows = windows_of([0, 1, 1], [1], [0, 1])
    mask = counted_mask(windows, np.array([0, 2, 1]))

    def test_padding_does_not_count(self):
        assert self.mask.tolist() == [[False, True, True], [False, True, False], [True, False, False]]

    def test_rows_of_counted_tokens_window_after_window(self):
        hidden = torch.arange(18.0).reshape(3, 3, 2)
        expected = [[2, 3], [4, 5], [8, 9], [12, 13]]
        assert counted_rows(hidden, self.mask).tolist() == expected

    def test_tokens_that_a_mixture_of_experts_lays_end_to_end(self):
        hidden = torch.arange(18.0).reshape(9, 2)
        expected = counted_rows(hidden.reshape(3, 3, 2), self.mask)
        assert torch.equal(counted_rows(hidden, self.mask), expected)

    def test_they_are_float32(self):
        assert counted_rows(torch.zeros(3, 3, 2, dtype=torch.bfloat16), self.mask).dtype == torch.float32

    @pytest.mark.parametrize("shape", [(3, 4, 2), (4, 3, 2), (8, 2)])
    def test_another_number_of_tokens_is_an_error(self, shape):
        with pytest.raises(CheckpointError) as raised:
            counted_rows(torch.zeros(shape), self.mask)
        assert str(raised.value).startswith(
            f"The model gives activations of shape {shape} for 3 items of 3 tokens: it has other tokens "
        )


class TestFinite:
    point = HookPoint(1, "mlp_out")
    windows = windows_of([0, 1, 1], [1], [1, 1])

    def batch(self, values, lengths, point=point):
        return Batch(np.array([2, 0, 1]), {point: np.array(lengths)}, {point: values})

    @pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
    @pytest.mark.parametrize(("row", "item"), [(0, 2), (1, 2), (2, 0), (4, 1)])
    def test_the_item_is_named(self, value, row, item):
        values = torch.ones(5, 4)
        values[row, 2] = value
        for positions, named in ((None, item), ([10, 11, 12], item + 10)):
            with pytest.raises(InvalidInputError) as raised:
                check_finite(self.batch(values, [2, 2, 1]), self.windows, positions, torch.float16)
            assert str(raised.value) == (
                f"Got activations that are not finite for item {named} at layer 1, mlp_out, computed in "
                "float16. They are too large for it: use dtype='float32' or 'bfloat16'."
            )

    def test_of_vectors_of_items(self):
        values = torch.ones(3, 4)
        values[1] = torch.nan
        batch = self.batch(values, [1, 1, 1], EMBEDDING)
        with pytest.raises(InvalidInputError, match="for item 0 at embedding, computed in float32. The"):
            check_finite(batch, self.windows, None, torch.float32)

    def test_numbers_pass(self):
        check_finite(self.batch(torch.ones(5, 4), [2, 2, 1]), self.windows, None, torch.float32)
