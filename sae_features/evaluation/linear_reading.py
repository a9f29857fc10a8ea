"""A fitted pipeline read as what it is: a weighted sum over the features that its featurizer gives."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.feature_selection import SelectorMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    Binarizer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils.validation import check_is_fitted

from sae_features.base import BaseFeaturizer
from sae_features.binarizer import LatentBinarizer
from sae_features.errors import InputTypeError, InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STEPS = (
    "selectors (LatentSelector, VarianceThreshold …), MaxAbsScaler, StandardScaler, RobustScaler, "
    "MinMaxScaler, LatentBinarizer and Binarizer"
)
N_TRIALS = 3
"""Random rows on which a classifier must decide as its coefficients say."""
TOLERANCE = 1e-3
"""Of float32 sums, relative to the sum of the sizes of what is added."""


@dataclass(frozen=True)
class FittedParts:
    """A fitted pipeline, taken apart.

    Attributes
    ----------
    featurizer : SAEFeaturizer or ActivationFeaturizer
    steps : tuple of (str, estimator)
        Transformers between featurizer and classifier, those of inner pipelines among them.
    name : str
        Of the classifier's step.
    classifier : estimator
    """

    featurizer: BaseFeaturizer
    steps: tuple[tuple[str, Any], ...]
    name: str
    classifier: Any

    def columns(self, features: Any, n_steps: int | None = None) -> Any:
        """Return what the first ``n_steps`` transformers (all, if not given) make of features."""
        for _, step in self.steps[:n_steps]:
            features = step.transform(features)
        return features


@dataclass(frozen=True)
class LinearReading:
    """A pipeline's decision as a sum: ``values @ coefficients.T + intercepts``.

    Attributes
    ----------
    parts : FittedParts
    n_steps : int
        The values are what these first steps give: none, or those up to the last one that binarizes.
    picked : ndarray of shape (m,), int64
        Their columns that reach the classifier.
    latents : ndarray of shape (m,), int64
        The featurizer's columns that these come from.
    coefficients : ndarray of shape (n_outputs, m), float64
        On the scale of the values; of two classes there is one output, which speaks for the second.
    intercepts : ndarray of shape (n_outputs,), float64
    classes : ndarray of shape (n_classes,)
    """

    parts: FittedParts
    n_steps: int
    picked: np.ndarray
    latents: np.ndarray
    coefficients: np.ndarray
    intercepts: np.ndarray
    classes: np.ndarray

    def values(self, features: Any) -> Any:
        """Return what the coefficients are multiplied by.

        Parameters
        ----------
        features : {csr_matrix, csr_array, ndarray} of shape (n, n_features)
            From ``parts.featurizer.transform``.

        Returns
        -------
        {csr_matrix, csr_array, ndarray} of shape (n, m)
        """
        columns = self.parts.columns(features, self.n_steps)
        return (np.asarray(columns) if hasattr(columns, "iloc") else columns)[:, self.picked]


def take_apart(pipeline: Any) -> FittedParts:
    """Return featurizer, transformers and classifier of a fitted pipeline.

    Parameters
    ----------
    pipeline : Pipeline
        Or a search over one (``GridSearchCV``), of which the best is taken.

    Raises
    ------
    InputTypeError
        If it is not a pipeline.
    InvalidParameterError
        If its first step is no featurizer, or it has no classifier.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    pipeline = getattr(pipeline, "best_estimator_", pipeline)
    if not isinstance(pipeline, Pipeline):
        message = (
            f"Got a {type(pipeline).__name__}; expected a fitted Pipeline whose first step is an "
            "SAEFeaturizer or an ActivationFeaturizer."
        )
        raise InputTypeError(message)
    check_is_fitted(pipeline)
    (first, featurizer), *steps = _flat(pipeline)
    if not isinstance(featurizer, BaseFeaturizer):
        message = (
            f"Got the step {first!r} ({type(featurizer).__name__}) first; expected an SAEFeaturizer or "
            "an ActivationFeaturizer."
        )
        raise InvalidParameterError(message)
    if not steps or not hasattr(steps[-1][1], "predict"):
        last = [first, *(name for name, _ in steps)][-1]
        message = f"Got a pipeline whose last step, {last!r}, does not predict; expected a classifier."
        raise InvalidParameterError(message)
    *transformers, (name, classifier) = steps
    return FittedParts(featurizer, tuple(transformers), name, classifier)


def read_linear(pipeline: Any) -> LinearReading:
    """Return the decision of a fitted pipeline as a weighted sum of latents.

    With ``z = factor * value + offset`` for each column that reaches the classifier, its decision
    ``w @ z + b`` is ``(w * factor) @ value + (w @ offset + b)``.

    Parameters
    ----------
    pipeline : Pipeline
        A featurizer, any of selectors, scalers and binarizers, and a linear classifier.  The values
        are the features that the featurizer gives or, where a step binarizes, its ones and zeros.

    Raises
    ------
    InvalidParameterError
        If a step is of another kind; the message names it.
    InputTypeError, sklearn.exceptions.NotFittedError
        As :func:`take_apart`.
    """
    parts = take_apart(pipeline)
    weights, intercepts, classes = _decision(parts.name, parts.classifier)
    first = parts.steps[0][1] if parts.steps else parts.classifier
    width = int(getattr(first, "n_features_in_", 0))
    n_steps, picked, latents = 0, np.arange(width), np.arange(width)
    factor, offset = np.ones(width), np.zeros(width)
    for number, (name, step) in enumerate(parts.steps, 1):
        if isinstance(step, SelectorMixin):
            kept = step.get_support(indices=True)
            latents, picked, factor, offset = (a[kept] for a in (latents, picked, factor, offset))
        elif isinstance(step, LatentBinarizer | Binarizer):
            n_steps, picked = number, np.arange(len(latents))
            factor, offset = np.ones(len(latents)), np.zeros(len(latents))
        else:
            by, plus = _affine(name, step)
            factor, offset = factor * by, offset * by + plus
    return LinearReading(
        parts, n_steps, picked, latents, weights * factor, intercepts + weights @ offset, classes
    )


def _flat(pipeline: Pipeline, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, chosen in pipeline.steps:
        step = getattr(chosen, "best_estimator_", chosen)
        if isinstance(step, Pipeline):
            yield from _flat(step, f"{prefix}{name}__")
        elif step is not None and step != "passthrough":
            yield prefix + name, step


def _affine(name: str, step: Any) -> tuple[Any, Any]:
    """Return by what a scaler multiplies each column, and what it adds."""
    if getattr(step, "clip", False):
        raise InvalidParameterError(_unsupported(name, step, "clips values"))
    if isinstance(step, MinMaxScaler):
        return step.scale_, step.min_
    centre = {StandardScaler: "mean_", RobustScaler: "center_", MaxAbsScaler: ""}.get(type(step))
    if centre is None:
        raise InvalidParameterError(_unsupported(name, step, "does not map column by column to a line"))
    factor = 1.0 if step.scale_ is None else 1.0 / step.scale_
    is_centred = getattr(step, "with_mean", False) or getattr(step, "with_centering", False)
    return factor, -getattr(step, centre) * factor if is_centred else 0.0


def _unsupported(name: str, step: Any, what: str) -> str:
    return (
        f"Got the step {name!r} ({type(step).__name__}), which {what}; expected {STEPS} between "
        "featurizer and classifier. Leave it out, or use "
        "latent_importance(…, method='permutation'), which takes any step."
    )


def _decision(name: str, classifier: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights (n_outputs, m), intercepts (n_outputs,) and classes of a linear classifier."""
    expected = (
        f"Got the step {name!r} ({type(classifier).__name__}), whose decision is not a weighted sum of "
        "its columns for each class; expected a linear classifier, such as LogisticRegression. Use "
        "latent_importance(…, method='permutation'), which takes any classifier."
    )
    needed = ("coef_", "intercept_", "classes_", "decision_function")
    if not all(hasattr(classifier, attribute) for attribute in needed):
        raise InvalidParameterError(expected)
    coefficients, classes = classifier.coef_, classifier.classes_
    coefficients = coefficients.toarray() if hasattr(coefficients, "toarray") else coefficients
    weights = np.atleast_2d(np.asarray(coefficients, np.float64))
    intercepts = np.broadcast_to(np.asarray(classifier.intercept_, np.float64), len(weights)).copy()
    n_outputs = 1 if len(classes) == 2 else len(classes)
    if np.ndim(classes) != 1 or len(weights) != n_outputs:
        raise InvalidParameterError(expected)
    if not _decides_so(classifier, weights, intercepts):
        raise InvalidParameterError(expected)
    return weights, intercepts, np.asarray(classes)


def _decides_so(classifier: Any, weights: np.ndarray, intercepts: Sequence[float] | np.ndarray) -> bool:
    """Tell whether the classifier's decisions are the sums that its coefficients say."""
    rows = np.random.default_rng(0).random((N_TRIALS, weights.shape[1]))
    with warnings.catch_warnings():  # of columns without names
        warnings.simplefilter("ignore")
        decided = np.asarray(classifier.decision_function(rows), np.float64)
    sizes = rows @ np.abs(weights.T) + np.abs(intercepts)
    misses = np.abs(decided.reshape(N_TRIALS, -1) - (rows @ weights.T + intercepts))
    return misses.shape == sizes.shape and bool((misses <= TOLERANCE * sizes).all())
