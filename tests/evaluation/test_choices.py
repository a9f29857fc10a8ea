"""Choices look at validation scores alone."""

from __future__ import annotations

import pytest

from sae_features.errors import InvalidInputError
from sae_features.evaluation.choices import choose_by_validation


def row(method, validation, *, kind="sae", dataset="a", fold=0, **more):
    return {
        "dataset": dataset, "train_on": dataset, "test_on": dataset, "seed": 0, "fold": fold,
        "kind": kind, "method": method, "validation": validation,
        "macro_f1": 1 - validation if validation else 0, **more,
    }  # fmt: skip


def chosen(rows, *args, **how):
    return [(r["dataset"], r["fold"], r["method"]) for r in choose_by_validation(rows, *args, **how)]


def test_the_best_of_each_fold_and_kind():
    rows = [
        row("one", 0.5), row("two", 0.6), row("states", 0.9, kind="states"),
        row("one", 0.8, fold=1), row("two", 0.7, fold=1), row("states", 0.1, kind="states", fold=1),
        row("one", 0.2, dataset="b"), row("two", 0.1, dataset="b"),
    ]  # fmt: skip
    assert chosen(rows) == [
        ("a", 0, "two"), ("a", 0, "states"), ("a", 1, "one"), ("a", 1, "states"), ("b", 0, "one"),
    ]  # fmt: skip
    assert chosen(rows, ()) == [("a", 0, "states"), ("a", 1, "one"), ("b", 0, "one")]


def test_test_figures_are_never_looked_at():
    rows = [row("one", 0.5), row("two", 0.6)]
    without = [{key: value for key, value in r.items() if key != "macro_f1"} for r in rows]
    assert chosen(without) == chosen(rows)


def test_several_keys():
    rows = [row(f"{model} {layer}", score, model=model, layer=layer) for model, layer, score in
            [("x", 1, 0.5), ("x", 2, 0.6), ("y", 1, 0.4), ("y", 2, 0.3)]]  # fmt: skip
    assert [r["method"] for r in choose_by_validation(rows, ("kind", "model"))] == ["x 2", "y 1"]


def test_of_equals_the_first_in_order():
    rows = [row("b", 0.5), row("a", 0.5), row("a", 0.5, fold=1), row("b", 0.5, fold=1)]
    assert [name for _, _, name in chosen(rows)] == ["b", "b"]  # b comes first in the rows as a whole
    assert [name for _, _, name in chosen(rows, order=["a"])] == ["a", "a"]


@pytest.mark.parametrize("key", ["setting", "seed", "train_on", "test_on", "protocol", "control"])
def test_choices_are_made_apart(key):
    rows = [
        row("one", 0.5),
        row("two", 0.6),
        {**row("one", 0.9), key: "x"},
        {**row("two", 0.8), key: "x"},
    ]
    assert [r["method"] for r in choose_by_validation(rows)] == ["two", "one"]


def test_rows_are_handed_on_as_they_are():
    rows = [row("one", 0.5)]
    assert choose_by_validation(rows)[0] is rows[0]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_rows_without_a_validation_score(value):
    message = (
        "^Got no validation score of method='two', dataset='a', seed=0, fold=0; expected one in each row"
    )
    with pytest.raises(InvalidInputError, match=message):
        choose_by_validation([row("one", 0.5), row("two", value)])
