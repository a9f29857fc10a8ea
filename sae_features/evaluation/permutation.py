"""Permutation importance on sparse rows: what a score loses where one column is shuffled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import check_scoring
from sklearn.utils.metaestimators import available_if

if TYPE_CHECKING:
    from collections.abc import Callable

    from sae_features.evaluation.linear_reading import FittedParts

ENTRIES: Final = 2**22
"""Values that are predicted from at a time."""


class PermutationImportance(NamedTuple):
    """Importance of columns.

    Attributes
    ----------
    columns : ndarray of shape (m,), int64
        Those that are ever active; the importance of all others is exactly 0.
    mean, std : ndarray of shape (m,), float64
        Of the score's loss over the repeats.
    """

    columns: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def permutation_importance(
    parts: FittedParts,
    features: Any,
    y: Any,
    *,
    scoring: Any = None,
    n_repeats: int = 5,
    random_state: int = 0,
) -> PermutationImportance:
    """Shuffle one feature at a time, and see what the score loses [1]_; no model runs.

    What scikit-learn's ``permutation_importance`` gives for the same seed, for sparse rows, too.  Only
    rows in which shuffling changes something are predicted again, so that it costs about
    ``2 * n_repeats`` predictions for each nonzero feature of an item, and one call of the scorer for
    each active column and repeat.

    Parameters
    ----------
    parts : FittedParts
        Transformers and classifier, which must decide on each row by itself.
    features : {csr_matrix, csr_array, ndarray, DataFrame} of shape (n, n_features)
        What the featurizer gives of held-out items.
    y : array-like of shape (n,)
        Their classes.
    scoring : str or callable, optional
        As in scikit-learn; accuracy if not given.
    n_repeats : int, default=5
    random_state : int, default=0

    Returns
    -------
    PermutationImportance

    References
    ----------
    .. [1] Breiman (2001). Random Forests. Machine Learning 45(1), 5-32, section 10.
    """
    n = features.shape[0]
    rows = features.to_numpy() if hasattr(features, "iloc") else features
    active = np.asarray((rows != 0).sum(axis=0)).ravel()
    columns = np.flatnonzero(active)
    by_column = rows.tocsc() if hasattr(rows, "tocsc") else rows
    scorer = check_scoring(parts.classifier, scoring=scoring)
    asked: dict[str, np.ndarray] = {}

    def respond(given: Any, method: str) -> np.ndarray:
        if hasattr(features, "iloc"):  # later steps know columns by name
            given = type(features)(given, columns=features.columns)
        return np.asarray(getattr(parts.classifier, method)(parts.columns(given)))

    def first(method: str) -> np.ndarray:
        return asked.setdefault(method, respond(rows, method))

    baseline = scorer(_Answering(parts.classifier, first), rows, y)
    orders = _orders(n, n_repeats, random_state)
    losses = np.zeros((len(columns), n_repeats))
    per_row = rows.nnz // n + 1 if hasattr(rows, "nnz") else rows.shape[1]
    for block in _blocks(np.minimum(2 * active[columns], n) * n_repeats * per_row):
        changes = [_changes(by_column, int(columns[at]), orders) for at in block]
        stacked = _stacked(rows, changes) if any(len(change.rows) for change in changes) else None
        answers = {} if stacked is None else {name: respond(stacked, name) for name in asked}
        done = 0
        for at, change in zip(block, changes, strict=True):
            for repeat in range(n_repeats):
                own = change.repeats == repeat
                if not own.any():
                    continue  # shuffled onto itself
                where = done + np.flatnonzero(own)
                patched = {name: values.copy() for name, values in asked.items()}
                for name, values in patched.items():
                    values[change.rows[own]] = answers[name][where]
                score = scorer(_Answering(parts.classifier, patched.__getitem__), rows, y)
                losses[at, repeat] = baseline - score
            done += len(change.rows)
    return PermutationImportance(columns, losses.mean(axis=1), losses.std(axis=1))


class _Changes(NamedTuple):
    """What shuffling one column changes."""

    column: int
    repeats: np.ndarray
    rows: np.ndarray
    values: np.ndarray


class _Answering(ClassifierMixin, BaseEstimator):
    """A classifier whose answers are known, as a scorer asks for them."""

    def __init__(self, classifier: Any, respond: Callable[[str], np.ndarray]) -> None:
        self.classifier = classifier
        self.respond = respond

    @property
    def classes_(self) -> np.ndarray:
        return self.classifier.classes_

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Any) -> Any:  # noqa: ARG002
        return self.respond("predict")

    @available_if(lambda self: hasattr(self.classifier, "predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:  # noqa: ARG002
        return self.respond("predict_proba")

    @available_if(lambda self: hasattr(self.classifier, "predict_log_proba"))  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Any:  # noqa: ARG002
        return self.respond("predict_log_proba")

    @available_if(lambda self: hasattr(self.classifier, "decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Any:  # noqa: ARG002
        return self.respond("decision_function")


def _orders(n: int, n_repeats: int, random_state: int) -> np.ndarray:
    """Return which row's value each row gets, (n_repeats, n): the same for all columns.

    As in scikit-learn, each repeat shuffles what the one before has shuffled.
    """
    seed = np.random.RandomState(random_state).randint(np.iinfo(np.int32).max + 1)
    generator = np.random.RandomState(seed)
    order, now = np.arange(n), np.arange(n)
    orders = np.empty((n_repeats, n), np.int64)
    for repeat in range(n_repeats):
        generator.shuffle(order)
        now = now[order]
        orders[repeat] = now
    return orders


def _blocks(entries: np.ndarray) -> list[np.ndarray]:
    """Return positions in groups of about as many entries as are predicted from at a time."""
    group = np.cumsum(entries) // ENTRIES
    return np.split(np.arange(len(entries)), np.flatnonzero(np.diff(group)) + 1)


def _changes(by_column: Any, column: int, orders: np.ndarray) -> _Changes:
    values = by_column[:, [column]]
    values = (values.toarray() if hasattr(values, "toarray") else values).ravel()
    shuffled = values[orders]
    repeats, changed = np.nonzero(shuffled != values)
    return _Changes(column, repeats, changed, shuffled[repeats, changed])


def _stacked(rows: Any, changes: list[_Changes]) -> Any:
    """Return all rows that change, one after the other, with the values that they get."""
    chosen = np.concatenate([change.rows for change in changes])
    values = np.concatenate([change.values for change in changes])
    columns = np.repeat([change.column for change in changes], [len(c.rows) for c in changes])
    stacked = rows[chosen]
    if isinstance(stacked, np.ndarray):
        stacked[np.arange(len(chosen)), columns] = values
        return stacked
    stacked.data[stacked.indices == np.repeat(columns, np.diff(stacked.indptr))] = 0
    places = (np.arange(len(chosen)), columns)
    stacked = stacked + type(stacked)((values, places), shape=stacked.shape)  # x + 0 is exact
    stacked.eliminate_zeros()
    return stacked
