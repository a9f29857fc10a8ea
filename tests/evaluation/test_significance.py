"""Tests of means and ranks against scipy, definitions, and what happens where nothing is to be found."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.significance import (
    adjust,
    corrected_resampled_t,
    t_of_mean,
    wilcoxon,
)

quick = settings(deadline=None, max_examples=60)
p_values = st.lists(
    st.one_of(st.floats(0, 1), st.sampled_from([0.01, 0.05, 1.0])), min_size=1, max_size=12
)


class TestCorrectedT:
    def test_the_formula(self):
        differences = [0.03, -0.01, 0.02, 0.04, 0.01]
        found = corrected_resampled_t(differences, n_train=400, n_test=100, level=0.9)
        error = math.sqrt((1 / 5 + 100 / 400) * np.var(differences, ddof=1))
        assert found.mean == pytest.approx(0.018)
        assert found.error == pytest.approx(error)
        assert found.t == pytest.approx(0.018 / error)
        assert found.p == pytest.approx(2 * stats.t(4).sf(0.018 / error))
        assert (found.low, found.high) == pytest.approx(stats.t(4, 0.018, error).interval(0.9))
        assert found.n == 5

    def test_with_ever_more_training_items_it_is_the_ordinary_t_test(self):
        differences = np.random.default_rng(0).normal(0.2, 1, 12)
        found = corrected_resampled_t(differences, n_train=1e12, n_test=1)
        expected = stats.ttest_1samp(differences, 0)
        assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-6)

    def test_repetition_does_not_make_it_ever_surer(self):
        differences = np.random.default_rng(1).normal(0.5, 1, 10)
        once = corrected_resampled_t(differences, n_train=90, n_test=10)
        often = corrected_resampled_t(np.tile(differences, 100), n_train=90, n_test=10)
        assert once.error / math.sqrt(2) * 0.9 < often.error < once.error

    def test_it_errs_less_often_than_the_ordinary_test(self):
        corrected, ordinary = [], []
        rng = np.random.default_rng(2)
        for _ in range(250):
            differences = _differences_of_equal_methods(rng)
            corrected.append(corrected_resampled_t(differences, n_train=48, n_test=12).p < 0.05)
            ordinary.append(stats.ttest_1samp(differences, 0).pvalue < 0.05)
        assert np.mean(corrected) <= 0.09
        assert np.mean(ordinary) >= 0.2

    def test_all_folds_alike(self):
        assert corrected_resampled_t([0.0, 0.0, 0.0], n_train=8, n_test=2) == (0, 0, 0, 0, 0, 1, 3)
        found = corrected_resampled_t([0.3 - 0.1, 0.2, 0.4 - 0.2], n_train=8, n_test=2)
        assert (found.mean, found.error, found.t) == (pytest.approx(0.2), 0, math.inf)
        assert np.isnan([found.p, found.low, found.high]).all()  # of how they vary nothing is known
        assert corrected_resampled_t([-0.2, -0.2], n_train=8, n_test=2).t == -math.inf

    @pytest.mark.parametrize("size", [0, -1, math.inf, math.nan, None, "80"])
    def test_sizes(self, size):
        with pytest.raises(InvalidParameterError, match="^Got n_train=.*; expected a number above 0"):
            corrected_resampled_t([0.1, 0.2], n_train=size, n_test=2)
        with pytest.raises(InvalidParameterError, match="^Got n_test="):
            corrected_resampled_t([0.1, 0.2], n_train=8, n_test=size)

    def test_values(self):
        with pytest.raises(
            InvalidInputError, match=r"^Got differences of shape \(1,\); expected \(n,\), n ≥ 2"
        ):
            corrected_resampled_t([0.1], n_train=8, n_test=2)
        with pytest.raises(
            InvalidInputError, match="^Got differences with nan at position 1; expected finite"
        ):
            corrected_resampled_t([0.1, np.nan], n_train=8, n_test=2)


def _differences_of_equal_methods(rng, n=60, n_folds=5, n_repeats=4):
    """Folds' differences in accuracy of two classifiers that see equally good features."""
    labels = np.repeat([0, 1], n // 2)
    features = rng.normal(size=(2, n, 3)) + 0.8 * labels[:, None]
    differences = []
    for _ in range(n_repeats):
        for test in np.array_split(rng.permutation(n), n_folds):
            train = np.setdiff1d(np.arange(n), test)
            right = []
            for X in features:
                means = [X[train[labels[train] == k]].mean(axis=0) for k in (0, 1)]
                away = [((X[test] - mean) ** 2).sum(axis=1) for mean in means]
                right.append(np.mean((away[1] < away[0]) == labels[test]))
            differences.append(right[0] - right[1])
    return differences


class TestMean:
    def test_it_is_students_t_test(self):
        values = np.random.default_rng(0).normal(0.3, 1, 20)
        found, expected = t_of_mean(values, level=0.9), stats.ttest_1samp(values, 0)
        assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue))
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.9)))
        assert found.error == pytest.approx(stats.sem(values))

    def test_errors(self):
        with pytest.raises(InvalidInputError, match=r"^Got values of shape \(1,\)"):
            t_of_mean([0.1])
        with pytest.raises(InvalidParameterError, match="^Got level=2; "):
            t_of_mean([0.1, 0.2], level=2)


def _by_all_signs(differences):
    """p of the signed ranks, by trying all signs of the differences that are not 0."""
    d = np.asarray(differences)
    ranks = stats.rankdata(np.abs(d))[d != 0]
    middle = ranks.sum() / 2
    away = abs(ranks[d[d != 0] > 0].sum() - middle)
    sums = [np.dot(signs, ranks) for signs in itertools.product([0, 1], repeat=ranks.size)]
    return np.mean(np.abs(np.array(sums) - middle) >= away - 1e-9)


class TestWilcoxon:
    @quick
    @given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
    def test_few_differences_are_exact_with_ties_and_zeros(self, steps):
        found = wilcoxon(np.array(steps) / 100)
        assert found.p == pytest.approx(_by_all_signs(steps) if any(steps) else 1, abs=1e-12)
        assert (found.n, found.n_zero, found.method) == (len(steps), steps.count(0), "exact")

    def test_without_ties_it_is_exact_up_to_50(self):
        d = np.random.default_rng(0).normal(0.3, 1, 50)
        expected = stats.wilcoxon(d, method="exact")
        assert wilcoxon(d) == (expected.statistic, pytest.approx(expected.pvalue), 50, 0, "exact")

    def test_beyond_it_is_the_normal_approximation_with_zeros_ranked(self):
        d = np.round(np.random.default_rng(1).normal(0.3, 1, 60), 1)
        expected = stats.wilcoxon(d, zero_method="pratt", method="asymptotic")
        found = wilcoxon(d)
        assert found.p == pytest.approx(expected.pvalue)
        assert (found.n_zero, found.method) == (np.count_nonzero(d == 0), "normal")
        assert found.n_zero > 0

    def test_rounding_makes_neither_differences_nor_ranks(self):
        d = [0.3 - 0.2, 0.8 - 0.7, -(0.6 - 0.5), 0.1 + 0.2 - 0.3]
        found = wilcoxon(d)
        assert found.n_zero == 1
        assert found.p == pytest.approx(_by_all_signs([1, 1, -1, 0]))

    def test_zeros_speak_against_a_difference(self):
        assert wilcoxon([1, 2, 3, 4, 5, 6, 7] + [0] * 4).p >= wilcoxon([1, 2, 3, 4, 5, 6, 7]).p
        assert wilcoxon([0.0, 0.0]) == (0, 1, 2, 2, "exact")

    def test_five_are_never_enough(self):
        assert wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5]).p == 0.0625

    def test_errors(self):
        with pytest.raises(
            InvalidInputError, match=r"^Got differences of shape \(0,\); expected \(n,\), n ≥ 1"
        ):
            wilcoxon([])


def _holm_by_definition(p):
    """The least level at which the step-down procedure rejects each hypothesis."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    for place, i in enumerate(order):
        adjusted[i] = min(1, max((len(p) - j) * p[order[j]] for j in range(place + 1)))
    return adjusted


def _bh_by_definition(p):
    """The least level at which the step-up procedure rejects each hypothesis."""
    ordered = np.sort(p)
    m = len(p)
    return [min(1, *(m / (j + 1) * ordered[j] for j in range(m) if ordered[j] >= each)) for each in p]


class TestAdjust:
    @quick
    @given(p_values)
    def test_holm(self, p):
        np.testing.assert_allclose(adjust(p), _holm_by_definition(p), rtol=1e-12)

    @quick
    @given(p_values)
    def test_bh(self, p):
        np.testing.assert_allclose(adjust(p, "bh"), _bh_by_definition(p), rtol=1e-12)
        np.testing.assert_allclose(adjust(p, "bh"), stats.false_discovery_control(p), rtol=1e-12)

    @quick
    @given(p_values, st.randoms())
    def test_order_does_not_matter_and_bh_is_milder(self, p, random):
        order = list(range(len(p)))
        random.shuffle(order)
        for method in ("holm", "bh"):
            shuffled = adjust([p[i] for i in order], method)
            np.testing.assert_allclose(shuffled, adjust(p, method)[order], rtol=1e-12)
        assert (adjust(p, "bh") <= adjust(p, "holm") * (1 + 1e-12)).all()
        assert (adjust(p, "bh") >= np.array(p) * (1 - 1e-12)).all()

    @pytest.mark.parametrize("method", ["holm", "bh"])
    def test_what_was_not_tested_is_not_counted(self, method):
        found = adjust([0.01, np.nan, 0.04], method)
        np.testing.assert_array_equal(found, np.insert(adjust([0.01, 0.04], method), 1, np.nan))
        assert np.isnan(adjust([np.nan], method)).all()
        assert adjust([], method).shape == (0,)

    def test_holm_keeps_the_chance_of_any_false_finding(self):
        rng = np.random.default_rng(0)
        any_found = [adjust(rng.random(20)).min() < 0.05 for _ in range(2000)]
        assert 0.03 < np.mean(any_found) < 0.065

    def test_errors(self):
        with pytest.raises(
            InvalidInputError, match=r"^Got p values \[0\.1, 1\.5\]; expected numbers from 0 to 1"
        ):
            adjust([0.1, 1.5])
        with pytest.raises(
            InvalidParameterError, match="^Got method='bonferroni'; expected one of holm, bh"
        ):
            adjust([0.1], "bonferroni")
