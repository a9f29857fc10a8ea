from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.labelled import LabelledItems, sorted_labels, stratified_sample


def labelled(labels, **parts):
    return LabelledItems("reviews", [f"text {i}" for i in range(len(labels))], labels, **parts)


def test_labels_of_all_types_become_the_same_texts():
    ones = [1, "1", 1.0, np.int64(1), np.float32(1), np.str_("1")]
    assert labelled(ones).labels.tolist() == ["1"] * 6
    assert labelled([True, np.False_]).labels.tolist() == ["true", "false"]
    for values in ([0, 1, 10], np.array([0, 1, 10]), np.array([0.0, 1.0, 10.0]), pd.Series([0, 1, 10])):
        assert labelled(values).classes == ("0", "1", "10")
        assert labelled(values).codes().tolist() == [0, 1, 2]
    frame = pd.DataFrame({"label": pd.Categorical(["b", "a"]), "author": ["x", "y"]})
    data = labelled(frame["label"], groups=frame["author"])
    assert (data.classes, data.groups.tolist()) == (("a", "b"), ["x", "y"])


@pytest.mark.parametrize("value", [None, np.nan, 1.5, float("inf"), "", "  ", b"good", ["good"], pd.NA])
def test_what_is_no_label(value):
    with pytest.raises(InvalidInputError) as error:
        labelled(["good", value])
    assert str(error.value) == (
        f"reviews: labels: got {value!r} at item 1; expected a text or a whole number."
    )


def test_parts_that_do_not_fit():
    with pytest.raises(InvalidInputError, match="reviews: got 3 labels for 2 items; expected one each."):
        LabelledItems("reviews", ["a", "b"], [0, 1, 1])
    with pytest.raises(InvalidInputError, match="reviews: got 1 groups for 2 items"):
        labelled([0, 1], groups=["x"])
    with pytest.raises(InvalidInputError, match="reviews has no items"):
        labelled([])
    with pytest.raises(
        InvalidInputError, match="got split='val'; expected 'train' or 'test'. Leave other"
    ):
        labelled([0, 1, 1], split=["train", "val", "test"])
    with pytest.raises(InvalidInputError, match="reviews has the label '2'; expected one of 0, 1."):
        labelled([0, 2]).codes(("0", "1"))


def test_labels_are_ordered_by_number_where_all_are_numbers():
    assert sorted_labels({"-1", "10", "9"}) == ("-1", "9", "10")
    assert sorted_labels({"a", "10", "9"}) == ("10", "9", "a")


def test_the_digest_tells_data_apart():
    data = labelled([0, 1])
    others = [
        labelled([1, 0]),
        labelled([0, 1], groups=["train", "test"]),
        labelled([0, 1], split=["train", "test"]),
        LabelledItems("reviews", ["text 1", "text 0"], [0, 1]),
    ]
    assert len({each.digest() for each in [data, *others]}) == 5
    assert LabelledItems("other", data.items, ["0", "1"]).digest() == data.digest()


def test_taking_keeps_parts_together():
    data = labelled([0, 1, 2], groups=["x", "y", "z"], split=["train", "test", "test"])
    some = data.take([2, 0])
    assert some.items == ["text 2", "text 0"]
    assert (some.labels.tolist(), some.groups.tolist()) == (["2", "0"], ["z", "x"])
    assert some.split.tolist() == ["test", "train"]


def test_texts_and_images():
    assert LabelledItems("a", ["x", "y"], [0, 1]).modality == "text"
    assert LabelledItems("a", [Path("x.png"), Path("y.png")], [0, 1]).modality == "image"
    with pytest.raises(InvalidInputError, match="Got None as item 1; expected a text"):
        LabelledItems("a", ["x", None], [0, 1]).digests()


@given(
    shares=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    times=st.integers(1, 5),
    data=st.data(),
)
def test_samples_have_every_stratum_by_its_share_and_are_nested(shares, times, data):
    strata = np.repeat([f"s{i}" for i in range(len(shares))], np.array(shares) * times)
    seed = data.draw(st.integers(0, 100))
    smaller, n = sorted(data.draw(st.integers(len(shares), len(strata))) for _ in range(2))
    chosen = stratified_sample(strata, n, seed)
    assert len(set(chosen.tolist())) == n
    assert set(strata[chosen]) == set(strata)
    assert stratified_sample(strata, smaller, seed).tolist() == chosen[:smaller].tolist()
    part = data.draw(st.integers(1, times))  # so many of `times` have whole shares
    some = strata[stratified_sample(strata, part * sum(shares), seed)]
    assert [int((some == f"s{i}").sum()) for i in range(len(shares))] == [part * each for each in shares]


def test_a_sample_keeps_order_and_both_sides_of_a_split():
    data = labelled([0, 1] * 20, split=["train"] * 32 + ["test"] * 8)
    some = data.sample(10, seed=3)
    positions = [data.items.index(item) for item in some.items]
    assert positions == sorted(positions)
    pairs = list(zip(some.labels, some.split, strict=True))
    assert {pair: pairs.count(pair) for pair in set(pairs)} == {
        ("0", "train"): 4, ("1", "train"): 4, ("0", "test"): 1, ("1", "test"): 1,
    }  # fmt: skip
    assert data.sample(10, seed=3).items == some.items
    assert data.sample(10, seed=4).items != some.items
    assert data.sample(40) is data
    for n_items in (0, -5, 2.5):
        with pytest.raises(InvalidParameterError, match=f"Got n_items={n_items}"):
            data.sample(n_items)
