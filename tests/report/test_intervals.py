"""Means over folds, pairs and data sets, with the intervals of textbooks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sae_features.report.intervals import Estimate, estimate, mean_of, score

SCORES = [0.81, 0.84, 0.79, 0.86, 0.80]


def rows(scores, dataset="a", **more):
    return [
        {"dataset": dataset, "seed": 0, "fold": i, "macro_f1": x, "n_train": 80, "n_test": 20} | more
        for i, x in enumerate(scores)
    ]


class TestEstimate:
    def test_of_independent_values_it_is_students(self):
        result = estimate(SCORES)
        low, high = stats.t.interval(0.95, 4, np.mean(SCORES), stats.sem(SCORES))
        assert (result.low, result.high) == pytest.approx((low, high))
        assert result.p == pytest.approx(stats.ttest_1samp(SCORES, 0).pvalue)

    def test_of_folds_it_is_corrected(self):
        result = estimate(SCORES, (80, 20))
        error = math.sqrt(np.var(SCORES, ddof=1) * (1 / 5 + 20 / 80))
        half = stats.t.ppf(0.975, 4) * error
        assert result.error == pytest.approx(error)
        assert result.high - result.low == pytest.approx(2 * half)

    def test_one_fold_has_no_interval(self):
        assert estimate([0.8], (80, 20)) == Estimate(0.8)

    def test_equal_folds_have_no_interval(self):
        result = estimate([0.8, 0.8, 0.8], (80, 20))
        assert (result.mean, result.low, result.high, result.n) == (pytest.approx(0.8), None, None, 3)


class TestMeanOf:
    def test_of_two_it_is_welchs(self):
        a, b = [0.1, 0.3, 0.2, 0.15], [0.4, 0.5, 0.7]
        result = mean_of([estimate(a), estimate([-x for x in b])])
        test = stats.ttest_ind(a, b, equal_var=False)
        interval = test.confidence_interval(0.95)
        assert (2 * result.low, 2 * result.high) == pytest.approx((interval.low, interval.high))
        assert result.p == pytest.approx(test.pvalue)
        assert result.freedom == pytest.approx(test.df)

    def test_without_one_interval_there_is_none(self):
        assert mean_of([estimate([0.1, 0.2]), estimate([0.3])]) == Estimate(pytest.approx(0.225), n=3)


class TestScore:
    def test_one_data_set(self):
        assert score(rows(SCORES), "macro_f1") == estimate(SCORES, (80, 20))

    def test_several_rows_of_a_fold_count_once(self):
        twice = rows([x - 0.01 for x in SCORES]) + rows([x + 0.01 for x in SCORES])
        result = score(twice, "macro_f1")
        assert result.n == 5
        assert (result.low, result.high) == pytest.approx(estimate(SCORES, (80, 20))[1:3])

    def test_data_sets_count_alike(self):
        result = score(rows([0.5, 0.7]) + rows([0.9] * 10, "b"), "macro_f1")
        assert result.mean == pytest.approx((0.6 + 0.9) / 2)

    def test_pairs_of_languages_are_averaged_within_folds(self):
        pairs = rows(SCORES, train_on="en", test_on="fr") + rows(
            SCORES[::-1], train_on="fr", test_on="en"
        )
        means = [(a + b) / 2 for a, b in zip(SCORES, SCORES[::-1], strict=True)]
        assert score(pairs, "macro_f1")[:4] == pytest.approx(estimate(means, (80, 20))[:4])

    def test_pairs_without_a_common_fold_have_no_interval(self):
        pairs = rows([0.5], train_on="en", test_on="fr") + rows(
            [0.7], train_on="fr", test_on="en", fold=3
        )
        assert score(pairs, "macro_f1") == Estimate(pytest.approx(0.6))

    def test_runs_that_share_their_test_part_are_not_corrected(self):
        seeds = [row | {"seed": i, "fold": 0} for i, row in enumerate(rows(SCORES))]
        assert score(seeds, "macro_f1") == estimate(SCORES)

    def test_what_is_missing(self):
        assert score(rows([0.5], auroc=None), "auroc") is None
        assert score([], "macro_f1") is None
        some = [*rows([0.5, 0.7]), {"dataset": "a", "seed": 0, "fold": 2, "macro_f1": None}]
        assert score(some, "macro_f1").mean == pytest.approx(0.6)
