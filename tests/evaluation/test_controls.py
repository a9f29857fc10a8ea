"""Honest controls pass as often as they should, leaking ones are flagged."""

from __future__ import annotations

import numpy as np
import pytest

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.controls import control_is_at_chance
from sae_features.evaluation.results import Predictions


class Runs:
    """Rows, and what was predicted in them."""

    def __init__(self):
        self.rows, self.found = [], []

    def add(self, items, truth, scores, **row):
        row = {
            "dataset": "a",
            "train_on": "a",
            "test_on": "a",
            "seed": 0,
            "fold": 0,
            "method": "m",
            **row,
        }
        self.rows.append({"control": "permuted", "number": len(self.found), **row})
        self.found.append(Predictions(np.asarray(items), np.asarray(truth), np.asarray(scores)))

    def check(self, **how):
        return control_is_at_chance(
            self.rows, lambda row: self.found[row["number"]], **{"n_permutations": 300, **how}
        )


def nearest_mean(X, labels, train, test, n_classes):
    """Scores of test items: how much nearer the mean of a class is than those of all classes."""
    means = [X[train[labels[train] == k]].mean(axis=0) for k in range(n_classes)]
    away = np.stack([((X[test] - mean) ** 2).sum(axis=1) for mean in means], axis=1)
    return away.mean(axis=1, keepdims=True) - away


def cross_validated(rng, *, n=60, n_classes=2, d=5, n_folds=5, leaks=False, as_one=True, seeds=(0,)):
    """Runs on permuted labels; a leaking one chooses its features on all items."""
    runs = Runs()
    X = rng.normal(size=(n, d))
    for seed in seeds:
        labels = rng.permutation(np.arange(n) % n_classes)
        kept = X
        if leaks:
            difference = X[labels == 0].mean(axis=0) - X[labels == 1].mean(axis=0)
            kept = X[:, np.argsort(-np.abs(difference))[:10]]
        for fold, test in enumerate(np.array_split(rng.permutation(n), n_folds)):
            train = np.setdiff1d(np.arange(n), test)
            scores = nearest_mean(kept, labels, train, test, n_classes)
            runs.add(
                test,
                labels[test],
                scores,
                seed=seed,
                fold=fold,
                dataset="a" if as_one else f"{seed} {fold}",
            )
    return runs


def alarms(checks):
    return np.mean([not check for check in checks])


@pytest.mark.parametrize("metric", ["macro_f1", "auroc"])
def test_one_test_part_is_flagged_as_often_as_it_should(metric):
    rng = np.random.default_rng(0)
    checks = []
    for i in range(250):
        runs = Runs()
        X, labels = rng.normal(size=(120, 4)), rng.permutation(np.arange(120) % 3)
        train, test = np.split(rng.permutation(120), [60])
        runs.add(test, labels[test], nearest_mean(X, labels, train, test, 3))
        checks.append(runs.check(metric=metric, level=0.9, seed=i))
    assert 0.05 <= alarms(checks) <= 0.15  # standard error 0.019
    assert np.mean([check.verdict == "above chance" for check in checks]) <= 0.1


def test_folds_are_flagged_no_more_often_though_they_depend_on_each_other():
    checks, as_if_independent = [], []
    for i in range(150):
        for found, as_one in ((checks, True), (as_if_independent, False)):
            runs = cross_validated(np.random.default_rng(i), as_one=as_one)
            found.append(runs.check(level=0.9, seed=i))
    assert alarms(checks) <= 0.12  # standard error 0.024
    assert alarms(as_if_independent) >= 0.14
    assert [a.figure for a in checks] == [b.figure for b in as_if_independent]


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "auroc"])
def test_features_chosen_on_all_items_are_flagged(metric):
    check = cross_validated(np.random.default_rng(1), d=300, leaks=True).check(metric=metric)
    assert check.verdict == "above chance"
    assert not check
    assert check.figure > check.high + 0.1
    assert check.p == pytest.approx(1 / 301)
    assert cross_validated(np.random.default_rng(1), d=300, leaks=False).check(metric=metric)


def test_equal_items_on_both_sides_are_flagged():
    rng = np.random.default_rng(2)
    runs = Runs()
    X, labels = (
        np.repeat(rng.normal(size=(40, 5)), 2, axis=0),
        np.repeat(rng.permutation(np.arange(40) % 2), 2),
    )
    for fold in range(2):  # each text once on either side, and its label with it
        test, train = np.arange(fold, 80, 2), np.arange(1 - fold, 80, 2)
        nearest = ((X[test][:, None] - X[train]) ** 2).sum(axis=-1).argmin(axis=1)
        runs.add(test, labels[test], np.eye(2)[labels[train[nearest]]], fold=fold)
    assert runs.check().verdict == "above chance"


def test_what_is_worse_than_chance_is_flagged():
    runs = Runs()
    labels = np.arange(60) % 2
    runs.add(np.arange(60), labels, np.eye(2)[1 - labels])
    assert runs.check().verdict == "below chance"


def test_chance_is_that_of_the_predictions_given():
    runs = Runs()
    truth = np.repeat([0, 1], [27, 3])
    runs.add(np.arange(30), truth, np.eye(2)[np.zeros(30, int)])
    check = runs.check()
    assert check.chance == check.figure == pytest.approx(0.9 / 1.9)
    assert check.verdict == "at chance"
    assert runs.check(metric="accuracy").chance == pytest.approx(0.9)
    assert runs.check(metric="auroc").chance == 0.5


def test_more_seeds_narrow_the_interval():
    one, many = (cross_validated(np.random.default_rng(3), seeds=range(n)).check() for n in (1, 9))
    assert (many.high - many.low) < 0.45 * (one.high - one.low)
    assert (one.n_rows, many.n_rows) == (5, 45)


def test_methods_on_the_same_items_do_not_narrow_it():
    runs = cross_validated(np.random.default_rng(4))
    alone = runs.check()
    for row, found in list(zip(runs.rows, runs.found, strict=True)):
        order = np.random.default_rng(0).permutation(len(found.items))  # items may come in another order
        runs.add(*(each[order] for each in found), fold=row["fold"], method="copy")
    both = runs.check()
    assert (both.figure, both.low, both.high) == pytest.approx((alone.figure, alone.low, alone.high))
    assert both.n_rows == 2 * alone.n_rows


def test_other_rows_and_their_order_do_not_matter():
    runs = cross_validated(np.random.default_rng(5))
    check = runs.check()
    runs.rows = [{"control": "none"}, *runs.rows[::-1], {}]
    again = runs.check()
    assert (again.low, again.high, again.figure) == pytest.approx((check.low, check.high, check.figure))
    assert again.verdict == check.verdict


def test_folds_without_a_class_are_left_out_of_auroc():
    runs = cross_validated(np.random.default_rng(6))
    runs.add(np.arange(4), np.zeros(4, int), np.random.default_rng(0).random((4, 2)), fold=9)
    check = runs.check(metric="auroc")
    assert (check.n_rows, check.n_undefined) == (5, 1)
    assert runs.check().n_undefined == 0


def test_labels_permuted_by_groups_need_groups():
    with_groups, without = [], []
    rng = np.random.default_rng(7)
    groups = np.arange(100) // 5
    for i in range(100):
        runs = Runs()
        labels = rng.permutation(np.arange(20) % 2)[groups]
        means = rng.normal(size=(20, 1))[
            groups
        ]  # items of a group are alike, and so are its predictions
        runs.add(np.arange(100), labels, np.concatenate([means, -means], axis=1))
        with_groups.append(runs.check(level=0.9, groups={"a": groups}, seed=i))
        without.append(runs.check(level=0.9, seed=i))
    assert alarms(with_groups) <= 0.19  # standard error 0.03
    assert alarms(without) >= 0.3


class TestErrors:
    def test_no_controls(self):
        with pytest.raises(
            InvalidInputError, match="^Got no rows with control='permuted'; expected some: run"
        ):
            control_is_at_chance([{"control": "none"}], lambda row: None)

    def test_undefined(self):
        runs = Runs()
        runs.add([0, 1], [0, 0], np.eye(2))
        with pytest.raises(InvalidInputError, match="^Got no fold in which auroc is defined"):
            runs.check(metric="auroc")

    def test_parameters(self):
        runs = cross_validated(np.random.default_rng(0))
        with pytest.raises(InvalidParameterError, match="^Got metric='f1'; "):
            runs.check(metric="f1")
        with pytest.raises(InvalidParameterError, match="^Got n_permutations=1; "):
            runs.check(n_permutations=1)
