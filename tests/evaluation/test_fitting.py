from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from sae_features import ActivationFeaturizer
from sae_features.evaluation.classifiers import Classifier
from sae_features.evaluation.fitting import (
    active_of,
    figures_of,
    fit,
    learner_of,
    predict,
    rows_at,
    width_of,
)
from sae_features.evaluation.methods import Method
from sae_features.evaluation.splits import inner_folds

STATES = Method("states", "states", ActivationFeaturizer())
PROJECTED = Method(
    "pca", "pca", ActivationFeaturizer(), (("project", PCA(random_state=0, svd_solver="full")),)
)
FEW = Classifier(strengths=(0.01, 1.0, 100.0))


def rows(n, n_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % n_classes
    return rng.normal(size=(n, 12)) + np.eye(n_classes, 12)[codes], codes


@pytest.mark.parametrize("n_classes", [2, 3])
def test_it_is_a_grid_search_of_inner_folds(n_classes):
    X, codes = rows(42, n_classes)
    together = np.arange(42) // 2
    learner = learner_of(STATES, FEW, n_classes=n_classes)
    found = fit(learner, X, codes, together, n_inner=3, seed=5)
    expected = GridSearchCV(
        Pipeline([("s", MaxAbsScaler()), ("c", LogisticRegression(max_iter=2000))]),
        {"c__C": [0.01, 1.0, 100.0], "s": [MaxAbsScaler(), StandardScaler()]},
        scoring="f1_macro",
        cv=inner_folds(codes, together, 3, 5),
    ).fit(X, codes)
    assert found.validation == pytest.approx(expected.best_score_, abs=1e-12)
    scalers = {"MaxAbsScaler": "max_abs", "StandardScaler": "standard"}
    best = expected.best_params_
    assert found.chosen == {"C": best["c__C"], "scale": scalers[type(best["s"]).__name__]}
    new, _ = rows(20, n_classes, seed=1)
    probabilities = predict(found, new, np.arange(20), np.zeros(20, int), n_classes).scores
    np.testing.assert_allclose(probabilities, expected.predict_proba(new), atol=1e-7)


def test_where_there_is_nothing_to_choose_by():
    X, codes = rows(6)
    found = fit(
        learner_of(STATES, FEW, n_classes=2), X, codes, np.array([0, 1, 0, 2, 0, 3]), n_inner=3, seed=0
    )
    assert (found.chosen, found.validation) == ({"C": 1.0}, None)
    assert found.pipeline[-1].C == 1.0


def test_a_small_part_does_not_change_what_later_ones_learn():
    X, codes = rows(40)
    learner = learner_of(PROJECTED, FEW, n_classes=2, n_components=10)
    for small, n_components in (
        (fit(learner, X[:8], codes[:8], np.arange(8), n_inner=2, seed=0), 4),
        (fit(learner, X[:8], codes[:8], np.zeros(8, int), n_inner=2, seed=0), 8),  # no inner folds
        (fit(learner, X, codes, np.arange(40), n_inner=2, seed=0), 10),
    ):
        assert small.pipeline["project"].n_components_ == n_components
    assert dict(learner.steps)["project"].n_components == 10


@pytest.mark.parametrize("kind", ["logistic", "linear_svc", "ridge", "tree"])
def test_a_class_that_was_not_trained_on_comes_last(kind):
    X, codes = rows(30, 3)
    seen = codes != 1
    learner = learner_of(STATES, Classifier(kind, (1.0,)), n_classes=3)
    fitted = fit(learner, X[seen], codes[seen], np.arange(seen.sum()), n_inner=2, seed=0)
    found = predict(fitted, X, np.arange(100, 130), codes, 3)
    assert found.scores.shape == (30, 3)
    assert found.scores.dtype == np.float32
    assert (found.scores[:, 1] <= found.scores.min(axis=1)).all()
    np.testing.assert_array_equal(found.predicted, fitted.pipeline.predict(X))
    np.testing.assert_array_equal(found.items, np.arange(100, 130))
    np.testing.assert_array_equal(found.truth, codes)


@pytest.mark.parametrize("kind", ["logistic", "linear_svc"])
def test_figures_are_scikit_learns(kind):
    X, codes = rows(60)
    fitted = fit(
        learner_of(STATES, Classifier(kind, (1.0,)), n_classes=2),
        X[:30],
        codes[:30],
        np.arange(30),
        n_inner=2,
        seed=0,
    )
    said = fitted.pipeline.predict(X[30:])
    by = "predict_proba" if kind == "logistic" else "decision_function"
    scores = getattr(fitted.pipeline, by)(X[30:])
    assert figures_of(predict(fitted, X[30:], np.arange(30), codes[30:], 2), 2) == pytest.approx(
        {
            "accuracy": accuracy_score(codes[30:], said),
            "macro_f1": f1_score(codes[30:], said, average="macro"),
            "auroc": roc_auc_score(codes[30:], scores[:, 1] if scores.ndim == 2 else scores),
        }
    )


def test_rows_of_matrices_and_items_of_lists():
    dense = np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    for X in (dense, sp.csr_matrix(dense), sp.csr_array(dense)):
        assert (active_of(X), width_of(X)) == (1.0, 3)
        picked = rows_at(X, np.array([2, 0]))
        np.testing.assert_array_equal(picked if X is dense else picked.toarray(), dense[[2, 0]])
    assert rows_at(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]
    assert (active_of(["a"]), width_of(["a"])) == (None, None)
