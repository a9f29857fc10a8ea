from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.labelled import LabelledItems
from sae_features.evaluation.languages import fold_languages, lay_together

HOW = {"n_folds": 2, "n_repeats": 1, "seed": 0}


def language(name, n, *, first=0, classes="ab", **parts):
    texts = [f"{name} {i}" for i in range(first, first + n)]
    return LabelledItems(name, texts, [classes[i % len(classes)] for i in range(n)], **parts)


def test_languages_lie_end_to_end_and_translations_behind_them():
    data = [language("en", 4), language("de", 6)]
    laid = lay_together(data, {("de", "en"): [f"{text} in English" for text in data[1].items]})
    assert laid.items[:10] == data[0].items + data[1].items
    assert laid.items[laid.translated[1, 0] + 2] == "de 2 in English"
    assert (laid.starts.tolist(), laid.codes.tolist(), len(laid.together)) == (
        [0, 4, 10],
        [0, 1] * 5,
        10,
    )
    assert laid.of(np.array([0, 3, 4, 9, 10, 15])).tolist() == [0, 0, 1, 1, 2, 2]
    assert len(laid.digests) == len(laid.items) == 16


@settings(max_examples=60)
@given(st.data(), st.integers(2, 3), st.integers(2, 3))
def test_nothing_equal_is_on_both_sides_in_any_two_languages(data, n_folds, n_languages):
    draw = data.draw
    has_groups = draw(st.booleans())
    listed = []
    for number in range(n_languages):
        texts = [f"{number} {i}" for i in range(draw(st.integers(12, 20)))]
        for position in draw(st.lists(st.integers(8, 11), max_size=3)):
            texts[position] = f"shared {draw(st.integers(0, 1))}"
        groups = [f"{number} {i}" for i in range(len(texts))]
        for position in draw(st.lists(st.integers(8, 11), max_size=3)):
            groups[position] = f"template {draw(st.integers(0, 1))}"
        labels = [i % 2 for i in range(len(texts))]
        listed.append(LabelledItems(f"l{number}", texts, labels, groups if has_groups else None))
    laid = lay_together(listed)
    try:
        folds = fold_languages(listed, laid, n_folds=n_folds, n_repeats=2, seed=3)
    except InvalidInputError:  # groups are too large to share a class
        if not has_groups:
            raise
        reject()
    assert [(fold.seed, fold.number) for fold in folds] == [
        (seed, number) for seed in (3, 4) for number in range(n_folds)
    ]
    for fold in folds:
        train, test = np.concatenate(fold.rest), np.concatenate(fold.test)
        assert sorted([*train, *test]) == list(range(len(laid.items)))
        for of in (laid.items, list(laid.groups) if has_groups else laid.items):
            assert not {of[i] for i in train} & {of[i] for i in test}
        assert len({len(part) for part in fold.train}) == 1
        assert len(fold.train[0]) == min(map(len, fold.rest))
        for i, (part, rest) in enumerate(zip(fold.train, fold.rest, strict=True)):
            assert set(part) == set(rest[: len(part)])
            assert (laid.of(rest) == i).all()
            assert set(laid.codes[part]) == set(laid.codes[fold.test[i]]) == {0, 1}
    tested = np.concatenate([np.concatenate(fold.test) for fold in folds[:n_folds]])
    assert sorted(tested) == list(range(len(laid.items)))


def test_training_parts_of_a_size_that_was_asked_for():
    listed = [language("en", 20), language("de", 30)]
    laid = lay_together(listed)
    for fold in fold_languages(listed, laid, **HOW, train_size=6):
        for part, rest in zip(fold.train, fold.rest, strict=True):
            assert len(part) == 6
            assert np.bincount(laid.codes[part]).tolist() == [3, 3]
            assert set(part) == set(rest[:6])
    with pytest.raises(
        InvalidInputError, match="Got train_size=11, but en has 10 items to train on; give"
    ):
        fold_languages(listed, laid, **HOW, train_size=11)
    with pytest.raises(
        InvalidInputError, match="Got train_size=1; expected at least one item of each class"
    ):
        fold_languages(listed, laid, **HOW, train_size=1)
    with pytest.raises(
        InvalidParameterError, match="Got train_size=0; expected None or an integer above 0"
    ):
        fold_languages(listed, laid, **HOW, train_size=0)


def test_a_split_that_was_given_is_kept():
    sides = ["train"] * 8 + ["test"] * 4
    listed = [language("en", 12, split=sides), language("de", 16, split=["train"] * 4 + sides)]
    laid = lay_together(listed)
    folds = fold_languages(listed, laid, n_folds=5, n_repeats=2, seed=1)
    assert [(fold.seed, fold.number) for fold in folds] == [(1, 0), (2, 0)]
    for fold in folds:
        assert [part.tolist() for part in fold.test] == [[8, 9, 10, 11], [24, 25, 26, 27]]
        assert [sorted(part) for part in fold.rest] == [list(range(8)), list(range(12, 24))]
        assert fold.train[0].tolist() == list(range(8))
        assert len(fold.train[1]) == 8
    assert folds[0].train[1].tolist() != folds[1].train[1].tolist()


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([language("en", 8)], "Got 1 language; expected at least two."),
        (
            [language("en", 8), language("de", 8, classes="ac")],
            "en has the labels a, b, but de has a, c; expected the same in all languages.",
        ),
        (
            [language("en", 8, classes=[0, 1]), language("de", 8, classes=["neg", "pos"])],
            "en has the labels 0, 1, but de has neg, pos; expected the same in all languages.",
        ),
        (
            [language("en", 8, groups=range(8)), language("de", 8)],
            "en has groups, but de has none; give both or none.",
        ),
        (
            [language("en", 8), language("de", 8, split=["train", "test"] * 4)],
            "de has a split, but en has none; give both or none.",
        ),
        (
            [language("en", 8), language("de", 8, groups=None, classes="aaaaaaab")],
            "de: class 'b' has 1 different items or groups, fewer than the 2 folds; give fewer folds",
        ),
        (
            [language("en", 4, split=["train", "train", "test", "test"]),
             language("de", 4, split=["train", "test", "train", "test"])],
            "de, fold 0 of seed 0: class 'b' is absent in the training part",
        ),
    ],
)  # fmt: skip
def test_languages_that_do_not_fit(listed, message):
    with pytest.raises(InvalidInputError) as error:
        fold_languages(listed, lay_together(listed), **HOW)
    assert str(error.value).startswith(message)


def test_labels_of_other_types_are_the_same_labels():
    listed = [language("en", 8, classes=[0, 1]), language("de", 8, classes=["0", "1"])]
    listed.append(language("it", 8, classes=[0.0, np.int64(1)]))
    laid = lay_together(listed)
    assert (laid.classes, laid.codes.tolist()) == (("0", "1"), [0, 1] * 12)


@pytest.mark.parametrize(
    ("translated", "message"),
    [
        ({("en", "fr"): ["x"] * 8}, "Got a translation from en into fr; expected languages of en, de."),
        (
            {("en", "de"): ["x"] * 7},
            "Got 7 translations of en into de; expected 8, one for each item, in",
        ),
    ],
)
def test_translations_that_do_not_fit(translated, message):
    with pytest.raises(InvalidInputError) as error:
        lay_together([language("en", 8), language("de", 8)], translated)
    assert str(error.value).startswith(message)
