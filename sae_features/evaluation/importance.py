"""Which latents a classifier decides by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.latent_names import latent_labels
from sae_features.evaluation.linear_reading import read_linear, take_apart
from sae_features.evaluation.permutation import permutation_importance
from sae_features.parameters import check_choice, check_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.evaluation.linear_reading import LinearReading

METHODS = ("coefficients", "permutation")


def latent_importance(
    pipeline: Any,
    X: Any = None,
    y: Any = None,
    *,
    method: str = "coefficients",
    scoring: Any = None,
    n_repeats: int = 5,
    random_state: int = 0,
) -> list[dict[str, Any]]:
    """Return which latents a pipeline decides by, the most important first.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted (or a fitted search over one): an SAEFeaturizer or ActivationFeaturizer, then any steps
        and a classifier.  For ``"coefficients"`` the steps may be selectors, scalers and binarizers,
        and the classifier must be linear, of two or more classes.
    X : sequence of length (n_items,), optional
        Texts or images.  ``"coefficients"`` needs none, but cannot then tell how much a latent varies;
        ``"permutation"`` needs items that the classifier has not seen.
    y : array-like of shape (n_items,), optional
        Their classes, for ``"permutation"``.
    method : {"coefficients", "permutation"}, default="coefficients"
        ``"coefficients"`` undoes scaling and selection: a coefficient says what one unit more of the
        latent adds to the decision.  Times the latent's standard deviation over ``X`` it is comparable
        between latents.  ``"permutation"`` shuffles a latent among the items and says what the score
        loses: about ``2 * n_repeats`` predictions for each active latent of each item, and one call of
        the scorer for each latent that is ever active and each repeat; the model runs once an item.
    scoring : str or callable, optional
        For ``"permutation"``, as in scikit-learn; accuracy if not given.
    n_repeats : int, default=5
        How often each latent is shuffled.
    random_state : int, default=0
        Seed of the shuffling.

    Returns
    -------
    list of dict
        Sorted by ``abs(importance)``, of equal ones the lower latent first; for a data frame:
        ``pandas.DataFrame(…)``.

        - ``latent`` (int): its number in the SAE; of an ActivationFeaturizer, the dimension.
        - ``label`` (str or None): where the SAE has one.
        - ``class``: what a positive coefficient speaks for; of two classes the second.  None for
          ``"permutation"``, which is about all classes.
        - ``coefficient`` (float or None): on the scale of the featurizer's features; where a step
          binarizes, of a latent that is on.
        - ``importance`` (float): ``coefficient * standard deviation`` over ``X`` (without ``X`` the
          coefficient), or the mean loss of the score.
        - ``importance_std`` (float or None): standard deviation of that loss over the repeats.
        - ``active`` (float or None): share of the items in ``X`` at which it is not 0.

        Latents that make no difference are left out: those with a coefficient of 0, or that are
        nowhere active in ``X`` (for ``"permutation"``).

    Raises
    ------
    InvalidParameterError
        If a step is of a kind that the method cannot take; the message names the step.
    InvalidInputError
        If ``X`` or ``y`` is missing for ``"permutation"``, or they differ in length.
    InputTypeError
        If it is not a pipeline.

    Notes
    -----
    Two latents that say the same share their importance, whichever the method: shuffling one of them
    costs little.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sae_features import SAEFeaturizer
    >>> from sae_features.evaluation.importance import latent_importance
    >>> texts = ["a moving film", "a dull film", "moving and wise", "dull and empty"]
    >>> pipeline = make_pipeline(SAEFeaturizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0])
    >>> first = latent_importance(pipeline, texts)[0]
    >>> first["class"], first["active"]
    (1, 0.5)
    """
    check_choice("method", method, METHODS)
    if method == "coefficients":
        return _sorted(_of_coefficients(read_linear(pipeline), X))
    check_count("n_repeats", n_repeats)
    if X is None or y is None:
        missing = " and ".join(name for name, value in (("X", X), ("y", y)) if value is None)
        message = f"Got no {missing}; method='permutation' needs items that are held out, with classes."
        raise InvalidInputError(message)
    parts = take_apart(pipeline)
    if not hasattr(parts.classifier, "classes_"):
        kind = type(parts.classifier).__name__
        message = f"Got the step {parts.name!r} ({kind}), which is no classifier; expected one."
        raise InvalidParameterError(message)
    features = parts.featurizer.transform(X)
    if len(y) != features.shape[0]:
        raise InvalidInputError(
            f"Got {features.shape[0]} items and {len(y)} classes; expected one class each."
        )
    found = permutation_importance(
        parts, features, y, scoring=scoring, n_repeats=n_repeats, random_state=random_state
    )
    labels, active = latent_labels(parts.featurizer), _active(features)
    return _sorted(
        [
            _record(latent, labels, importance=mean, importance_std=std, active=float(active[latent]))
            for latent, mean, std in zip(*(column.tolist() for column in found), strict=True)
        ]
    )


def _of_coefficients(reading: LinearReading, X: Any) -> list[dict[str, Any]]:
    labels = latent_labels(reading.parts.featurizer)
    deviations, active = np.ones(len(reading.latents)), None
    if X is not None:
        values = reading.values(reading.parts.featurizer.transform(X))
        deviations, active = _deviations(values), _active(values)
    classes = reading.classes.tolist()
    records = []
    for output, weights in enumerate(reading.coefficients):
        speaks_for = classes[1] if len(classes) == 2 else classes[output]
        for column in np.flatnonzero(weights).tolist():
            weight = float(weights[column])
            records.append(
                _record(
                    int(reading.latents[column]),
                    labels,
                    speaks_for=speaks_for,
                    coefficient=weight,
                    importance=weight * float(deviations[column]),
                    active=None if active is None else float(active[column]),
                )
            )
    return records


def _record(
    latent: int,
    labels: Mapping[int, str],
    *,
    importance: float,
    active: float | None,
    speaks_for: Any = None,
    coefficient: float | None = None,
    importance_std: float | None = None,
) -> dict[str, Any]:
    return {
        "latent": latent,
        "label": labels.get(latent),
        "class": speaks_for,
        "coefficient": coefficient,
        "importance": importance,
        "importance_std": importance_std,
        "active": active,
    }


def _sorted(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(records, key=lambda record: (-abs(record["importance"]), record["latent"]))


def _active(values: Any) -> np.ndarray:
    """Return the share of rows in which each column is not 0."""
    return np.asarray((values != 0).sum(axis=0)).ravel() / values.shape[0]


def _deviations(values: Any) -> np.ndarray:
    """Return each column's standard deviation (of the population), in float64."""
    if isinstance(values, np.ndarray):
        return values.std(axis=0, dtype=np.float64)
    from sklearn.utils.sparsefuncs import mean_variance_axis

    return np.sqrt(mean_variance_axis(values.astype(np.float64), axis=0)[1])
