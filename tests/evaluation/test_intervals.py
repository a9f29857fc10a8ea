"""Intervals hold the true value about as often as they say, and know what a group is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.intervals import bootstrap_interval, paired_bootstrap
from sae_features.evaluation.resampling import OF_COUNTS
from sae_features.evaluation.scores import scores

JOINT = np.array([[0.65, 0.1], [0.1, 0.15]])
"""Shares of (truth, prediction): classes of 75 and 25 %."""


def sample(rng, n, joint=JOINT):
    cells = rng.choice(joint.size, n, p=joint.ravel())
    return cells // len(joint), cells % len(joint)


def coverage(intervals, value):
    return np.mean([found.low <= value <= found.high for found in intervals])


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_coverage_is_near_nominal(metric):
    rng = np.random.default_rng(0)
    true = float(OF_COUNTS[metric](JOINT.ravel(), 2))
    found = [
        bootstrap_interval(*sample(rng, 120), metric, n_classes=2, level=0.9, n_resamples=500, seed=i)
        for i in range(500)
    ]
    assert 0.86 <= coverage(found, true) <= 0.94  # three standard errors
    above, below = (
        np.mean([each.low > true for each in found]),
        np.mean([each.high < true for each in found]),
    )
    assert max(above, below) <= 0.08


def test_coverage_of_auroc_is_near_nominal():
    rng = np.random.default_rng(1)
    true = stats.norm.cdf(1 / np.sqrt(2))  # of scores N(0, 1) and N(1, 1)
    found = []
    for i in range(300):
        truth = np.repeat([0, 1], [40, 20])
        s = rng.normal(size=60) + truth
        given = np.stack([-s, s], axis=1)
        found.append(bootstrap_interval(truth, given, "auroc", level=0.9, n_resamples=300, seed=i))
    assert 0.85 <= coverage(found, true) <= 0.95  # standard error 0.017


def test_items_that_are_alike_within_groups_need_groups():
    rng = np.random.default_rng(2)
    with_groups, without = [], []
    for i in range(300):
        right = np.repeat(rng.random(60) < 0.7, 5)  # 60 authors, 5 texts each: all right or all wrong
        truth = rng.integers(0, 2, 300)
        given = np.where(right, truth, 1 - truth)
        how = {"n_classes": 2, "level": 0.9, "n_resamples": 300, "seed": i}
        with_groups.append(
            bootstrap_interval(truth, given, "accuracy", groups=np.repeat(np.arange(60), 5), **how)
        )
        without.append(bootstrap_interval(truth, given, "accuracy", **how))
    assert 0.84 <= coverage(with_groups, 0.7) <= 0.95
    assert coverage(without, 0.7) < 0.65


def test_groups_of_one_item_are_items():
    truth, predicted = sample(np.random.default_rng(3), 200)
    single = bootstrap_interval(truth, predicted, n_classes=2)
    grouped = bootstrap_interval(truth, predicted, n_classes=2, groups=[f"g{i}" for i in range(200)])
    assert grouped[3:] == single[3:]
    assert grouped[:3] == pytest.approx(single[:3], abs=0.01)  # other draws of the same


def test_the_record():
    truth, predicted = sample(np.random.default_rng(4), 100)
    groups = np.arange(100) // 4
    found = bootstrap_interval(truth, predicted, n_classes=2, groups=groups, level=0.8)
    assert found.figure == pytest.approx(scores(truth, predicted, n_classes=2).macro_f1, abs=1e-12)
    assert (found.level, found.n_items, found.n_units, found.n_undefined) == (0.8, 100, 25, 0)
    assert found.low < found.figure < found.high


def test_a_higher_level_is_wider_and_a_seed_repeats():
    truth, predicted = sample(np.random.default_rng(5), 100)
    narrow, wide = (
        bootstrap_interval(truth, predicted, n_classes=2, level=level) for level in (0.8, 0.99)
    )
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_interval(truth, predicted, n_classes=2, level=0.8) == narrow
    assert bootstrap_interval(truth, predicted, n_classes=2, level=0.8, seed=1) != narrow


def test_scores_stand_for_the_class_with_the_largest():
    truth, predicted = sample(np.random.default_rng(6), 100)
    given = 0.4 + 0.2 * np.eye(2)[predicted]
    assert bootstrap_interval(truth, given) == bootstrap_interval(truth, predicted, n_classes=2)


def test_the_interval_is_near_the_binomial_one():
    truth = np.zeros(400, int)
    predicted = np.repeat([0, 1], [320, 80])
    found = bootstrap_interval(truth, predicted, "accuracy", n_classes=2, n_resamples=5000)
    exact = stats.binomtest(320, 400).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.005)


def test_resamples_without_a_class_are_counted():
    found = bootstrap_interval([0, 0, 0, 1], np.eye(2)[[0, 0, 1, 1]], "auroc", n_resamples=1000)
    assert 250 < found.n_undefined < 400  # (3/4)^4 of them, and few without the other class
    assert found.figure == pytest.approx(5 / 6)


def test_all_right_has_no_width():
    found = bootstrap_interval([0, 1] * 10, [0, 1] * 10, n_classes=2)
    assert (found.low, found.figure, found.high) == (1, 1, 1)


class TestPaired:
    def test_the_difference_of_the_figures(self):
        rng = np.random.default_rng(0)
        truth = rng.integers(0, 3, 90)
        one, two = rng.random((2, 90, 3)) + np.array([[[1.0]], [[0.3]]]) * np.eye(3)[truth]
        for metric in ("accuracy", "macro_f1", "auroc"):
            found = paired_bootstrap(truth, one, two, metric, n_resamples=1000)
            a, b = (getattr(scores(truth, s.argmax(axis=1), s, n_classes=3), metric) for s in (one, two))
            assert (found.first, found.second) == pytest.approx((a, b), abs=1e-12)
            assert found.difference == pytest.approx(a - b, abs=1e-12)
            assert found.low < found.difference < found.high
            turned = paired_bootstrap(truth, two, one, metric, n_resamples=1000)
            assert turned.difference == pytest.approx(-found.difference, abs=1e-12)
            assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=0.03)

    def test_what_both_share_cancels(self):
        rng = np.random.default_rng(1)
        truth = rng.integers(0, 2, 300)
        one = np.where(rng.random(300) < 0.7, truth, 1 - truth)
        two = one.copy()
        two[:6] = 1 - truth[:6]
        one[:6] = truth[:6]  # they differ in six items, all better
        found = paired_bootstrap(truth, one, two, "accuracy", n_classes=2)
        assert found.difference == pytest.approx(0.02)
        assert found.low > 0
        assert found.p < 0.05
        alone = bootstrap_interval(truth, one, "accuracy", n_classes=2)
        assert found.high - found.low < (alone.high - alone.low) / 2

    def test_the_same_predictions(self):
        truth, predicted = sample(np.random.default_rng(2), 60)
        found = paired_bootstrap(truth, predicted, predicted, n_classes=2)
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)

    def test_equal_methods_are_told_apart_as_rarely_as_they_should(self):
        rng = np.random.default_rng(3)
        p_values = []
        for i in range(400):
            truth = rng.integers(0, 2, 150)
            one, two = (np.where(rng.random(150) < 0.75, truth, 1 - truth) for _ in range(2))
            p_values.append(paired_bootstrap(truth, one, two, n_classes=2, n_resamples=400, seed=i).p)
        assert 0.06 <= np.mean(np.array(p_values) < 0.1) <= 0.14  # standard error 0.015

    def test_groups(self):
        rng = np.random.default_rng(4)
        truth = rng.integers(0, 2, 200)
        better = np.repeat(rng.random(40) < 0.55, 5)
        one, two = np.where(better, truth, 1 - truth), np.where(better, 1 - truth, truth)
        items = paired_bootstrap(truth, one, two, "accuracy", n_classes=2)
        groups = paired_bootstrap(
            truth, one, two, "accuracy", n_classes=2, groups=np.repeat(np.arange(40), 5)
        )
        assert groups.n_units == 40
        assert groups.high - groups.low > 1.8 * (items.high - items.low)  # √5, but for chance


class TestErrors:
    @pytest.mark.parametrize("level", [0, 1, 95, "high", None])
    def test_level(self, level):
        with pytest.raises(
            InvalidParameterError, match="^Got level=.*; expected a number such as 0.95, below"
        ):
            bootstrap_interval([0, 1], [0, 1], n_classes=2, level=level)

    @pytest.mark.parametrize("n_resamples", [0, 99, 1e3, True])
    def test_n_resamples(self, n_resamples):
        with pytest.raises(
            InvalidParameterError, match="^Got n_resamples=.*; expected an integer of at least 100"
        ):
            bootstrap_interval([0, 1], [0, 1], n_classes=2, n_resamples=n_resamples)

    def test_metric(self):
        with pytest.raises(InvalidParameterError, match="Did you mean 'macro_f1'"):
            bootstrap_interval([0, 1], [0, 1], "f1_macro", n_classes=2)

    def test_arrays(self):
        with pytest.raises(
            InvalidInputError, match=r"^Got given of shape \(3,\); expected \(2,\) as truth has"
        ):
            bootstrap_interval([0, 1], [0, 1, 1], n_classes=2)
        with pytest.raises(InvalidInputError, match=r"^Got second of shape \(3,\); expected \(2,\)"):
            paired_bootstrap([0, 1], [0, 1], [0, 1, 1], n_classes=2)
