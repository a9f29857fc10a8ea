"""Folds are paired, or it is said which are not."""

from __future__ import annotations

import pytest

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.cells import Task
from sae_features.evaluation.pairing import Pair, paired


def row(method, f1, *, dataset="a", fold=0, seed=0, **more):
    return {
        "protocol": "sweep", "dataset": dataset, "train_on": dataset, "test_on": dataset,
        "setting": None, "method": method, "control": "none", "seed": seed, "fold": fold,
        "n_train": 80, "n_test": 20, "macro_f1": f1, "auroc": None, **more,
    }  # fmt: skip


def rows():
    return [
        row(method, f1 + fold / 100, dataset=dataset, fold=fold)
        for dataset in ("a", "b")
        for fold in range(2)
        for method, f1 in (("ref", 0.5), ("one", 0.6), ("two", 0.7))
    ]


def pairs(found, **how):
    return paired(found, **{"reference": "ref", "methods": None, "metric": "macro_f1", **how})


def test_each_fold_with_the_same_fold():
    found = pairs(rows())
    assert list(found) == ["one", "two"]
    expected = [Pair(0.6, 0.5, 80, 20), Pair(0.61, 0.51, 80, 20)]
    assert found["one"].tasks == {
        Task("sweep", "a", "a", "a", None): expected, Task("sweep", "b", "b", "b", None): expected,
    }  # fmt: skip
    assert list(pairs(rows(), methods=["two"])) == ["two"]


def test_the_order_of_rows_does_not_matter():
    found = pairs(rows()[::-1], methods=["one"])["one"].tasks
    assert {task: sorted(each) for task, each in found.items()} == pairs(rows())["one"].tasks


def test_rows_of_controls_are_left_out():
    assert pairs([*rows(), row("one", 0.1, control="permuted")]) == pairs(rows())


def test_undefined_in_both_is_counted():
    some = [{**r, "auroc": 0.5 if r["fold"] else None} for r in rows()]
    found = pairs(some, metric="auroc")["one"]
    assert found.n_undefined == 2
    assert [len(each) for each in found.tasks.values()] == [1, 1]


class TestErrors:
    def test_what_is_missing_is_named(self):
        lacking = [r for r in rows() if (r["method"], r["dataset"]) != ("two", "b")]
        message = (
            r"^Got folds that are not paired: 'two' lacks 2 of the 4 folds of 'ref', the first with "
            r"protocol='sweep', dataset='b', seed=0, fold=0\. Expected the same folds for all: run what"
        )
        with pytest.raises(InvalidInputError, match=message):
            pairs(lacking)
        assert list(pairs(lacking, methods=["one"])) == ["one"]

    def test_the_reference_may_be_what_lacks(self):
        more = [*rows(), row("one", 0.5, fold=7)]
        with pytest.raises(
            InvalidInputError, match=r"'ref' lacks 1 of the 5 folds of 'one'.*fold=7\. Expected"
        ):
            pairs(more)

    def test_only_some_are_listed(self):
        many = [row(name, 0.5) for name in "vwxyz"] + [row("ref", 0.5, fold=1)]
        with pytest.raises(InvalidInputError, match="; and 7 more such. Expected"):
            pairs(many)

    def test_two_rows_for_one_fold(self):
        twice = [*rows(), row("one", 0.5, classifier="tree")]
        message = (
            "^Got 2 rows of method 'one' for protocol='sweep', dataset='a', seed=0, fold=0; expected one"
        )
        with pytest.raises(InvalidInputError, match=message):
            pairs(twice)

    def test_other_items(self):
        others = [{**r, "n_test": 21} if r["method"] == "one" else r for r in rows()]
        message = (
            "^Got n_train=80, n_test=21 of 'one' and n_test=20 of 'ref' for .*; expected the same items"
        )
        with pytest.raises(InvalidInputError, match=message):
            pairs(others)

    def test_undefined_in_one(self):
        some = [{**r, "macro_f1": None} if r["method"] == "one" and r["fold"] else r for r in rows()]
        message = "^Got no macro_f1 of 'one' for .*fold=1; expected it of both methods or of none"
        with pytest.raises(InvalidInputError, match=message):
            pairs(some)
        with pytest.raises(InvalidInputError, match="^Got no fold in which auroc is defined"):
            pairs(rows(), metric="auroc")

    def test_methods(self):
        with pytest.raises(InvalidParameterError, match="^Got reference='rev'; .* Did you mean 'ref'"):
            pairs(rows(), reference="rev")
        with pytest.raises(
            InvalidParameterError, match="^Got methods='ones'; expected one of ref, one, two"
        ):
            pairs(rows(), methods=["ones"])
        for methods in ([], ["ref"]):
            with pytest.raises(InvalidParameterError, match="; expected at least one other method"):
                pairs(rows(), methods=methods)
