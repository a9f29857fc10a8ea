"""Scores are scikit-learn's, and undefined where they must be."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from sae_features.errors import InputTypeError, InvalidInputError, InvalidParameterError
from sae_features.evaluation.scores import judged, score_of, scores


def predictions(n_classes, n=60, seed=0):
    """Codes of all classes, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    columns = rng.random((n, n_classes)) + 0.5 * np.eye(n_classes)[truth]
    return truth, columns / columns.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_scores_are_those_of_scikit_learn(n_classes):
    truth, p = predictions(n_classes)
    found = scores(truth, p.argmax(axis=1), p, n_classes=n_classes)
    assert found.accuracy == accuracy_score(truth, p.argmax(axis=1))
    assert found.macro_f1 == pytest.approx(f1_score(truth, p.argmax(axis=1), average="macro"), abs=1e-15)
    expected = roc_auc_score(truth, p[:, 1] if n_classes == 2 else p, multi_class="ovr")
    assert found.auroc == pytest.approx(expected, abs=1e-15)


def test_by_hand():
    found = scores([0, 0, 0, 1], [0, 0, 1, 1], [[4, -4], [3, -3], [-1, 1], [-2, 2]], n_classes=2)
    assert found == (0.75, pytest.approx((0.8 + 2 / 3) / 2), 1.0)


def test_only_the_order_of_scores_matters():
    truth, p = predictions(3)
    expected = scores(truth, p.argmax(axis=1), p, n_classes=3).auroc
    assert scores(truth, p.argmax(axis=1), np.log(p) * 7, n_classes=3).auroc == pytest.approx(expected)


def test_a_class_that_is_absent_counts_in_macro_f1_and_leaves_auroc_undefined():
    truth, predicted = [0, 0, 1, 1], [0, 0, 1, 1]
    found = scores(truth, predicted, np.eye(3)[truth], n_classes=3)
    assert found == (1.0, pytest.approx(2 / 3), None)
    assert scores([1, 1], [1, 1], np.eye(2)[[1, 1]], n_classes=2).auroc is None
    assert scores([0, 0], [0, 0], [[1.0], [1.0]], n_classes=1) == (1.0, 1.0, None)


def test_without_probabilities():
    assert scores([0, 1], [0, 1], n_classes=2) == (1.0, 1.0, None)


def test_figures_are_plain_floats():
    truth, p = predictions(3)
    assert all(type(figure) is float for figure in scores(truth, p.argmax(axis=1), p, n_classes=3))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "auroc"])
def test_one_metric_of_what_was_judged(metric):
    truth, p = predictions(3)
    whole = scores(truth, p.argmax(axis=1), p, n_classes=3)
    assert score_of(judged(truth, p, metric, None), metric) == getattr(whole, metric)


def test_codes_may_be_of_any_integer_type():
    truth = np.array([0, 1, 1], np.uint8)
    assert scores(truth, np.array([False, True, True]), n_classes=2).accuracy == 1


class TestErrors:
    def test_shapes(self):
        with pytest.raises(
            InvalidInputError, match=r"^Got predicted of shape \(2,\); expected \(3,\) as truth"
        ):
            scores([0, 1, 1], [0, 1], n_classes=2)
        with pytest.raises(
            InvalidInputError, match=r"^Got truth of shape \(0,\); expected \(n,\), n ≥ 1\.$"
        ):
            scores([], [], n_classes=2)
        with pytest.raises(
            InvalidInputError, match=r"^Got probabilities of shape \(2, 3\); expected \(2, 2\)"
        ):
            scores([0, 1], [0, 1], np.ones((2, 3)), n_classes=2)

    def test_codes(self):
        message = r"^Got truth with class 2 at position 1; expected 0 to 1 \(n_classes=2\)\.$"
        with pytest.raises(InvalidInputError, match=message):
            scores([0, 2], [0, 1], n_classes=2)
        with pytest.raises(InvalidInputError, match="^Got predicted with class -1 at position 0; "):
            scores([0, 1], [-1, 1], n_classes=2)
        with pytest.raises(InputTypeError, match="^Got truth of type float64; expected integers"):
            scores([0.0, 1.0], [0, 1], n_classes=2)

    def test_values(self):
        with pytest.raises(
            InvalidInputError, match="^Got probabilities that are not finite at position 1; "
        ):
            scores([0, 1], [0, 1], [[1, 0], [np.nan, 0]], n_classes=2)

    def test_codes_alone_are_not_enough(self):
        with pytest.raises(
            InvalidParameterError, match=r"AUROC takes probabilities, \(n, n_classes\)\.$"
        ):
            judged([0, 1], [0, 1], "auroc", 2)
        with pytest.raises(InvalidParameterError, match="and no n_classes; codes do not tell: pass it"):
            judged([0, 1], [0, 1], "macro_f1", None)

    def test_auroc_without_a_class(self):
        message = (
            r"^Got truth of 3 classes without class \[2\]; AUROC is undefined there\. Take more items"
        )
        with pytest.raises(InvalidInputError, match=message):
            judged([0, 1], np.ones((2, 3)), "auroc", None)
