"""The quiver chooses by validation and is judged on test."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.quiver import quiver


def row(dataset, kind, validation, test, *, fold=0, method=None, **more):
    return {
        "protocol": "sweep", "dataset": dataset, "train_on": dataset, "test_on": dataset,
        "setting": None, "seed": 0, "fold": fold, "kind": kind, "method": method or kind,
        "control": "none", "validation": validation, "auroc": test,
        "macro_f1": test / 2 if test else None, **more,
    }  # fmt: skip


KINDS = {"base_kinds": ("states", "tfidf_word"), "added_kinds": ("sae",)}


def by_hand():
    """Three data sets: the SAE helps, is not chosen, and misleads."""
    return [
        row("a", "states", 0.80, 0.81), row("a", "tfidf_word", 0.70, 0.95), row("a", "sae", 0.85, 0.86),
        row("b", "states", 0.80, 0.81), row("b", "tfidf_word", 0.82, 0.80), row("b", "sae", 0.81, 0.99),
        row("c", "states", 0.90, 0.91), row("c", "tfidf_word", 0.70, 0.70), row("c", "sae", 0.95, 0.88),
    ]  # fmt: skip


def test_by_hand():
    found = quiver(by_hand(), **KINDS)
    assert [(t.task.dataset, t.base, t.both, t.chosen) for t in found.tasks] == [
        ("a", 0.81, 0.86, 1), ("b", 0.80, 0.80, 0), ("c", 0.91, 0.88, 1),
    ]  # fmt: skip
    assert [t.difference for t in found.tasks] == pytest.approx([0.05, 0, -0.03])
    assert found.base == pytest.approx(0.84)
    assert found.both == pytest.approx(0.84 + 0.02 / 3)
    assert found.difference == pytest.approx(0.02 / 3)
    assert found.error == pytest.approx(stats.sem([0.05, 0, -0.03]))
    assert found.chosen == pytest.approx(2 / 3)
    assert (found.wins, found.ties, found.losses, found.n_units, found.n_folds) == (1, 1, 1, 3, 3)
    assert quiver(by_hand(), **KINDS, metric="macro_f1").difference == pytest.approx(0.01 / 3)


def test_the_test_figure_of_what_is_not_chosen_does_not_matter():
    rows = [{**r, "auroc": 0.5} if r["dataset"] == "b" and r["kind"] == "sae" else r for r in by_hand()]
    assert quiver(rows, **KINDS) == quiver(by_hand(), **KINDS)


def test_of_equal_validation_scores_a_baseline_is_chosen():
    rows = [row("a", "sae", 0.8, 0.9), row("a", "states", 0.8, 0.7)]
    for ordered in (rows, rows[::-1]):
        found = quiver(ordered, base_kinds=["states"], added_kinds=["sae"])
        assert (found.difference, found.chosen) == (0, 0)


def test_folds_are_averaged_within_their_task():
    rows = [row("a", "states", 0.5, 0.5, fold=f) for f in range(4)]
    rows += [row("a", "sae", 0.6 if f else 0.4, 0.5 + 0.1 * f, fold=f) for f in range(4)]
    rows += [row("b", "states", 0.9, 0.9), row("b", "sae", 0.1, 0.1)]
    found = quiver(rows, **KINDS)
    assert found.tasks[0].difference == pytest.approx(0.15)
    assert (found.tasks[0].chosen, found.tasks[0].n_folds) == (0.75, 4)
    assert (found.difference, found.chosen) == (pytest.approx(0.075), pytest.approx(3 / 5))


def test_features_of_noise_do_not_help():
    rng = np.random.default_rng(0)
    rows = []
    for i in range(200):
        lucky, test = rng.normal(0.8, 0.02, (2, 2))  # validation does not tell which is better
        rows += [row(f"d{i}", kind, lucky[k], test[k]) for k, kind in enumerate(("states", "sae"))]
    found = quiver(rows, **KINDS)
    assert 0.4 < found.chosen < 0.6
    assert found.low < 0 < found.high
    assert found.p > 0.01


def test_features_that_are_better_where_validation_says_so_help():
    rng = np.random.default_rng(1)
    rows = []
    for i in range(60):
        good = rng.normal(0, 0.05)
        for kind, level in (("states", 0.8), ("sae", 0.8 + good)):
            rows.append(row(f"d{i}", kind, rng.normal(level, 0.01), rng.normal(level, 0.01)))
    found = quiver(rows, **KINDS)
    assert found.low > 0
    assert found.p < 0.001


def test_controls_and_other_kinds_are_left_out():
    rows = by_hand()
    rows += [row("a", "pca", 0.99, 0.2), {**row("a", "sae", 0.99, 0.2), "control": "permuted"}]
    assert quiver(rows, **KINDS) == quiver(by_hand(), **KINDS)


def test_folds_where_the_metric_is_undefined_are_counted():
    rows = by_hand() + [row("a", kind, 0.8, None, fold=1) for kind in ("states", "tfidf_word", "sae")]
    found = quiver(rows, **KINDS)
    assert found.n_undefined == 1
    assert found.difference == quiver(by_hand(), **KINDS).difference


def test_units():
    rows = [
        {**row("hate", kind, v, v), "train_on": a, "test_on": b}
        for a in "xyz"
        for i, b in enumerate("xyz")
        for kind, v in (("states", 0.5), ("sae", 0.6 + i / 10))
    ]
    assert quiver(rows, **KINDS).n_units == 9
    found = quiver(rows, **KINDS, unit=("test_on",))
    assert (found.n_units, found.p, found.difference) == (3, 0.25, pytest.approx(0.2))


def test_records_are_plain_json():
    found = quiver(by_hand(), **KINDS)
    record = found.asdict()
    assert json.loads(json.dumps(record))["difference"] == found.difference
    assert "tasks" not in record
    assert found.tasks[0].asdict() == {
        "protocol": "sweep", "dataset": "a", "train_on": "a", "test_on": "a", "setting": None,
        "base": 0.81, "both": 0.86, "difference": pytest.approx(0.05), "chosen": 1.0, "n_folds": 1,
    }  # fmt: skip


class TestErrors:
    def test_kinds(self):
        with pytest.raises(
            InvalidParameterError, match="^Got 'sae' in base_kinds and added_kinds; expected it"
        ):
            quiver(by_hand(), base_kinds=["states", "sae"], added_kinds=["sae"])
        for kinds in ([], "states"):
            with pytest.raises(
                InvalidParameterError, match="^Got base_kinds=.*; expected names of kinds"
            ):
                quiver(by_hand(), base_kinds=kinds, added_kinds=["sae"])

    def test_a_task_without_added_methods(self):
        rows = [r for r in by_hand() if (r["dataset"], r["kind"]) != ("b", "sae")]
        message = (
            r"^Got no method of added_kinds=\['sae'\] for protocol='sweep', dataset='b', seed=0, fold=0;"
        )
        with pytest.raises(InvalidInputError, match=message):
            quiver(rows, **KINDS)

    def test_a_fold_without_a_method(self):
        rows = [*by_hand(), row("a", "states", 0.8, 0.8, fold=1), row("a", "sae", 0.8, 0.8, fold=1)]
        message = (
            "^Got no row of 'tfidf_word' for protocol='sweep', dataset='a', seed=0, fold=1, but for"
        )
        with pytest.raises(InvalidInputError, match=message):
            quiver(rows, **KINDS)

    def test_nothing_is_defined(self):
        rows = [{**r, "auroc": None} for r in by_hand()]
        with pytest.raises(
            InvalidInputError, match="^Got no fold in which auroc is defined; expected another"
        ):
            quiver(rows, **KINDS)

    def test_no_validation(self):
        rows = [{**r, "validation": None} for r in by_hand()]
        with pytest.raises(
            InvalidInputError, match="^Got no validation score of method='states', protocol="
        ):
            quiver(rows, **KINDS)
