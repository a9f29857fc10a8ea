"""Paired differences are those of the folds that both have."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from sae_features.errors import InputTypeError, InvalidInputError
from sae_features.report.comparisons import (
    checked_comparisons,
    compare,
    compare_overall,
    place_names,
)

A = [0.80, 0.85, 0.79, 0.90]
B = [0.78, 0.80, 0.80, 0.83]


def rows(scores, dataset="a", **more):
    return [
        {"dataset": dataset, "seed": 0, "fold": i, "macro_f1": x, "n_train": 75, "n_test": 25} | more
        for i, x in enumerate(scores)
    ]


class TestCompare:
    def test_the_corrected_resampled_t_test(self):
        (record,) = compare(rows(A), rows(B))
        d = np.subtract(A, B)
        error = math.sqrt(d.var(ddof=1) * (1 / 4 + 1 / 3))
        assert record["difference"] == pytest.approx(d.mean())
        assert record["p"] == pytest.approx(2 * stats.t.sf(abs(d.mean()) / error, 3))
        assert record["high"] - d.mean() == pytest.approx(stats.t.ppf(0.975, 3) * error)
        assert (record["dataset"], record["metric"], record["n"]) == ("a", "macro_f1", 4)

    def test_only_folds_of_both_count(self):
        (record,) = compare(rows(A)[1:], rows(B)[:3])
        assert record["difference"] == pytest.approx(np.subtract(A, B)[1:3].mean())
        assert record["n"] == 2
        assert compare(rows(A), rows(B, "b")) == []
        assert compare_overall(rows(A), rows(B, "b")) is None

    def test_order_of_rows_does_not_matter(self):
        assert compare(rows(A), rows(B)[::-1]) == compare(rows(A), rows(B))

    def test_overall_counts_data_sets_alike(self):
        overall = compare_overall(rows(A) + rows([0.5], "b"), rows(B) + rows([0.4], "b"))
        assert overall["difference"] == pytest.approx((np.subtract(A, B).mean() + 0.1) / 2)
        assert (overall["low"], overall["p"]) == (None, None)  # one of them has a single fold

    def test_overall_of_one_data_set_is_its_own(self):
        (record,) = compare(rows(A), rows(B))
        overall = compare_overall(rows(A), rows(B))
        assert overall == {key: record[key] for key in overall}


class TestChecked:
    def test_named_tuples_and_mappings(self):
        class Found(NamedTuple):
            difference: float
            p: float
            dataset: str = "a"

        (record,) = checked_comparisons([Found(0.1, 0.04)])
        assert list(record.items()) == [("dataset", "a"), ("difference", 0.1), ("p", 0.04)]
        (record,) = checked_comparisons([{"odd": 1, "p": 0.5, "difference": 0.0}])
        assert list(record) == ["difference", "p", "odd"]

    def test_errors(self):
        with pytest.raises(InputTypeError, match="^Got float as comparison 1; expected a dict"):
            checked_comparisons([{"difference": 0.1}, 0.2])
        with pytest.raises(InvalidInputError, match="^Got no 'difference' in comparison 0; it has p, n"):
            checked_comparisons([{"p": 0.1, "n": 3}])


class TestPlaceNames:
    def test_mixed(self):
        records = [
            {"dataset": "bbc", "train_on": "bbc", "test_on": "bbc"},
            {"dataset": "tweets", "train_on": "en", "test_on": "fr"},
            {"difference": 0.1},
        ]
        assert place_names(records) == (["bbc", "tweets: en → fr", "all"], "")

    def test_settings_are_named_where_there_are_several(self):
        pair = {"dataset": "tweets", "train_on": "en", "test_on": "fr"}
        records = [pair | {"setting": setting} for setting in ("zero_shot", "few_shot_16")]
        assert place_names(records)[0] == ["en → fr, zero-shot", "en → fr, few-shot, 16"]
        assert place_names(records[:1]) == (["en → fr"], "tweets")

    def test_nothing(self):
        assert place_names([]) == ([], "")
