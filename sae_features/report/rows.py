"""Rows of results as pictures and tables need them: checked, grouped, the best by validation chosen."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sae_features.errors import InputTypeError, InvalidInputError, InvalidParameterError, expected_one_of

Row = Mapping[str, Any]
Rows = Sequence[Row]

METRICS: Final = {
    "macro_f1": "Macro-F1",
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "validation": "Macro-F1 in validation",
}
"""What scores are called; all lie between 0 and 1."""
KINDS: Final = {
    "sae": "SAE features",
    "random_sae": "random SAE",
    "states": "hidden states",
    "states_raw": "hidden states, raw",
    "states_standardised": "hidden states, standardised",
    "last_token": "last token's states",
    "pca": "PCA of hidden states",
    "projection": "random projection",
    "tfidf_word": "TF-IDF, words",
    "tfidf_char": "TF-IDF, letters",
    "bag_of_words": "bag of words",
    "pixels": "pixels",
    "chance": "chance",
}
"""What kinds of methods are called, in the order in which they are listed."""
SETTINGS: Final = {
    "in_language": "same language",
    "zero_shot": "zero-shot",
    "translated_train": "translated training items",
}
"""What settings of a transfer are called."""
FOLD: Final = ("dataset", "train_on", "test_on", "setting", "seed", "fold")
"""What tells apart the splits that all methods share."""
UNIT: Final = FOLD[:4]
"""What a score is a mean over the folds of."""
SHOTS: Final = re.compile(r"(few_shot|target_only)_(\d+)")
"""Settings with so many training items of the other language, beside those of the first or alone."""


def checked_rows(results: Any, *needed: str) -> list[dict[str, Any]]:
    """Return rows of results as dicts; what is NaN becomes None.

    Parameters
    ----------
    results : Results or sequence of mapping
        What has ``rows``, or rows.
    *needed : str
        Names of columns that must hold something in at least one row.

    Raises
    ------
    InputTypeError
        If it is neither.
    InvalidInputError
        If there are no rows, or a column that is needed is empty; the message says which are not.
    """
    rows = getattr(results, "rows", results)
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Sequence):
        message = f"Got results of type {type(results).__name__}; expected Results, or a list of dicts."
        raise InputTypeError(message)
    checked = []
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            message = f"Got {type(row).__name__} as row {position}; expected a dict."
            raise InputTypeError(message)
        checked.append({name: None if _is_nan(value) else value for name, value in row.items()})
    if not checked:
        raise InvalidInputError("Got no rows of results; expected at least one.")
    for name in needed:
        if all(row.get(name) is None for row in checked):
            known = sorted({key for row in checked for key, value in row.items() if value is not None})
            raise InvalidInputError(f"Got no {name!r} in any row; there are {', '.join(known)}.")
    return _with_classifiers(checked)


def without_controls(rows: Rows) -> list[Row]:
    """Return the rows with genuine labels."""
    return [row for row in rows if row.get("control") in (None, "none")]


def distinct(rows: Rows, name: str) -> list[Any]:
    """Return the different values of a column, less None, in order."""
    values = {row[name] for row in rows if row.get(name) is not None}
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=str)


def grouped(rows: Rows, *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows by the values of columns, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return groups


def is_transfer(rows: Rows) -> bool:
    """Tell whether something is tested elsewhere than it is trained."""
    return any(row.get("train_on") != row.get("test_on") for row in rows)


def kinds_of(rows: Rows) -> list[str]:
    """Return the kinds of methods, in the order in which they are listed."""
    found = {str(row.get("kind")) for row in rows}
    return [kind for kind in KINDS if kind in found] + sorted(found - set(KINDS))


def kind_name(kind: object) -> str:
    """Return what a kind is called."""
    return KINDS.get(str(kind), str(kind).replace("_", " "))


def shown_name(method: str) -> str:
    """Return what a method or a kind of methods is called."""
    return KINDS.get(method, method)


def metric_name(metric: str) -> str:
    """Return what a score is called."""
    return METRICS.get(metric, metric.replace("_", " "))


def setting_name(setting: object) -> str:
    """Return what a setting is called.

    Examples
    --------
    >>> setting_name("few_shot_16"), setting_name("in_language"), setting_name(None)
    ('few-shot, 16', 'same language', '')
    """
    if setting is None:
        return ""
    if match := SHOTS.fullmatch(str(setting)):
        return f"{'few-shot' if match[1] == 'few_shot' else 'target only'}, {match[2]}"
    return SETTINGS.get(str(setting), str(setting).replace("_", " "))


def setting_order(setting: object) -> tuple[int, int, str]:
    """Return what settings are sorted by: the same language first, then by the items of the other."""
    if match := SHOTS.fullmatch(str(setting)):
        return 2, int(match[2]), match[1]
    places = {"None": 0, "in_language": 0, "zero_shot": 1}
    return places.get(str(setting), 3), 0, str(setting)


def chosen_by_validation(rows: Rows, *within: str) -> list[Row]:
    """Return of each fold the row with the best validation score, which is how a user would choose.

    Choices are made in each fold by its own training part, so that no test score has a say in them.

    Parameters
    ----------
    rows : sequence of mapping
    *within : str
        Columns by which choices are kept apart.

    Returns
    -------
    list of mapping
        Of equals the first; all rows of a fold that has no validation scores.
    """
    chosen: list[Row] = []
    for group in grouped(rows, *FOLD, *within).values():
        scored = [row for row in group if row.get("validation") is not None]
        chosen += [max(scored, key=lambda row: row["validation"])] if scored else group
    return chosen


def of_method(rows: Rows, method: str, name: str = "method") -> list[Row]:
    """Return the rows of a method, or those that validation chooses among a kind of methods.

    Raises
    ------
    InvalidParameterError
        If there is no such method or kind.
    """
    named = [row for row in rows if row.get("method") == method]
    if named:
        return named
    of_kind = [row for row in rows if row.get("kind") == method]
    if of_kind:
        return chosen_by_validation(of_kind)
    methods = [str(value) for value in distinct(rows, "method")]
    raise InvalidParameterError(expected_one_of(name, method, [*kinds_of(rows), *methods]))


def best_method(rows: Rows) -> str | None:
    """Return the method with the best mean validation score; None if there are no such scores."""
    means = {
        str(method): sum(scores) / len(scores)
        for (method,), group in grouped(rows, "method").items()
        if (scores := [row["validation"] for row in group if row.get("validation") is not None])
    }
    return max(means, key=lambda name: means[name]) if means else None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _with_classifiers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Let methods have different names where several classifiers were fitted on them."""
    if len(distinct(rows, "classifier")) > 1:
        for row in rows:
            if row.get("classifier") is not None:
                row["method"] = f"{row.get('method')}, {row['classifier']}"
    return rows
