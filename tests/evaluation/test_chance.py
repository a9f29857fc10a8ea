"""Chance, exactly by all permutations of small cases, and by the record of larger ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.chance import (
    chance_interval,
    ends_of_chance,
    expected_by_chance,
    permuted_figures,
)
from sae_features.evaluation.scores import judged, score_of

METRICS = ("accuracy", "macro_f1", "auroc")


def all_figures(truth, columns, metric):
    """The figure of each order of the labels, equal ones once: they are as many of each."""
    orders = sorted(set(itertools.permutations(truth)))
    return np.array([score_of(judged(list(y), columns, metric, None), metric) for y in orders])


@pytest.mark.parametrize("metric", METRICS)
@settings(deadline=None, max_examples=6)
@given(n_classes=st.integers(2, 3), seed=st.integers(0, 2**32))
def test_chance_is_the_mean_over_all_orders(metric, n_classes, seed):
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, 5 - n_classes)])
    columns = rng.integers(0, 3, (5, n_classes)).astype(float)
    items = judged(truth, columns, metric, None)
    assert expected_by_chance(items, metric) == pytest.approx(all_figures(truth, columns, metric).mean())


@pytest.mark.parametrize("metric", METRICS)
def test_permuted_figures_are_distributed_as_all_orders(metric):
    rng = np.random.default_rng(0)
    truth, columns = np.array([0, 0, 0, 1, 1, 2]), rng.integers(0, 3, (6, 3)).astype(float)
    expected = all_figures(truth, columns, metric)
    items = judged(truth, columns, metric, None)
    found = permuted_figures(items, metric, np.arange(6), 20_000, rng)
    values = np.unique(np.round(expected, 9))
    assert set(np.round(found, 9)) == set(values)
    for value in values:
        share = np.mean(np.abs(expected - value) < 1e-6)
        assert np.mean(np.abs(found - value) < 1e-6) == pytest.approx(share, abs=0.015)


def test_auroc_by_chance_is_that_of_mann_and_whitney():
    rng = np.random.default_rng(1)
    truth, s = np.repeat([0, 1], [30, 20]), rng.random(50)
    items = judged(truth, np.stack([-s, s], axis=1), "auroc", None)
    found = permuted_figures(items, "auroc", np.arange(50), 20_000, rng)
    assert found.mean() == pytest.approx(0.5, abs=0.003)
    assert found.var() == pytest.approx(51 / (12 * 30 * 20), rel=0.05)


def test_the_larger_class_alone():
    truth = np.repeat([0, 1], [90, 10])
    majority = chance_interval(truth, "macro_f1", given=np.zeros(100, int), n_classes=2)
    assert majority.chance == majority.low == majority.high == pytest.approx(0.9 / 1.9)
    assert majority.p == 1
    assert chance_interval(truth, "macro_f1", n_classes=2).chance == pytest.approx(0.5)
    assert chance_interval(truth, "accuracy", n_classes=2).chance == pytest.approx(0.82)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("with_predictions", [False, True])
def test_independent_predictions_lie_within(metric, with_predictions):
    rng = np.random.default_rng(2)
    truth = np.repeat([0, 1, 2], [40, 20, 20])
    inside = []
    for i in range(100):
        columns = rng.random((80, 3)) + np.array([0.2, 0, 0])
        given = columns if with_predictions else None
        found = chance_interval(
            truth, metric, given=given, n_classes=3, level=0.9, n_permutations=300, seed=i
        )
        inside.append(found.low <= score_of(judged(truth, columns, metric, None), metric) <= found.high)
    if with_predictions:
        assert 0.83 <= np.mean(inside) <= 0.98  # standard error 0.03
    else:
        assert np.mean(inside) >= 0.8  # other class shares than the predictions have


def test_predictions_that_know_lie_above():
    truth = np.arange(60) % 3
    found = chance_interval(truth, "accuracy", given=np.where(np.arange(60) < 20, 0, truth), n_classes=3)
    assert found.figure > found.high
    assert found.p == pytest.approx(1 / 1001)


class TestGroups:
    def test_labels_stay_together(self):
        truth, unit_of = np.repeat([0, 1, 0, 1, 1], 4), np.repeat(np.arange(5), 4)
        items = judged(truth, truth, "accuracy", 2)
        found = permuted_figures(items, "accuracy", unit_of, 2000, np.random.default_rng(0))
        assert set(np.round(found, 9)) == {0.2, 0.6, 1.0}  # as of five items
        assert found.mean() == pytest.approx(expected_by_chance(items, "accuracy"), abs=0.03)

    def test_the_order_of_items_does_not_matter(self):
        truth, groups = np.repeat([0, 1, 0, 1], 3), np.repeat(["a", "b", "c", "d"], 3)
        order = np.random.default_rng(0).permutation(12)
        one = chance_interval(truth, given=truth, n_classes=2, groups=groups)
        two = chance_interval(truth[order], given=truth[order], n_classes=2, groups=groups[order])
        assert one == two

    def test_chance_varies_more(self):
        truth = np.repeat(np.arange(20) % 2, 5)
        given = np.repeat(np.arange(20) // 2 % 2, 5)
        alone = chance_interval(truth, given=given, n_classes=2)
        grouped = chance_interval(truth, given=given, n_classes=2, groups=np.arange(100) // 5)
        assert grouped.high - grouped.low > 1.7 * (alone.high - alone.low)

    def test_groups_of_mixed_labels_and_sizes(self):
        rng = np.random.default_rng(3)
        truth, groups = rng.integers(0, 2, 60), rng.integers(0, 9, 60)
        found = permuted_figures(judged(truth, truth, "accuracy", 2), "accuracy", groups, 3000, rng)
        assert found.mean() == pytest.approx(np.mean(np.bincount(truth) ** 2) * 2 / 3600, abs=0.02)


def test_ends_hold_at_least_the_level():
    figures = np.random.default_rng(0).integers(0, 4, 1000)
    low, high = ends_of_chance(figures, 0.8)
    assert np.mean((figures >= low) & (figures <= high)) >= 0.8


def test_blocks_do_not_change_the_figures(monkeypatch):
    truth = np.arange(40) % 2
    items = judged(truth, truth, "accuracy", 2)
    whole = permuted_figures(items, "accuracy", np.arange(40), 5000, np.random.default_rng(0))
    monkeypatch.setattr("sae_features.evaluation.chance.BLOCK", 400)
    blocks = permuted_figures(items, "accuracy", np.arange(40), 5000, np.random.default_rng(0))
    assert blocks.shape == whole.shape
    assert stats.ks_2samp(blocks, whole).pvalue > 0.01


class TestErrors:
    def test_neither_classes_nor_predictions(self):
        with pytest.raises(
            InvalidParameterError, match="^Got no n_classes and no predictions; expected one"
        ):
            chance_interval([0, 1])

    def test_groups(self):
        with pytest.raises(InvalidInputError, match=r"^Got groups of shape \(1,\); expected \(2,\)"):
            chance_interval([0, 1], n_classes=2, groups=["a"])

    def test_n_permutations(self):
        with pytest.raises(
            InvalidParameterError, match="^Got n_permutations=10; expected an integer of at least"
        ):
            chance_interval([0, 1], n_classes=2, n_permutations=10)
