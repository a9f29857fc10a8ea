"""Accuracy, macro-F1 and AUROC of predictions, and the arrays that they are computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sae_features.errors import InputTypeError, InvalidInputError, InvalidParameterError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

METRICS = ("accuracy", "macro_f1", "auroc")


class Scores(NamedTuple):
    """How good predictions are, from 0 to 1."""

    accuracy: float
    """Share of items whose class was predicted."""
    macro_f1: float
    """Mean of the classes' F1; a class that is neither there nor predicted counts 0."""
    auroc: float | None
    """Area under the ROC curve, the mean of one class against the rest where there are several.

    None without probabilities, and where a class is absent or the only one.
    """


def scores(
    truth: ArrayLike, predicted: ArrayLike, probabilities: ArrayLike | None = None, *, n_classes: int
) -> Scores:
    """Return the scores of predictions, by scikit-learn's metrics.

    Parameters
    ----------
    truth, predicted : array-like of shape (n,), int
        Classes as codes from 0 to ``n_classes - 1``.
    probabilities : array-like of shape (n, n_classes), float, optional
        Only their order within each column matters: decision values will do.  Of two classes, the second
        column is looked at.
    n_classes : int
        Classes of the data set.  Macro-F1 is over all of them, also those that a small fold lacks, so
        that folds are comparable.

    Returns
    -------
    Scores

    Raises
    ------
    InputTypeError
        If codes are not integers.
    InvalidInputError
        If arrays do not fit together, are empty, or hold codes or values that cannot be.

    Examples
    --------
    >>> truth, predicted = [0, 0, 1, 1], [0, 0, 1, 0]
    >>> found = scores(truth, predicted, [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.7, 0.3]], n_classes=2)
    >>> found.accuracy, round(found.macro_f1, 3), found.auroc
    (0.75, 0.733, 1.0)
    >>> scores(truth, predicted, n_classes=3).auroc is None
    True
    """
    y = checked_codes("truth", truth, n_classes)
    codes = checked_codes("predicted", predicted, n_classes, n=y.size)
    columns = None
    if probabilities is not None:
        columns = checked_probabilities("probabilities", probabilities, n=y.size, n_classes=n_classes)
    items = Judged(y, codes, columns, n_classes)
    has_auroc = columns is not None and has_all_classes(y, n_classes)
    return Scores(
        accuracy=score_of(items, "accuracy"),
        macro_f1=score_of(items, "macro_f1"),
        auroc=score_of(items, "auroc") if has_auroc else None,
    )


def ranked_classes(n_classes: int) -> tuple[int, ...]:
    """Return the classes that an AUROC is the mean of: the second of two, else all."""
    return (1,) if n_classes == 2 else tuple(range(n_classes))


def has_all_classes(truth: np.ndarray, n_classes: int) -> bool:
    """Tell whether every class occurs, and there are at least two: else an AUROC is undefined."""
    return n_classes > 1 and bool(np.bincount(truth, minlength=n_classes).all())


def checked_codes(name: str, values: ArrayLike, n_classes: int, *, n: int | None = None) -> np.ndarray:
    """Return class codes as int64, (n,).

    Raises
    ------
    InputTypeError
        If they are not integers.
    InvalidInputError
        If they are not one-dimensional, not `n`, or not from 0 to ``n_classes - 1``.
    """
    codes = np.asarray(values)
    if codes.ndim != 1 or not codes.size or (n is not None and codes.size != n):
        wanted = "(n,), n ≥ 1" if n is None else f"({n},) as truth has"
        raise InvalidInputError(f"Got {name} of shape {codes.shape}; expected {wanted}.")
    if codes.dtype.kind not in "iub":
        message = f"Got {name} of type {codes.dtype}; expected integers, the codes of classes."
        raise InputTypeError(message)
    wrong = np.flatnonzero((codes < 0) | (codes >= n_classes))
    if wrong.size:
        message = (
            f"Got {name} with class {codes[wrong[0]]} at position {wrong[0]}; expected 0 to "
            f"{n_classes - 1} (n_classes={n_classes})."
        )
        raise InvalidInputError(message)
    return codes.astype(np.int64)


def checked_probabilities(
    name: str, values: ArrayLike, *, n: int, n_classes: int | None = None
) -> np.ndarray:
    """Return a column of scores for each class as float64, (n, n_classes).

    Raises
    ------
    InvalidInputError
        If the shape is another one, or a value is not finite.
    """
    columns = np.asarray(values, dtype=np.float64)
    width = "n_classes" if n_classes is None else n_classes
    fits = columns.ndim == 2 and columns.shape[0] == n and columns.shape[1] > 0
    if not fits or (n_classes is not None and columns.shape[1] != n_classes):
        raise InvalidInputError(f"Got {name} of shape {columns.shape}; expected ({n}, {width}).")
    wrong = np.flatnonzero(~np.isfinite(columns).all(axis=1))
    if wrong.size:
        message = f"Got {name} that are not finite at position {wrong[0]}; expected finite numbers."
        raise InvalidInputError(message)
    return columns


class Judged(NamedTuple):
    """Predictions to be judged by one metric, checked."""

    truth: np.ndarray
    """Class codes, int64, (n,)."""
    predicted: np.ndarray
    """Class codes, int64, (n,); of probabilities the largest, of equals the first."""
    columns: np.ndarray | None
    """Scores of the classes, float64, (n, n_classes), where they are looked at."""
    n_classes: int
    """Classes of the data set."""


def judged(
    truth: ArrayLike, given: Any, metric: str, n_classes: int | None, *, name: str = "given"
) -> Judged:
    """Return predictions, given as codes or as probabilities, as the metric takes them.

    Raises
    ------
    InvalidParameterError
        If codes come without `n_classes`, or for AUROC.
    InvalidInputError
        If arrays cannot be, or AUROC is asked for and a class is absent.
    """
    array = np.asarray(given)
    if array.ndim != 2:
        if metric == "auroc":
            message = f"Got {name} of shape {array.shape}; AUROC takes probabilities, (n, n_classes)."
            raise InvalidParameterError(message)
        if n_classes is None:
            message = f"Got {name} of shape {array.shape} and no n_classes; codes do not tell: pass it."
            raise InvalidParameterError(message)
        y = checked_codes("truth", truth, n_classes)
        return Judged(y, checked_codes(name, array, n_classes, n=y.size), None, n_classes)
    columns = checked_probabilities(name, array, n=np.asarray(truth).size, n_classes=n_classes)
    width = columns.shape[1]
    y = checked_codes("truth", truth, width)
    if metric != "auroc":
        return Judged(y, columns.argmax(axis=1), None, width)
    if not has_all_classes(y, width):
        absent = np.flatnonzero(np.bincount(y, minlength=width) == 0).tolist()
        message = (
            f"Got truth of {width} classes without class {absent}; AUROC is undefined there. Take more "
            "items, or another metric."
        )
        raise InvalidInputError(message)
    return Judged(y, columns.argmax(axis=1), columns, width)


def score_of(items: Judged, metric: str) -> float:
    """Return the metric of predictions that were checked for it.

    Examples
    --------
    >>> score_of(judged([0, 0, 1], [0, 1, 1], "accuracy", 2), "accuracy")
    0.666...
    """
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    truth, predicted, columns, n_classes = items
    if metric == "accuracy":
        return float(accuracy_score(truth, predicted))
    if metric == "macro_f1":
        labels = np.arange(n_classes)
        return float(f1_score(truth, predicted, labels=labels, average="macro", zero_division=0))
    if columns is None:
        raise InvalidParameterError("Got codes alone; AUROC takes probabilities, (n, n_classes).")
    areas = [roc_auc_score(truth == k, columns[:, k]) for k in ranked_classes(n_classes)]
    return float(np.mean(areas))
