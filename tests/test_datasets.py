from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sae_features.datasets import load_movie_snippets

if TYPE_CHECKING:
    from sklearn.utils import Bunch


@pytest.fixture(scope="module")
def snippets() -> Bunch:
    return load_movie_snippets()


def test_shapes_and_types(snippets):
    assert set(snippets) == {"data", "target", "target_names", "rating", "DESCR"}
    assert isinstance(snippets.data, list)
    assert {type(text) for text in snippets.data} == {str}
    assert (snippets.target.shape, snippets.target.dtype) == ((2000,), np.int64)
    assert (snippets.rating.shape, snippets.rating.dtype) == ((2000,), np.float64)
    assert snippets.target_names == ["negative", "positive"]


def test_classes_are_balanced_and_follow_the_rating(snippets):
    assert np.bincount(snippets.target).tolist() == [1000, 1000]
    np.testing.assert_array_equal(snippets.target, snippets.rating > 0)
    assert np.abs(snippets.rating).min() > 1
    assert np.abs(snippets.rating).max() <= 4


def test_ratings_are_not_only_the_extremes(snippets):
    # the whole source has a median of 1.9 among its clear snippets
    assert 1.7 < np.median(np.abs(snippets.rating)) < 2.1


def test_snippets_are_distinct_and_of_at_least_four_words(snippets):
    assert len({" ".join(text.casefold().split()) for text in snippets.data}) == 2000
    lengths = [len(text.split()) for text in snippets.data]
    assert (min(lengths), np.median(lengths), max(lengths)) == (4, 19, 47)


def test_classes_are_mixed(snippets):
    shares = snippets.target.reshape(20, 100).mean(axis=1)
    assert shares.min() > 0.3
    assert shares.max() < 0.7


def test_data_and_target_alone_are_the_same_rows(snippets):
    X, y = load_movie_snippets(return_X_y=True)
    assert list(X) == list(snippets.data)
    np.testing.assert_array_equal(y, snippets.target)


def test_each_call_returns_its_own_arrays(snippets):
    other = load_movie_snippets()
    other.target[:] = 7
    other.data.clear()
    assert load_movie_snippets().target.max() == 1
    assert len(snippets.data) == 2000


@pytest.mark.parametrize(
    "fact",
    ["2,000", "median 19", "one review", "thresholded mean ratings", "MIT", "Hutto", "Pang & Lee"],
)
def test_description_names_source_and_limits(snippets, fact):
    assert fact in snippets.DESCR


def test_licence_notice_stands_beside_the_data():
    notice = resources.files("sae_features") / "data" / "vaderSentiment-LICENSE.txt"
    text = notice.read_text(encoding="utf-8")
    assert text.startswith("The MIT License (MIT)\n\nCopyright (c) 2016 C.J. Hutto\n")
    assert "THE SOFTWARE IS PROVIDED" in text
    assert "Hutto, C.J. & Gilbert, E.E. (2014)" in text
