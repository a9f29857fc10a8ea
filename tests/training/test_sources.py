"""Sources of activations: what a pass holds, in which order, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_features.errors import InputTypeError, InvalidInputError, InvalidParameterError
from sae_features.hook_point import HookPoint
from sae_features.training import sources
from sae_features.training.sources import ArraySource, check_finite_rows, cut, spread_rows

N, D_IN = 103, 3


def numbered(n=N, d_in=D_IN, dtype=np.float32):
    """Rows that say their number in each column."""
    return np.arange(n, dtype=dtype)[:, None] + np.zeros(d_in, dtype)


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def numbers_of(batches):
    return torch.cat(list(batches))[:, 0].int().tolist()


@given(st.integers(1, 5000), st.integers(1, 700))
def test_a_pass_is_cut_into_batches_of_about_one_size(n_rows, batch_size):
    bounds = cut(n_rows, batch_size)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, n_rows)
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1
    assert len(sizes) == max(1, round(n_rows / batch_size))


@pytest.fixture
def small_groups(monkeypatch):
    """Chunks of 4 rows, groups of 5 chunks: 103 rows are six groups, the last chunk is short."""
    monkeypatch.setattr(sources, "CHUNK_ROWS", 4)
    monkeypatch.setattr(sources, "GROUP_ROWS", 20)


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("batch_size", [1, 7, 20, 50, 103, 1000])
def test_each_row_comes_once_in_a_pass(batch_size):
    source = ArraySource(numbered())
    n_batches = source.n_batches(batch_size)
    batches = source.batches(batch_size, seed=3)
    for _ in range(3):
        numbers = numbers_of(take(batches, n_batches))
        assert sorted(numbers) == list(range(N))


@pytest.mark.usefixtures("small_groups")
def test_what_follows_skipped_batches_is_what_would_have_followed():
    source = ArraySource(np.random.default_rng(0).standard_normal((N, D_IN)).astype(np.float32))
    for batch_size in (1, 9, 26, 200):
        whole = take(source.batches(batch_size, seed=1), 2 * source.n_batches(batch_size) + 3)
        for start in range(len(whole)):
            found = next(source.batches(batch_size, seed=1, start=start))
            assert torch.equal(found, whole[start])


def test_seed_and_pass_decide_the_order():
    source = ArraySource(numbered())
    first, second = (numbers_of([batch]) for batch in take(source.batches(N, seed=0), 2))
    assert first == second == list(range(N))  # one batch: rows stand in it as in the array
    orders = {
        tuple(numbers_of(take(source.batches(10, seed=seed, start=10 * number), 10)))
        for seed in (0, 1)
        for number in (0, 1)
    }
    assert len(orders) == 4
    assert numbers_of(take(source.batches(10), 20)) == numbers_of(take(source.batches(10), 20))


def test_a_pass_is_shuffled_over_all_rows():
    source = ArraySource(numbered(1000))
    means = [batch.mean().item() for batch in take(source.batches(100), 10)]
    assert np.std(means) < 60  # in order it were 287


@pytest.mark.usefixtures("small_groups")
def test_groups_take_chunks_from_everywhere():
    source = ArraySource(numbered(1000))
    means = [batch.mean().item() for batch in take(source.batches(100), 10)]
    assert np.std(means) < 120


def test_in_order_gives_the_rows_as_they_stand():
    data = np.random.default_rng(0).standard_normal((N, D_IN)).astype(np.float32)
    source = ArraySource(data)
    batches = list(source.in_order(10))
    np.testing.assert_array_equal(torch.cat(batches).numpy(), data)
    assert [len(batch) for batch in batches] == np.diff(cut(N, 10)).tolist()
    for start in range(12):
        for found, expected in zip(source.in_order(10, start=start), batches[start:], strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "kind", ["float16", "float32", "float64", ">f4", ">f8", "bfloat16", "tensor", "strided", "map"]
)
def test_rows_are_float32_whatever_they_are_kept_as(kind, tmp_path):
    data = np.random.default_rng(0).integers(-100, 100, (N, D_IN)).astype(np.float32)
    given_as = {
        "bfloat16": lambda: torch.from_numpy(data).bfloat16(),
        "tensor": lambda: torch.from_numpy(data).double().requires_grad_(),
        "strided": lambda: np.asfortranarray(np.repeat(data, 2, axis=0))[::2],
        "map": lambda: mapped(data, tmp_path / "rows"),
    }.get(kind, lambda: data.astype(kind))()
    source = ArraySource(given_as)
    order = next(ArraySource(data).batches(40))
    for found, expected in (
        (torch.cat(list(source.in_order(7))), torch.from_numpy(data)),
        (next(source.batches(40)), order),
        (source.sample(N), torch.from_numpy(data)),
    ):
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert torch.equal(found, expected)
    assert source.digest == ArraySource(data).digest


def mapped(data, path):
    written = np.memmap(path, data.dtype, "w+", shape=data.shape)
    written[:] = data
    written.flush()
    return np.memmap(path, data.dtype, "r", shape=data.shape)


def test_batches_may_be_changed_and_the_data_stay():
    for data in (numbered(), torch.from_numpy(numbered())):
        source = ArraySource(data)
        for batch in (*take(source.batches(10), 3), *source.in_order(N), source.sample(1000)):
            batch.zero_()
        assert numbers_of(source.in_order(10)) == list(range(N))


def test_no_copy_of_the_whole_is_made(monkeypatch):
    sizes = []
    genuine = torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", lambda array: sizes.append(len(array)) or genuine(array))
    source = ArraySource(numbered(1000, dtype=np.float64))
    take(source.batches(10), 100)
    list(source.in_order(10))
    assert max(sizes) == 10


@given(st.integers(1, 300), st.integers(1, 400))
def test_a_sample_is_spread_over_the_data(n_rows, wanted):
    rows = spread_rows(n_rows, wanted)
    assert len(rows) == min(n_rows, wanted)
    assert len(set(rows.tolist())) == len(rows)
    ideal = np.arange(len(rows)) * n_rows / len(rows)
    assert np.abs(rows - ideal).max() <= n_rows / len(rows) + 1
    np.testing.assert_array_equal(rows, spread_rows(n_rows, wanted))


def test_a_sample_is_always_the_same():
    source = ArraySource(numbered())
    assert torch.equal(source.sample(10), source.sample(10))
    assert numbers_of([source.sample(10)]) == spread_rows(N, 10).tolist()


def test_what_is_said_of_the_rows_is_kept():
    source = ArraySource(numbered(), hook_point=(2, "mlp_out"), metadata={"model": "m"})
    assert source.hook_point == HookPoint(2, "mlp_out")
    assert isinstance(source.hook_point, HookPoint)
    assert source.metadata == {"model": "m"}
    assert (source.n_rows, source.d_in, repr(source)) == (N, D_IN, "ArraySource(103 rows, d_in=3)")
    assert ArraySource(numbered()).hook_point is None


def test_the_digest_is_of_all_rows():
    data = numbered()
    changed = data.copy()
    changed[50, 1] += 1
    assert ArraySource(data).digest == ArraySource(data.copy()).digest
    assert len({ArraySource(array).digest for array in (data, changed, data.reshape(D_IN, N))}) == 3


def test_rows_that_are_not_finite_are_named():
    batch = torch.zeros(8, 3)
    check_finite_rows(batch, 17)
    batch[3, 1], batch[5, 0] = torch.nan, -torch.inf
    message = (
        r"^Got activations that are not finite in batch 17 \(row 3 of it; 2 of its 8 rows\); expected "
        r"finite numbers\. Leave such rows out, or compute them anew: float16 cannot hold large ones, "
        r"float32 and bfloat16 can\.$"
    )
    with pytest.raises(InvalidInputError, match=message):
        check_finite_rows(batch, 17)


def test_finite_rows_whose_sum_is_not_are_taken():
    check_finite_rows(torch.full((2, 2), 3e38), 0)


def test_values_that_float32_cannot_hold_are_found_by_the_check():
    (batch,) = ArraySource(np.full((2, 2), 1e300)).in_order(2)
    with pytest.raises(
        InvalidInputError, match=r"not finite in batch 0 \(row 0 of it; 2 of its 2 rows\)"
    ):
        check_finite_rows(batch, 0)


@pytest.mark.parametrize(
    ("activations", "error", "message"),
    [
        ([[1.0]], InputTypeError, "^Got activations of type list; expected an array or a tensor"),
        (np.ones((2, 2), int), InputTypeError, "^Got activations of type int64; expected float16, bf"),
        (torch.ones(2, 2, dtype=torch.int32), InputTypeError, "^Got activations of type int32; exp"),
        (np.ones((2, 2), complex), InputTypeError, "^Got activations of type complex128; expected"),
        (
            np.ones(4),
            InvalidInputError,
            r"^Got activations of shape \(4,\); expected \(n_rows, d_in\), ",
        ),
        (np.ones((0, 4)), InvalidInputError, r"^Got activations of shape \(0, 4\); expected \(n_rows"),
        (torch.ones(1, 2, 3), InvalidInputError, r"^Got activations of shape \(1, 2, 3\); expected"),
    ],
)
def test_what_is_no_rows_of_activations_is_refused(activations, error, message):
    with pytest.raises(error, match=message):
        ArraySource(activations)


@pytest.mark.parametrize("batch_size", [0, -3, 2.5, True, None])
def test_a_batch_has_a_size(batch_size):
    source = ArraySource(numbered())
    message = rf"^Got batch_size={batch_size!r}; expected an integer above 0\.$"
    for ask in (source.batches, source.in_order, source.n_batches):
        with pytest.raises(InvalidParameterError, match=message):
            ask(batch_size)


@pytest.mark.parametrize("name", ["seed", "start"])
@pytest.mark.parametrize("value", [-1, 1.5, None])
def test_seed_and_start_are_counted_from_0(name, value):
    message = rf"^Got {name}={value!r}; expected an integer of at least 0\.$"
    with pytest.raises(InvalidParameterError, match=message):
        ArraySource(numbered()).batches(10, **{name: value})


def test_a_sample_has_a_size():
    with pytest.raises(InvalidParameterError, match=r"^Got n_rows=0; expected an integer above 0\.$"):
        ArraySource(numbered()).sample(0)
