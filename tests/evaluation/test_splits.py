from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.leakage import joint_groups
from sae_features.evaluation.splits import check_parts, draw_folds, inner_folds


@st.composite
def labelled_repeats(draw):
    """Some items of each class, and others that repeat them or share their groups, of any class."""
    n_classes = draw(st.integers(2, 3))
    n = n_classes * draw(st.integers(5, 9))
    number = st.integers(0, n + 3)
    others = draw(st.lists(st.tuples(number, number, st.integers(0, n_classes - 1)), max_size=8))
    items = [*range(n), *(item for item, _, _ in others)]
    groups = [*range(n), *(group for _, group, _ in others)] if draw(st.booleans()) else None
    codes = [*(i % n_classes for i in range(n)), *(code for _, _, code in others)]
    return np.array(codes), items, groups


@settings(max_examples=150)
@given(labelled_repeats(), st.integers(2, 4), st.integers(0, 3))
def test_equal_items_and_groups_are_never_on_both_sides(drawn, n_folds, seed):
    codes, items, groups = drawn
    try:
        folds = draw_folds(codes, joint_groups(items, groups), n_folds, seed)
    except InvalidInputError:
        assume(False)
    assert [fold.number for fold in folds] == list(range(n_folds))
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested.tolist()) == list(range(len(codes)))
    for fold in folds:
        assert sorted([*fold.train, *fold.test]) == list(range(len(codes)))
        for part in (items, groups) if groups is not None else (items,):
            assert not {part[i] for i in fold.train} & {part[i] for i in fold.test}
        assert set(codes[fold.train]) == set(codes[fold.test]) == set(codes)
        assert fold.seed == seed


def test_folds_are_those_of_their_seed():
    codes, together = np.arange(30) % 2, np.arange(30) // 2
    one, again, other = (
        [fold.test.tolist() for fold in draw_folds(codes, together, 3, seed)] for seed in (0, 0, 1)
    )
    assert one == again
    assert one != other


def test_too_few_items():
    codes = np.array([0, 0, 0, 0, 1, 1, 1])
    for together in (np.arange(7), np.array([0, 1, 2, 3, 4, 5, 5])):
        n = len(set(together[4:].tolist()))
        with pytest.raises(InvalidInputError) as error:
            draw_folds(codes, together, 4, 0, name="reviews", classes=("good", "bad"))
        assert str(error.value) == (
            f"reviews: class 'bad' has {n} different items or groups, fewer than the 4 folds; give "
            "fewer folds, or more items of it."
        )
    with pytest.raises(InvalidInputError, match="class number 1 has 3 different items"):
        draw_folds(codes, np.arange(7), 4, 0)
    with pytest.raises(InvalidInputError, match="reviews has one class only; expected at least two."):
        draw_folds(np.zeros(9, int), np.arange(9), 3, 0, name="reviews")
    with pytest.raises(InvalidParameterError, match="Got 1 folds; expected at least 2."):
        draw_folds(codes, np.arange(7), 1, 0)


def test_a_class_that_is_absent_in_a_part():
    codes = np.array([0, 1, 0, 1])
    with pytest.raises(InvalidInputError) as error:
        check_parts(codes, np.array([0, 1, 3]), np.array([2]), "reviews", ("bad", "good"))
    assert str(error.value) == (
        "reviews: class 'good' is absent in the test part; give fewer folds, another seed, or more "
        "items of it."
    )
    with pytest.raises(InvalidInputError, match="class number 0 is absent in the training part"):
        check_parts(codes, np.array([1, 3]), np.array([0, 2]), "reviews")


def test_inner_folds_are_as_many_as_the_rarest_class_allows():
    codes = np.array([0] * 6 + [1] * 3)
    assert len(inner_folds(codes, np.arange(9), 5, 0)) == 3
    in_pairs = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4])
    folds = inner_folds(codes, in_pairs, 5, 0)
    assert len(folds) == 2
    for train, test in folds:
        assert not set(in_pairs[train]) & set(in_pairs[test])
    assert inner_folds(codes, np.array([0, 1, 2, 3, 4, 5, 6, 6, 6]), 5, 0) is None
    assert inner_folds(np.zeros(9, int), np.arange(9), 5, 0) is None
    assert inner_folds(codes, np.arange(9), 1, 0) is None
