"""One method on one split: choices made inside the training part, figures of the test part."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sae_features.evaluation.classifiers import named_choices
from sae_features.evaluation.results import Predictions
from sae_features.evaluation.scores import scores
from sae_features.evaluation.splits import inner_folds

if TYPE_CHECKING:
    from sae_features.evaluation.classifiers import Classifier, Learner
    from sae_features.evaluation.methods import Method


class Fitted(NamedTuple):
    """A pipeline that was fitted on a training part."""

    pipeline: Pipeline
    """From rows of features (or items) to predictions."""
    chosen: dict[str, Any]
    """What was chosen."""
    validation: float | None
    """Mean macro-F1 of the inner folds with it; None where the training part was too small to choose."""


def learner_of(
    method: Method, classifier: Classifier, *, n_classes: int, n_components: int | None = None
) -> Learner:
    """Return what is fitted, the last of the method's own steps with so many components."""
    learner = classifier.learner(method, n_classes=n_classes)
    if n_components is not None:
        dict(learner.steps)[method.steps[-1][0]].set_params(n_components=n_components)
    return learner


def fit(
    learner: Learner, X: Any, codes: np.ndarray, together: np.ndarray, *, n_inner: int, seed: int
) -> Fitted:
    """Fit on a training part; scaling and strength are chosen by folds inside it.

    Parameters
    ----------
    learner : Learner
    X : rows of features, or a list of items
    codes : ndarray of int
        Class of each.
    together : ndarray of int
        Items with equal numbers stay on one side of the inner folds.
    n_inner : int
        Inner folds.
    seed : int
        Decides them.

    Returns
    -------
    Fitted
    """
    pipeline, grid = clone(Pipeline(learner.steps)), learner.grid  # folds share the learner
    folds = inner_folds(codes, together, n_inner, seed)
    if folds is None:  # nothing to choose by: the middle strength, as good a guess as any
        middle = {name: values[len(values) // 2] for name, values in grid.items() if name != "scale"}
        pipeline.set_params(**middle)
        _cap_components(pipeline, len(codes))
        with _quiet():
            pipeline.fit(X, codes)
        return Fitted(pipeline, named_choices(middle), None)
    _cap_components(pipeline, min(len(train) for train, _ in folds))
    search = GridSearchCV(pipeline, grid, scoring="f1_macro", cv=folds, error_score="raise")
    with _quiet():
        search.fit(X, codes)
    return Fitted(search.best_estimator_, named_choices(search.best_params_), float(search.best_score_))


def predict(
    fitted: Fitted, X: Any, positions: np.ndarray, codes: np.ndarray, n_classes: int
) -> Predictions:
    """Return what a fitted pipeline says of test items.

    Parameters
    ----------
    fitted : Fitted
    X : rows of features, or a list of items
    positions : ndarray of int
        Where they stand in the data set.
    codes : ndarray of int
        Their classes.
    n_classes : int
        Of the data set; a class that was not trained on gets the lowest score.
    """
    pipeline = fitted.pipeline
    if hasattr(pipeline, "predict_proba"):
        found = pipeline.predict_proba(X)
    else:
        found = pipeline.decision_function(X)
        found = np.stack([-found, found], axis=1) if found.ndim == 1 else found
    lowest = 0.0 if hasattr(pipeline, "predict_proba") else float(found.min()) - 1.0
    full = np.full((len(positions), n_classes), lowest, np.float32)
    full[:, pipeline.classes_] = found
    return Predictions(np.asarray(positions, np.int64), np.asarray(codes, np.int64), full)


def figures_of(predictions: Predictions, n_classes: int) -> dict[str, float | None]:
    """Return accuracy, macro-F1 and AUROC by name."""
    found = scores(predictions.truth, predictions.predicted, predictions.scores, n_classes=n_classes)
    return {"accuracy": found.accuracy, "macro_f1": found.macro_f1, "auroc": found.auroc}


def rows_at(X: Any, positions: np.ndarray) -> Any:
    """Return some rows of a matrix or items of a list."""
    return [X[i] for i in positions] if isinstance(X, list) else X[positions]


def active_of(X: Any) -> float | None:
    """Return the mean number of features of a row that are not 0; None of items."""
    if isinstance(X, list):
        return None
    is_sparse = bool(sp.issparse(X))
    n_nonzero = X.nnz if is_sparse else np.count_nonzero(X)
    return float(n_nonzero) / max(1, X.shape[0])


def width_of(X: Any) -> int | None:
    """Return the number of features; None of items."""
    return None if isinstance(X, list) else int(X.shape[1])


def _cap_components(pipeline: Pipeline, n_rows: int) -> None:
    """Let a projection have no more components than the smallest training part has rows."""
    for _, step in pipeline.steps:
        n_components = getattr(step, "n_components", None)
        if isinstance(n_components, int):
            step.set_params(n_components=max(1, min(n_components, n_rows)))


class _quiet(warnings.catch_warnings):  # noqa: N801 used as a statement
    """Fits of the largest C may stop before they have converged; validation judges them as they are."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore", ConvergenceWarning)
        return entered
