"""A table of methods against a reference: folds by the corrected t, data sets by signed ranks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.comparisons import compare
from sae_features.evaluation.significance import adjust, corrected_resampled_t


def table(gains, *, n_datasets=8, n_folds=5, spread=0.02, seed=0):
    """Rows of a reference and of methods that are better by so much, with noise of their own."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n_datasets):
        for fold in range(n_folds):
            common = rng.normal(0.7, 0.1)
            for method, gain in {"ref": 0.0, **gains}.items():
                f1 = common + gain + rng.normal(0, spread)
                rows.append(
                    {
                        "protocol": "sweep", "dataset": f"d{i}", "train_on": f"d{i}", "test_on": f"d{i}",
                        "setting": None, "method": method, "control": "none", "seed": 0, "fold": fold,
                        "n_train": 80, "n_test": 20, "macro_f1": f1, "accuracy": f1 / 2, "auroc": None,
                    }
                )  # fmt: skip
    return rows


def differences(rows, method, dataset):
    f1 = {(r["method"], r["fold"]): r["macro_f1"] for r in rows if r["dataset"] == dataset}
    return [f1[method, fold] - f1["ref", fold] for fold in range(5)]


def test_each_task_by_the_corrected_t():
    rows = table({"one": 0.02})
    (found,) = compare(rows, reference="ref", level=0.9)
    assert [each.task.dataset for each in found.tasks] == [f"d{i}" for i in range(8)]
    for each in found.tasks:
        test = corrected_resampled_t(
            differences(rows, "one", each.task.dataset), n_train=80, n_test=20, level=0.9
        )
        assert (each.difference, each.low, each.high) == pytest.approx((test.mean, test.low, test.high))
        assert (each.t, each.p, each.n_folds) == (pytest.approx(test.t), pytest.approx(test.p), 5)
        assert each.figure - each.reference_figure == pytest.approx(each.difference)


def test_over_tasks_by_signed_ranks():
    rows = table({"one": 0.02})
    (found,) = compare(rows, reference="ref")
    d = [np.mean(differences(rows, "one", f"d{i}")) for i in range(8)]
    assert found.difference == pytest.approx(np.mean(d))
    assert found.error == pytest.approx(stats.sem(d))
    assert found.p == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)
    assert (found.n_units, found.wins, found.losses) == (8, sum(x > 0 for x in d), sum(x < 0 for x in d))


def test_p_values_are_adjusted_for_the_whole_table():
    found = compare(table({"one": 0.02, "two": 0.0, "three": -0.03}), reference="ref")
    assert [each.method for each in found] == ["one", "two", "three"]
    np.testing.assert_allclose([each.p_holm for each in found], adjust([each.p for each in found]))
    tasks = [task for each in found for task in each.tasks]
    np.testing.assert_allclose([t.p_holm for t in tasks], adjust([t.p for t in tasks]))
    assert len(tasks) == 24


def test_methods_that_are_alike_are_seldom_told_apart():
    any_found, signs = [], []
    for seed in range(150):
        found = compare(table({"one": 0.0, "two": 0.0}, seed=seed), reference="ref")
        any_found.append(min(each.p_holm for each in found) < 0.05)
        signs.append(found[0].difference > 0)
    assert np.mean(any_found) <= 0.09
    assert 0.35 < np.mean(signs) < 0.65


def test_a_gain_on_all_data_sets_is_found_and_a_constant_one_has_no_interval():
    (found,) = compare(table({"one": 0.05}), reference="ref")
    assert found.low > 0
    assert found.p == pytest.approx(2 / 2**8)
    (constant,) = compare(table({"one": 0.05}, spread=0), reference="ref")
    assert all((t.t, t.p, t.low, t.p_holm) == (None, None, None, None) for t in constant.tasks)
    assert constant.p == pytest.approx(2 / 2**8)


def test_one_fold_has_no_t():
    (found,) = compare(table({"one": 0.02}, n_folds=1), reference="ref")
    assert all((t.t, t.p, t.low, t.high, t.p_holm, t.n_folds) == (None,) * 5 + (1,) for t in found.tasks)
    assert found.low < found.difference < found.high


def test_units():
    rows = []
    for r in table({"one": 0.02}):
        number = int(r["dataset"][1])
        where = {"dataset": "d", "train_on": f"l{number % 2}", "test_on": f"l{number // 2}"}
        rows.append({**r, **where})
    assert compare(rows, reference="ref")[0].n_units == 8
    by_test = compare(rows, reference="ref", unit=("test_on",))[0]
    assert by_test.n_units == 4
    assert by_test.difference == pytest.approx(compare(rows, reference="ref")[0].difference)


def test_another_metric():
    rows = table({"one": 0.02})
    half = compare(rows, reference="ref", metric="accuracy")[0]
    assert half.difference == pytest.approx(compare(rows, reference="ref")[0].difference / 2)
    assert half.metric == "accuracy"
    with pytest.raises(InvalidInputError, match="^Got no fold in which auroc is defined"):
        compare(rows, reference="ref", metric="auroc")


def test_records_are_plain_json():
    (found,) = compare(table({"one": 0.02}), reference="ref")
    record = json.loads(json.dumps(found.asdict()))
    assert record["method"] == "one"
    assert record["p_holm"] == found.p_holm
    assert "tasks" not in record
    assert json.loads(json.dumps(found.tasks[0].asdict()))["dataset"] == "d0"


def test_parameters():
    rows = table({"one": 0.02}, n_datasets=1)
    with pytest.raises(InvalidParameterError, match="^Got metric='f1'"):
        compare(rows, reference="ref", metric="f1")
    with pytest.raises(
        InvalidParameterError, match="^Got unit='method'; expected one of protocol, dataset"
    ):
        compare(rows, reference="ref", unit=("method",))
    with pytest.raises(InvalidParameterError, match="^Got level=95; "):
        compare(rows, reference="ref", level=95)
