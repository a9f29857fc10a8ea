"""Importance is scikit-learn's, of the same rows made dense."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn import inspection
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import BernoulliNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, Normalizer, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from sae_features import LatentBinarizer
from sae_features.evaluation import permutation
from sae_features.evaluation.linear_reading import FittedParts

PIPELINES = {
    "scaled": [MaxAbsScaler(), LogisticRegression(max_iter=1000)],
    "mixing columns": [Normalizer(), LogisticRegression(max_iter=1000)],
    "binarized": [LatentBinarizer(0.5), BernoulliNB()],
    "tree": [DecisionTreeClassifier(max_depth=4, random_state=0)],
}


def rows(n=60, width=12, seed=0):
    """Sparse features, of which one is never active and one the same for all."""
    generator = np.random.default_rng(seed)
    dense = generator.random((n, width)) * (generator.random((n, width)) < 0.3)
    dense[:, 3], dense[:, 5] = 0, 1
    return sp.csr_matrix(dense)


def classes(X, n_classes):
    """Some that depend on the first columns."""
    scores = X[:, :n_classes].toarray() + 0.2 * np.random.default_rng(1).random((X.shape[0], n_classes))
    return np.array(["art", "law", "sport"])[scores.argmax(axis=1)]


def parts_of(pipeline):
    *steps, (name, classifier) = pipeline.steps
    return FittedParts(None, tuple(steps), name, classifier)


def assert_is_sklearns(pipeline, X, dense, y, scoring=None, **options):
    expected = inspection.permutation_importance(pipeline, dense, y, scoring=scoring, **options)
    found = permutation.permutation_importance(parts_of(pipeline), X, y, scoring=scoring, **options)
    assert found.columns.tolist() == [c for c in range(12) if c != 3]
    np.testing.assert_allclose(
        found.mean, expected.importances_mean[found.columns], rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(found.std, expected.importances_std[found.columns], rtol=1e-6, atol=1e-9)
    assert (expected.importances_mean[3], found.mean[found.columns == 5]) == (0, 0)
    return found


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("steps", PIPELINES.values(), ids=PIPELINES)
@pytest.mark.parametrize("scoring", [None, "f1_macro", "neg_log_loss", "roc_auc_ovr"])
def test_it_is_scikit_learns_on_held_out_rows(steps, scoring, n_classes):
    train, test = rows(seed=0), rows(seed=1)
    pipeline = make_pipeline(*steps).fit(train, classes(train, n_classes))
    y = classes(test, n_classes)
    found = assert_is_sklearns(pipeline, test, test.toarray(), y, scoring, n_repeats=3, random_state=7)
    assert found.mean[:2].max() > 0.02


def test_scores_of_decision_functions():
    X = rows()
    pipeline = make_pipeline(LinearSVC()).fit(X, classes(X, 2))
    assert_is_sklearns(pipeline, X, X.toarray(), classes(X, 2), "roc_auc", n_repeats=2, random_state=0)


def test_dense_rows_and_sparse_arrays():
    X = rows()
    y = classes(X, 2)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X.toarray(), y)
    assert_is_sklearns(pipeline, X.toarray(), X.toarray(), y, n_repeats=2, random_state=0)
    pipeline = make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=1000)).fit(X, y)
    assert_is_sklearns(pipeline, sp.csr_array(X), X.toarray(), y, n_repeats=2, random_state=0)


def test_data_frames():
    frame = pd.DataFrame(rows().toarray(), columns=[f"latent_{i}" for i in range(12)])
    y = classes(rows(), 2)
    pipeline = make_pipeline(
        StandardScaler().set_output(transform="pandas"), LogisticRegression(max_iter=1000)
    )
    assert_is_sklearns(pipeline.fit(frame, y), frame, frame, y, n_repeats=2, random_state=0)


def test_blocks_change_nothing(monkeypatch):
    X = rows()
    y = classes(X, 3)
    parts = parts_of(make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=1000)).fit(X, y))
    whole = permutation.permutation_importance(parts, X, y, scoring="neg_log_loss")
    monkeypatch.setattr(permutation, "ENTRIES", 1)
    apart = permutation.permutation_importance(parts, X, y, scoring="neg_log_loss")
    np.testing.assert_allclose(apart.mean, whole.mean, rtol=1e-12)


def test_only_rows_that_change_are_predicted_again():
    X = rows()
    y = classes(X, 2)
    seen = []

    class Counting(LogisticRegression):
        def predict(self, X):
            seen.append(X.shape[0])
            return super().predict(X)

    parts = parts_of(make_pipeline(Counting().fit(X, y)))
    permutation.permutation_importance(parts, X, y, n_repeats=4)
    changing = X.getnnz(axis=0)
    changing[5] = 0  # the same for all
    assert seen[0] == 60
    assert sum(seen[1:]) <= 2 * 4 * changing.sum()
    assert sum(seen[1:]) < 4 * 12 * 60 / 2


def test_rows_are_left_as_they_are():
    X = rows()
    y = classes(X, 2)
    before = X.copy()
    permutation.permutation_importance(
        parts_of(make_pipeline(LogisticRegression(max_iter=1000)).fit(X, y)), X, y
    )
    assert (before != X).nnz == 0
