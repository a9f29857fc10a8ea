"""Means of rows, and the interval that fits what they vary by."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.significance import corrected_resampled_t
from sae_features.evaluation.summaries import summarise


def row(f1, *, method="sae", dataset="a", fold=0, **more):
    return {
        "dataset": dataset, "train_on": dataset, "test_on": dataset, "method": method, "kind": "sae",
        "control": "none", "seed": 0, "fold": fold, "n_train": 80, "n_test": 20, "macro_f1": f1,
        "validation": None if f1 is None else f1 / 2, **more,
    }  # fmt: skip


def test_one_task_by_folds():
    figures = [0.7, 0.75, 0.72, 0.8, 0.71]
    (found,) = summarise([row(f1, fold=i) for i, f1 in enumerate(figures)], level=0.9)
    test = corrected_resampled_t(figures, n_train=80, n_test=20, level=0.9)
    assert found == (
        {"method": "sae"}, "macro_f1", pytest.approx(np.mean(figures)),
        pytest.approx(np.std(figures, ddof=1)),
        pytest.approx(test.low), pytest.approx(test.high), 5, 1, 0,
    )  # fmt: skip


def test_several_tasks_count_alike_whatever_their_folds():
    rows = [row(f1, fold=i) for i, f1 in enumerate([0.6, 0.7, 0.8, 0.7])]
    rows += [row(f1, dataset="b", fold=i) for i, f1 in enumerate([0.5, 0.7])]
    rows += [row(0.2, dataset="c")]
    (found,) = summarise(rows)
    means = [0.7, 0.6, 0.2]
    assert found.mean == pytest.approx(0.5)
    assert found.std == pytest.approx(np.sqrt((np.var([0.6, 0.7, 0.8, 0.7], ddof=1) + 0.02) / 2))
    assert (found.low, found.high) == pytest.approx(stats.t(2, 0.5, stats.sem(means)).interval(0.95))
    assert (found.n, found.n_tasks) == (7, 3)


def test_groups_come_in_order():
    rows = [row(0.5, method="b"), row(0.6, method="a"), row(0.7, method="b", dataset="z")]
    assert [each.group["method"] for each in summarise(rows)] == ["b", "a"]
    found = summarise(rows, ("method", "dataset"), "validation")
    assert [(each.group, each.mean) for each in found] == [
        ({"method": "b", "dataset": "a"}, 0.25), ({"method": "a", "dataset": "a"}, 0.3),
        ({"method": "b", "dataset": "z"}, 0.35),
    ]  # fmt: skip
    assert summarise(rows, "method") == summarise(rows, ("method",))


def test_rows_of_one_fold_are_averaged_first():
    rows = [row(f1 + gain, method=m, fold=i) for i, f1 in enumerate([0.5, 0.6, 0.8])
            for m, gain in (("one", 0.0), ("two", 0.1))]  # fmt: skip
    (found,) = summarise(rows, "kind")
    (alone,) = summarise([row(f1 + 0.05, fold=i) for i, f1 in enumerate([0.5, 0.6, 0.8])], "kind")
    assert found.n == alone.n == 3
    assert (found.mean, found.std, found.low) == pytest.approx((alone.mean, alone.std, alone.low))


def test_one_fold_has_no_interval():
    (found,) = summarise([row(0.5)])
    assert (found.mean, found.std, found.low, found.high, found.n) == (0.5, None, None, None, 1)
    (unknown,) = summarise([row(0.5 + f, fold=f, n_train=None) for f in range(2)])
    assert (unknown.mean, unknown.low) == (1, None)


def test_undefined_figures_are_counted():
    found = summarise(
        [row(0.5), row(None, fold=1, validation=0.1), row(float("nan"), method="b", validation=0.1)]
    )
    assert [(each.mean, each.n, each.n_undefined) for each in found] == [(0.5, 1, 1), (None, 0, 1)]


def test_controls_are_left_out_unless_asked_for():
    rows = [row(0.8), row(0.4, control="permuted")]
    assert [each.mean for each in summarise(rows)] == [0.8]
    assert [(each.group["control"], each.mean) for each in summarise(rows, ("method", "control"))] == [
        ("none", 0.8), ("permuted", 0.4),
    ]  # fmt: skip


def test_a_record_is_plain_json():
    (found,) = summarise([row(0.5, fold=i) for i in range(2)])
    record = json.loads(json.dumps(found.asdict()))
    assert (record["method"], record["mean"], record["n"]) == ("sae", 0.5, 2)
    assert "group" not in record


class TestErrors:
    def test_no_rows(self):
        with pytest.raises(InvalidInputError, match="^Got no rows but controls"):
            summarise([])
        with pytest.raises(InvalidInputError, match="^Got no rows; expected rows of results"):
            summarise([], ("method", "control"))

    def test_keys(self):
        with pytest.raises(
            InvalidInputError, match="^Got rows without 'metod'; expected a column of results"
        ):
            summarise([row(0.5)], "metod")
        with pytest.raises(InvalidParameterError, match="^Got by=\\(\\); expected at least one key"):
            summarise([row(0.5)], ())

    def test_metric(self):
        with pytest.raises(InvalidParameterError, match="^Got metric='f1'; expected one of"):
            summarise([row(0.5)], metric="f1")
