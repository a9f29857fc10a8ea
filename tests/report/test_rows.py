"""Rows are checked, and choices are made by validation alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sae_features.errors import InputTypeError, InvalidInputError, InvalidParameterError
from sae_features.report.rows import (
    best_method,
    checked_rows,
    chosen_by_validation,
    is_transfer,
    kinds_of,
    of_method,
    setting_name,
    setting_order,
    without_controls,
)


def row(**values):
    return {"dataset": "a", "seed": 0, "fold": 0, "kind": "sae"} | values


class TestChecked:
    def test_what_has_rows_or_rows(self):
        rows = [{"macro_f1": 0.5}]
        assert checked_rows(SimpleNamespace(rows=rows)) == checked_rows(tuple(rows)) == rows

    def test_rows_are_copies_and_nan_is_none(self):
        given = [{"macro_f1": 0.5, "layer": float("nan"), "auroc": np.float64("nan")}]
        checked = checked_rows(given)
        assert checked == [{"macro_f1": 0.5, "layer": None, "auroc": None}]
        checked[0]["macro_f1"] = 0
        assert given[0]["macro_f1"] == 0.5

    def test_several_classifiers_are_several_methods(self):
        given = [row(method="m", classifier=name) for name in ("logistic", "tree")]
        assert [r["method"] for r in checked_rows(given)] == ["m, logistic", "m, tree"]
        assert checked_rows(given[:1])[0]["method"] == "m"

    def test_errors(self):
        with pytest.raises(
            InputTypeError, match="^Got results of type str; expected Results, or a list"
        ):
            checked_rows("rows")
        with pytest.raises(InputTypeError, match="^Got results of type dict; expected Results"):
            checked_rows({"rows": 3})
        with pytest.raises(InputTypeError, match="^Got list as row 1; expected a dict"):
            checked_rows([{}, []])
        with pytest.raises(InvalidInputError, match="^Got no rows of results; expected at least one"):
            checked_rows([])
        with pytest.raises(
            InvalidInputError, match="^Got no 'auroc' in any row; there are fold, macro_f1"
        ):
            checked_rows([{"fold": 0, "macro_f1": 0.1, "auroc": None}], "auroc")


class TestChoice:
    def test_each_fold_chooses_by_its_own_validation_score(self):
        scores = {"a": [(0.9, 0.1), (0.5, 0.2)], "b": [(0.8, 0.9), (0.6, 0.8)]}
        rows = [
            row(method=name, fold=fold, validation=validation, macro_f1=test)
            for name, folds in scores.items()
            for fold, (validation, test) in enumerate(folds)
        ]
        chosen = chosen_by_validation(rows)
        assert [(r["fold"], r["method"], r["macro_f1"]) for r in chosen] == [
            (0, "a", 0.1),
            (1, "b", 0.8),
        ]

    def test_choices_may_be_kept_apart(self):
        rows = [row(model=model, validation=score) for model in "xy" for score in (0.1, 0.2)]
        chosen = chosen_by_validation(rows, "model")
        assert [(r["model"], r["validation"]) for r in chosen] == [("x", 0.2), ("y", 0.2)]

    def test_without_validation_scores_all_count(self):
        rows = [row(method="a", validation=None), row(method="b", validation=None)]
        assert chosen_by_validation(rows) == rows
        rows.append(row(method="c", validation=0.0))
        assert chosen_by_validation(rows) == rows[2:]

    def test_best_method_is_of_the_mean(self):
        rows = [
            row(method=m, validation=v) for m, v in [("a", 0.9), ("a", 0.1), ("b", 0.6), ("c", None)]
        ]
        assert best_method(rows) == "b"
        assert best_method(rows[3:]) is None

    def test_methods_by_name_or_kind(self):
        rows = [row(method="a", validation=0.1), row(method="b", validation=0.2)]
        assert of_method(rows, "a") == rows[:1]
        assert of_method(rows, "sae") == rows[1:]
        with pytest.raises(
            InvalidParameterError, match="^Got reference='ab'; expected one of sae, a, b"
        ):
            of_method(rows, "ab", "reference")


def test_controls_are_left_out():
    rows = [row(control="none"), row(control="permuted"), row(control=None), row()]
    assert without_controls(rows) == [rows[0], rows[2], rows[3]]


def test_kinds_are_in_order():
    rows = [row(kind=kind) for kind in ("chance", "new", "tfidf_word", "sae", "chance")]
    assert kinds_of(rows) == ["sae", "tfidf_word", "chance", "new"]


def test_transfer_is_between_different_things():
    assert not is_transfer([row(train_on="a", test_on="a")])
    assert is_transfer([row(train_on="a", test_on="a"), row(train_on="a", test_on="b")])


def test_settings_are_sorted_by_what_is_known_of_the_language():
    given = ["few_shot_256", "few_shot_16", "zero_shot", "in_language", "target_only_16", "odd_one"]
    names = [setting_name(setting) for setting in sorted(given, key=setting_order)]
    assert names == [
        "same language", "zero-shot", "few-shot, 16", "target only, 16", "few-shot, 256", "odd one",
    ]  # fmt: skip
